"""Heat maps of a fold's model: panels, comparison with known lesions, and whether the maps depend on the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from covidnet.base.errors import DataError
from covidnet.base.progress import progress_bar
from covidnet.callbacks.gradcam_panels import EmptyMaps, GradCamPanels, Mask, seeded_draw
from covidnet.data.collection.annotations import Annotations
from covidnet.data.loading.dataset import ImageDataset
from covidnet.evaluation.localisation import localisation_table
from covidnet.evaluation.sanity import sanity_table
from covidnet.feature_store.maps import MapStore, feature_maps
from covidnet.learning.module import ClassificationModule
from covidnet.models.classifier import Classifier
from covidnet.models.randomisation import Cascade, stages, with_random_head

log = logging.getLogger(__name__)

SEED = 0
"""The seed of a stage's first randomised network; later draws use the next ones. All folds use the same seeds, so that
they are compared with the same re-initialised networks."""

# Images whose maps are computed together.
_BATCH = 16

Heats = npt.NDArray[np.float32]


class Explanations:
    """Heat maps of one model on one part of its images, and tests of their value.

    Args:
        module: the selected model.
        images: the dataset of `rows`.
        rows: images with image_id, path, patient_id, label, width and height.
        method: of `covidnet.models.saliency.METHODS`.
        seed: of the draw of images.
        probabilities: (3,) the model's for each image, by image_id.
        annotations: masks and boxes of the images.
        store: returns the store of the backbone's maps for a re-initialised stage, or for the model's own backbone if
            that is None. None if maps are not stored because the backbone is trained.
        progress: whether a progress bar is drawn.
    """

    def __init__(
        self,
        module: ClassificationModule,
        images: ImageDataset,
        rows: pd.DataFrame,
        *,
        method: str,
        seed: int,
        probabilities: Mapping[str, npt.NDArray[np.floating]],
        annotations: Annotations,
        store: Callable[[str | None], MapStore] | None = None,
        progress: bool = True,
    ) -> None:
        self.module = module
        self.images = images
        self.rows = rows
        self.method = method
        self.seed = seed
        self.probabilities = probabilities
        self.annotations = annotations
        self.store = store
        self.progress = progress
        self.constant: dict[str, tuple[int, int]] = {}
        """The number of constant maps, and of all maps, by part of the work; filled as parts finish."""
        self._read: dict[int, dict[str, Mask]] = {}

    def panels(self, callback: GradCamPanels, folder: Path, caption: str, part: str = "unseen") -> list[Path]:
        """Draw the panels, with the outlines of known lesions.

        Args:
            callback: draws them.
            folder: where they go.
            caption: at the foot.
            part: the part of the split that the images belong to.
        """
        drawn = callback.draw(
            self.module, self.images, self.rows, folder, seed=self.seed, caption=caption,
            probabilities=self.probabilities,
            maps=(lambda chosen: self._maps(self.module.classifier, chosen)) if self._pooled(callback.method) else None,
            outline=lambda index: self._regions(index).get("lesion"),
            part=part,
        )  # fmt: skip
        self.constant["panels"] = callback.constant
        return drawn

    def localisation(self, count: int) -> pd.DataFrame | None:
        """Compare the maps of the images' true classes with known lesions and lungs.

        Args:
            count: images, spread evenly over the classes; 0 for none.

        Returns:
            The table of `covidnet.evaluation.localisation.localisation_table`; None if no image has known regions.
        """
        if not self.annotations:
            return None
        chosen = [index for index in self._chosen(count) if self._regions(index)]
        if not chosen:
            if count:
                log.warning("none of the images drawn for the comparison has a mask or a box")
            return None
        regions = [self._regions(index) for index in chosen]
        rows = self.rows.iloc[chosen]
        target = [self.module.classes.index(label) for label in rows["label"]]
        empty = EmptyMaps("where the maps lie")
        heats = self._heats(self.module.classifier, chosen, target, empty)
        self.constant[empty.part] = empty.report()
        return localisation_table(
            heats,
            [known.get("lesion") for known in regions],
            [known.get("lung") for known in regions],
            list(rows["image_id"]),
            list(rows["patient_id"]),
            list(rows["label"]),
        )

    def sanity(self, count: int, draws: int = 3) -> pd.DataFrame | None:
        """Compare the trained maps with those of a network re-initialised stage by stage, from head to first layer.

        Args:
            count: images, spread evenly over the classes; 0 for none, and at least 2 otherwise.
            draws: how often the whole network is re-initialised; the other stages are drawn once.

        Returns:
            The table of `covidnet.evaluation.sanity.sanity_table`, whose last stage has a row per image and draw; None
            with fewer than 2 images.
        """
        chosen = self._chosen(count)
        if len(chosen) < 2:
            return None
        # All maps explain the class predicted by the trained model.
        target = [int(self.probabilities[image_id].argmax()) for image_id in self.rows["image_id"].iloc[chosen]]
        own = EmptyMaps("sanity test, trained network")
        empty = EmptyMaps("sanity test, re-initialised networks", expected=True)
        trained = self._heats(self.module.classifier, chosen, target, own)
        names = stages(self.module.classifier)
        # The verdict rests on the fully re-initialised network. It is drawn several times, as one draw may be unlucky.
        todo = [(name, SEED) for name in names] + [(names[-1], SEED + draw) for draw in range(1, draws)]
        found: dict[str, list[Heats]] = {name: [] for name in names}
        # One seed has the same random head at every stage.
        random_heads = {seed: with_random_head(self.module.classifier, seed) for seed in {seed for _, seed in todo}}
        cascade = Cascade(self.module.classifier, SEED)
        with progress_bar(self.progress, unit="stages") as bar:
            for stage, seed in bar.track(todo, description="sanity test"):
                drawn = cascade if seed == SEED else Cascade(self.module.classifier, seed)
                found[stage].append(self._reinitialised_maps(chosen, target, stage, drawn, random_heads[seed], empty))
        for counted in (own, empty):
            self.constant[counted.part] = counted.report()
        of = self.rows.iloc[chosen]
        redrawn = {stage: np.stack(maps) for stage, maps in found.items()}
        return sanity_table(trained, redrawn, list(of["image_id"]), list(of["patient_id"]))

    def _reinitialised_maps(
        self,
        chosen: Sequence[int],
        target: Sequence[int],
        stage: str,
        drawn: Cascade,
        random_head: Classifier,
        empty: EmptyMaps,
    ) -> Heats:
        if not self._pooled(self.method) or self.store is None:
            return self._heats(drawn.down_to(stage), chosen, target, empty)
        # The first draw uses the name under which other runs stored their maps.
        kept = stage if drawn.seed == SEED else f"{stage} draw {drawn.seed}"
        maps = self._maps(random_head, chosen, kept, partial(drawn.down_to, stage))
        return self._heats(random_head, chosen, target, empty, maps)

    def _chosen(self, count: int) -> list[int]:
        classes = self.module.classes
        drawn = seeded_draw(self.rows["label"], -(-count // len(classes)), self.seed, classes)
        # One of each class in turn: if count is not a multiple of the classes, the last round is cut.
        places = [index for _, indices in drawn for index in indices]
        order = [(at, number) for number, (_, indices) in enumerate(drawn) for at in range(len(indices))]
        return [places[n] for n in sorted(range(len(places)), key=lambda n: order[n])][:count]

    def _heats(
        self,
        classifier: Classifier,
        chosen: Sequence[int],
        target: Sequence[int],
        empty: EmptyMaps,
        maps: Tensor | None = None,
    ) -> Heats:
        if maps is None and self._pooled(self.method):
            maps = self._maps(classifier, chosen)
        found = []
        for start in range(0, len(chosen), _BATCH):
            part = slice(start, start + _BATCH)
            if maps is None:
                images = torch.stack([self.images[index]["image"] for index in chosen[part]])
            else:
                # Only the maps are used; the images just give the size.
                side = self.images.fit.size
                images = torch.zeros(1, 1, 1, 1).expand(len(chosen[part]), classifier.spec.channels, side, side)
            images = images.to(self.module.device)
            given = None if maps is None else maps[part].to(self.module.device)
            names = list(self.rows["image_id"].iloc[list(chosen[part])])
            found.append(empty.compute(names, classifier, images, target[part], self.method, given))
        return np.concatenate(found)

    def _maps(
        self,
        classifier: Classifier,
        chosen: Sequence[int],
        stage: str | None = None,
        drawn: Callable[[], Classifier] | None = None,
    ) -> Tensor:
        if self.store is None:
            return feature_maps(classifier.eval().backbone, self.images, chosen)
        return self.store(stage).maps(self.images, chosen, lambda: (drawn() if drawn else classifier).backbone)

    def _pooled(self, method: str) -> bool:
        """Whether a method needs only the pooled maps."""
        return method != "gradient"

    def _regions(self, index: int) -> dict[str, Mask]:
        if index not in self._read:
            row = self.rows.iloc[index]
            shape = (int(row["height"]), int(row["width"]))
            try:
                self._read[index] = self.annotations.fitted(row["path"], shape, self.images.fit)
            except DataError as error:
                # The model is already trained: a bad mask must cost only its image, not the run.
                log.warning("%s; the image is treated as one without a mask", error)
                self._read[index] = {}
        return self._read[index]
