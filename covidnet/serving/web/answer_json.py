"""The result for one image as JSON of the REST endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.serving.facts import NOTICE
from covidnet.serving.web.pictures import heat_url, jpeg_url

if TYPE_CHECKING:
    import numpy.typing as npt

    from covidnet.data.loading.transforms import SquareFit
    from covidnet.data.reading.images import ImageFacts
    from covidnet.serving.answers import ImageAnswer
    from covidnet.serving.facts import ModelFacts


def answer_json(
    answer: ImageAnswer, facts: ImageFacts, preview: npt.NDArray[np.uint8], fit: SquareFit, model: ModelFacts
) -> dict[str, Any]:
    """The whole response for an image, except the seconds it took and the file's SHA-256.

    Args:
        answer: the model's answer.
        facts: of the file.
        preview: (h, w) uint8, the image as displayed.
        fit: how the image was made square for the network.
        model: facts about the model; its notes for readers of predictions and maps are included.

    Returns:
        Values for JSON. For a single model, the agreement and the standard deviation are null.
    """
    count = len(answer.members)
    several = count > 1
    heat = None
    if answer.heat is not None:
        heat = {
            "class": answer.prediction,
            "method": "gradcam",
            "empty": not np.any(answer.heat),
            "notes": model.map_notes(),
            "image": heat_url(answer.heat, fit, (preview.shape[0], preview.shape[1])),
        }
    return {
        "prediction": answer.prediction,
        "probabilities": _by_class(answer.classes, answer.probabilities),
        "calibrated": model.calibrated,
        "members": {
            "count": count,
            "agreement": float(answer.agreement) if several else None,
            "standard_deviation": _by_class(answer.classes, answer.spread) if several else None,
        },
        "quality": [{"code": flag.code, "text": flag.text} for flag in answer.flags],
        "image": {"width": facts.width, "height": facts.height, "mode": facts.mode},
        "preview": jpeg_url(preview),
        "heat": heat,
        "notes": model.notes(),
        "notice": NOTICE,
    }


def _by_class(classes: Sequence[str], values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(classes, values, strict=True)}
