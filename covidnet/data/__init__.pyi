from .collection.prepared import PreparedDataset as PreparedDataset
from .collection.prepared import prepare_dataset as prepare_dataset
from .collection.prepared import prepare_folder as prepare_folder
from .folds.splits import balanced_folds as balanced_folds
from .folds.splits import fold_roles as fold_roles
from .folds.splits import groups_of as groups_of
from .loading.augment import FixedCopies as FixedCopies
from .loading.augment import Operators as Operators
from .loading.datamodule import FoldDataModule as FoldDataModule
from .loading.dataset import FeatureDataset as FeatureDataset
from .loading.dataset import ImageDataset as ImageDataset
from .loading.transforms import Normalise as Normalise
from .loading.transforms import SquareFit as SquareFit
from .phantoms.phantom import PhantomImage as PhantomImage
from .phantoms.phantom import draw_image as draw_image
from .phantoms.phantom import write_phantoms as write_phantoms
from .reading.images import ImageFacts as ImageFacts
from .reading.images import Radiograph as Radiograph
from .reading.images import read_image as read_image
from .reading.images import read_radiograph as read_radiograph
from .recognition.overlap import find_copies as find_copies
from .recognition.overlap import find_overlap as find_overlap

__all__ = [
    "FeatureDataset",
    "FixedCopies",
    "FoldDataModule",
    "ImageDataset",
    "ImageFacts",
    "Normalise",
    "Operators",
    "PhantomImage",
    "PreparedDataset",
    "Radiograph",
    "SquareFit",
    "balanced_folds",
    "draw_image",
    "find_copies",
    "find_overlap",
    "fold_roles",
    "groups_of",
    "prepare_dataset",
    "prepare_folder",
    "read_image",
    "read_radiograph",
    "write_phantoms",
]
