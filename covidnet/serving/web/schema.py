"""The responses of the REST API, for its description in /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from covidnet.serving.facts import NOTICE

ByClass = dict[str, float]


class Members(BaseModel):
    """How far the models of an ensemble agree."""

    count: int = Field(description="models that predict together")
    agreement: float | None = Field(description="share of the models that predict this class; null for one model")
    standard_deviation: ByClass | None = Field(description="of their probabilities; null for one model")


class Quality(BaseModel):
    """One quality warning."""

    code: str
    text: str = Field(description="the problem, and what to do about it")


class UploadFacts(BaseModel):
    """The image as it was decoded."""

    width: int
    height: int
    mode: str = Field(description="pixels as stored: Pillow's mode, or DICOM's photometric interpretation")


class Heat(BaseModel):
    """Where the evidence for a class lies."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str = Field(alias="class")
    method: str
    empty: bool = Field(description="whether no place has evidence")
    notes: list[str] = Field(description="problems that the tests of this model's maps found; empty if there are none")
    image: str = Field(description="transparent PNG of the preview's size, as a data URL")


class Answer(BaseModel):
    """The result for one image."""

    prediction: str
    probabilities: ByClass = Field(description="0..1 for each class; they sum to 1")
    calibrated: bool = Field(description="whether a temperature was fitted and applied")
    members: Members
    quality: list[Quality]
    image: UploadFacts
    preview: str = Field(description="grey JPEG of at most 768 pixels a side, as a data URL")
    heat: Heat | None = Field(description="null with heat=false, or if the model draws no maps")
    notes: list[str] = Field(description="caveats about the model, such as that it was trained on phantoms")
    notice: str = Field(examples=[NOTICE])
    sha256: str = Field(description="of the file, in hexadecimal")
    seconds: float = Field(description="from the complete upload to the answer")


class ClassFacts(BaseModel):
    """One class."""

    name: str
    colour: str = Field(description="its colour in every figure, such as #0072b2")


class UploadLimits(BaseModel):
    """Limits on uploads."""

    max_megabytes: float
    max_megapixels: float
    min_side: int


class Model(BaseModel):
    """Facts about the model."""

    title: str
    classes: list[ClassFacts]
    facts: dict[str, Any]
    trained_on: str | None = Field(description="the training data in words; null if the checkpoint does not record it")
    notes: list[str] = Field(description="caveats for readers of a prediction")
    calibrated: bool
    explains: bool = Field(description="whether heat maps are available")
    limits: UploadLimits
    card: str = Field(description="the model card, in Markdown")
    notice: str = Field(examples=[NOTICE])


class Health(BaseModel):
    """The server is up, or ready."""

    status: str = "ok"


class Item(BaseModel):
    """One image of the worklist."""

    number: int = Field(description="grows; an image that changed gets a new one")
    key: str = Field(description="stays the same for a path")
    name: str = Field(description="of the file, without its folder")
    sha256: str | None = Field(description="of the file; null if it was refused")
    prediction: str | None = None
    probabilities: ByClass | None = None
    quality: list[Quality] | None = None
    refused: dict[str, str] | None = Field(description="cause and remedy, if the image was refused")
    thumbnail: str | None = Field(description="grey JPEG, as a data URL")
    verdict: str | None = Field(description="of the reader who asks")
    remark: str


class Items(BaseModel):
    """The worklist."""

    total: int = Field(description="images in the folder")
    done: int = Field(description="of them predicted or refused")
    items: list[Item]
    reader: str | None = Field(description="the user who is logged in, whose verdicts these are; null without users")


class Verdict(BaseModel):
    """What a reader says about an image."""

    sha256: str = Field(description="of the file, from its answer")
    reader: str
    verdict: str = Field(description="a class, or unsure")
    remark: str = ""
    saw_model: bool = Field(description="whether the model's result was visible before")
    name: str = Field("", description="of an upload; an image of the folder has its path")


class ErrorText(BaseModel):
    """The cause of an error, and what to do."""

    code: str
    cause: str
    remedy: str


class Error(BaseModel):
    """An error response."""

    error: ErrorText


_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": _FILE}, "required": ["file"]}

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image: JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM, detected by its content.",
        "content": {"application/octet-stream": {"schema": _FILE}, "multipart/form-data": {"schema": _FORM}},
    }
}
"""The upload, as a body or as a form."""

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "no file, more than one, or a malformed form"},
    401: {"model": Error, "description": "the server requires a login"},
    403: {"model": Error, "description": "the request comes from another site"},
    408: {"model": Error, "description": "the upload takes too long"},
    413: {"model": Error, "description": "the file is too large"},
    415: {"model": Error, "description": "the body is compressed, or multipart but not form-data"},
    422: {"model": Error, "description": "the file is not a usable image; see the cause"},
    429: {
        "model": Error,
        "description": "too many requests or failed logins from one address; see Retry-After",
    },
    500: {"model": Error, "description": "the server failed"},
    503: {
        "model": Error,
        "description": "too many images are waiting, a timeout, short of memory, or closing; see Retry-After",
    },
}
"""The error responses of /v1/predict."""
