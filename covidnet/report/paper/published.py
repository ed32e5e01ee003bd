"""The numbers that the paper prints, table by table, and their inconsistencies.

Every rate is a fraction of 1; None is a cell that the paper leaves empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A publication.

    Args:
        authors: as cited.
        title: of the work.
        year: of the version that the paper cites; None if the paper gives none.
        doi: without the resolver's address; None if unknown.
        arxiv: the identifier; None if there is none.
        reference: its number in the paper's list; None if it is not listed.
    """

    authors: str
    title: str
    year: int | None = None
    doi: str | None = None
    arxiv: str | None = None
    reference: int | None = None


PAPER = Source(
    "Alister Luiz, Hani Ragab, Kayvan Karim, Hadj Batatia",
    "A Deep Learning Method for COVID-19 Detection from X-ray Scans",
)
"""The paper whose tables are repeated here. Our copy has no DOI and no year."""

SOURCES: Mapping[str, Source] = {
    "Ghoshal": Source(
        "Ghoshal, Tucker",
        "Estimating uncertainty and interpretability in deep learning for coronavirus (COVID-19) detection",
        2020,
        arxiv="2003.10769",
        reference=9,
    ),
    "Zhang": Source(
        "Zhang, Xie, Li, Shen, Xia",
        "COVID-19 screening on chest X-ray images using deep learning based anomaly detection",
        2020,
        arxiv="2003.12338",
        reference=32,
    ),
    "Narin": Source(
        "Narin, Kaya, Pamuk",
        "Automatic detection of coronavirus disease (COVID-19) using X-ray images and deep convolutional neural "
        "networks",
        2020,
        doi="10.1007/s10044-021-00984-y",
        arxiv="2003.10849",
        reference=20,
    ),
    "Wang": Source(
        "Wang, Lin, Wong",
        "COVID-Net: a tailored deep convolutional neural network design for detection of COVID-19 cases from chest "
        "X-ray images",
        2020,
        doi="10.1038/s41598-020-76550-z",
        reference=29,
    ),
    "Karakanis": Source(
        "Karakanis, Leontidis",
        "Lightweight deep learning models for detecting COVID-19 from chest X-ray images",
        2021,
        doi="10.1016/j.compbiomed.2020.104181",
        reference=14,
    ),
    "Shi": Source(
        "Shi, Wang, Shi, Wu, Wang, Tang, He, Shi, Shen",
        "Review of artificial intelligence techniques in imaging data acquisition, segmentation and diagnosis for "
        "COVID-19",
        2020,
        doi="10.1109/RBME.2020.2987975",
        reference=26,
    ),
    "RT-PCR": Source(
        "Infectious Diseases Society of America", "the study that section 4 names, not in the list of references"
    ),
}
"""The works that the tables cite. Table 3 is taken from Shi et al."""

EXPLAINING: Mapping[str, Source] = {
    "gradcam": Source(
        "Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra",
        "Grad-CAM: visual explanations from deep networks via gradient-based localization",
        2017,
        doi="10.1109/ICCV.2017.74",
        reference=25,
    ),
    "gradcam++": Source(
        "Chattopadhay, Sarkar, Howlader, Balasubramanian",
        "Grad-CAM++: generalized gradient-based visual explanations for deep convolutional networks",
        2018,
        doi="10.1109/WACV.2018.00097",
    ),
    "cam": Source(
        "Zhou, Khosla, Lapedriza, Oliva, Torralba",
        "Learning deep features for discriminative localization",
        2016,
        doi="10.1109/CVPR.2016.319",
        reference=34,
    ),
    "gradient": Source(
        "Simonyan, Vedaldi, Zisserman",
        "Deep inside convolutional networks: visualising image classification models and saliency maps",
        2014,
        arxiv="1312.6034",
    ),
    "eigencam": Source(
        "Muhammad, Yeasin",
        "Eigen-CAM: class activation map using principal components",
        2020,
        doi="10.1109/IJCNN48605.2020.9206626",
    ),
    "pointing": Source(
        "Zhang, Bargal, Lin, Brandt, Shen, Sclaroff",
        "Top-down neural attention by excitation backprop",
        2018,
        doi="10.1007/s11263-017-1059-x",
    ),
    "iou": Source(
        "Otsu", "A threshold selection method from gray-level histograms", 1979, doi="10.1109/TSMC.1979.4310076"
    ),
    "sanity": Source(
        "Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim", "Sanity checks for saliency maps", 2018, arxiv="1810.03292"
    ),
}
"""Sources of the heat map methods, by the setting ``explain.method``, and of their tests."""

TABLE3: Mapping[str, Mapping[str, str | float | int | None]] = {
    "Ghoshal": {
        "method": "CNN", "covid19": 70, "bacterial": None, "viral": None, "normal": None,
        "accuracy": 0.929, "sensitivity": 0.857, "specificity": 0.994, "f1": 0.750,
    },
    "Zhang": {
        "method": "ResNet", "covid19": 70, "bacterial": None, "viral": None, "normal": 1008,
        "accuracy": 0.960, "sensitivity": 0.960, "specificity": 0.707, "f1": 0.735,
    },
    "Narin": {
        "method": "ResNet50", "covid19": 50, "bacterial": None, "viral": 50, "normal": None,
        "accuracy": 0.980, "sensitivity": 0.918, "specificity": 0.966, "f1": 0.835,
    },
    "Wang": {
        "method": "CNN", "covid19": 45, "bacterial": 931, "viral": 660, "normal": 1203,
        "accuracy": 0.835, "sensitivity": 0.910, "specificity": 0.995, "f1": 0.947,
    },
    "Karakanis": {
        "method": "ResNet8", "covid19": 175, "bacterial": 100, "viral": None, "normal": 100,
        "accuracy": 0.983, "sensitivity": 0.993, "specificity": 0.981, "f1": 0.991,
    },
}  # fmt: skip
"""Table 3: the literature, with the number of images of each class."""

_PER_CLASS = {"images": 572, "train": 468, "train_augmented": 1070, "test": 52, "unseen": 52}

TABLE4: Mapping[str, Mapping[str, int]] = {name: dict(_PER_CLASS) for name in ("COVID-19", "Normal", "Pneumonia")}
"""Table 4: images of each class and part."""

TABLE5: Mapping[str, Mapping[str, float]] = {
    "COVID-19": {"sensitivity": 0.977, "specificity": 0.989, "f1": 0.977},
    "Normal": {"sensitivity": 0.927, "specificity": 0.968, "f1": 0.931},
    "Pneumonia": {"sensitivity": 0.935, "specificity": 0.963, "f1": 0.930},
}
"""Table 5: each class against the other two."""

ACCURACY = 0.946
"""The accuracy in section 4, which belongs to Table 5."""

TABLE6: Mapping[str, Mapping[str, float]] = {
    "with": {"accuracy": 0.946, "sensitivity": 0.946, "specificity": 0.973},
    "without": {"accuracy": 0.9384, "sensitivity": 0.940, "specificity": 0.960},
}
"""Table 6: with and without augmentation."""

TABLE7: Mapping[str, Mapping[str, float | None]] = {
    "Our approach": {"accuracy": 0.985, "sensitivity": 0.977, "specificity": 0.989},
    "RT-PCR": {"accuracy": None, "sensitivity": 0.842, "specificity": 0.989},
    "CNN": {"accuracy": 0.939, "sensitivity": 0.852, "specificity": 0.982},
    "Narin et al. (ResNet-50)": {"accuracy": 0.970, "sensitivity": 0.911, "specificity": 0.997},
}
"""Table 7: COVID-19 against the other two classes, for each approach."""

APPROACHES: Mapping[str, str] = {
    "densenet121": "Our approach",
    "cnn": "CNN",
    "resnet50": "Narin et al. (ResNet-50)",
}
"""The column of Table 7 that a model of ours (the setting ``model.name``) repeats."""


def inconsistencies() -> dict[str, tuple[str, ...]]:
    """The inconsistencies of the published tables, one or two sentences each.

    Returns:
        Sentences by table, ``Table 3`` to ``Table 7``, and by ``Method`` for what the text leaves open.

    Example:
        >>> list(inconsistencies())
        ['Table 3', 'Table 4', 'Table 5', 'Table 6', 'Table 7', 'Method']
    """
    return dict(_INCONSISTENCIES)


_INCONSISTENCIES = {
    "Table 3": (
        "Zhang: a sensitivity of 96.0% on 70 images and a specificity of 70.7% on 1,008 give an accuracy of 72.3%, "
        "not 96.0%.",
        "Narin: on 50 images against 50 an accuracy is the mean of sensitivity (91.8%) and specificity (96.6%), "
        "which is 94.2%, not 98.0%; and section 2.2 says that the other 50 were normal images, but the table says "
        "viral pneumonia.",
        "Ghoshal: the sensitivity of 85.7% is, in section 2.2, the accuracy before Bayesian inference.",
    ),
    "Table 4": (
        "1,070 is not a multiple of 468, so the three operators were not applied to every image equally; the paper "
        "does not say which images were copied.",
        "Section 3.2 counts 2,583 normal images; others who use the same Kaggle set count 1,583 (6,432 files in all).",
        "The paper says that only posterior-anterior images are used, but the Kaggle files give no view, and their "
        "normal and pneumonia images are anterior-posterior images of children aged 1 to 5.",
    ),
    "Table 5": (
        "With 520 images of each class the sensitivities imply 12 + 38 + 34 = 84 false negatives, and the "
        "specificities 11 + 33 + 38 or 39 = 82 or 83 false positives. Every false negative is a false positive of "
        "another class, so the two sums must be equal; one or two images are missing.",
        "COVID-19: 12 false negatives and 11 false positives give an F1 of 97.8%, not 97.7%.",
    ),
    "Table 6": (
        "With equally many images of each class the mean sensitivity is the accuracy: without augmentation 93.84% and "
        "94.0% cannot both be right, and the specificity would be 96.9%, not 96.0%.",
        "The gain by augmentation, 94.6% against 93.84%, is 12 of 1,560 images, which is within the 95% interval of "
        "the accuracy itself (93.4% to 95.6%, Wilson). The paper does not test the difference.",
        "The row with augmentation equals the mean of Table 5, so it is for the ten test folds; the paper prints no "
        "result on the unseen fold.",
    ),
    "Table 7": (
        "Narin: with two other images per COVID-19 image, a sensitivity of 91.1% and a specificity of 99.7% "
        "give an accuracy of 96.8%, not 97.0%.",
        "RT-PCR has the same specificity as the paper's approach, 98.9%: a tie, not a win; and it was measured on "
        "other patients, so the two columns are not a comparison on the same cases.",
    ),
    "Method": (
        "The eleventh fold selects the best of ten models, yet is called unseen. At an accuracy of 94.6% on 156 images "
        "the best of ten equally good models with independent errors scores 97.2% on average, 2.6 points too high; "
        "correlated models add less.",
        "No fold is left for validation, yet the learning rate, the end of training and the best model are selected by "
        "a monitored loss. If that is the loss on the test fold, every number of Tables 5 to 7 is optimistic.",
        "The paper does not say whether images of one patient may be in several folds.",
    ),
}
