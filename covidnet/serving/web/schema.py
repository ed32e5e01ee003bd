"""The answers of the REST endpoint, for its description in /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from covidnet.serving.facts import NOTICE

ByClass = dict[str, float]


class Members(BaseModel):
    """How far the models of an ensemble agree."""

    count: int = Field(description="models that predict together")
    agreement: float | None = Field(description="share of them that predict the same class; null for one model")
    standard_deviation: ByClass | None = Field(description="of their probabilities; null for one model")


class Quality(BaseModel):
    """One quality warning."""

    code: str
    text: str = Field(description="what is doubtful, and what to do about it")


class FilmFacts(BaseModel):
    """The film as it was decoded."""

    width: int
    height: int
    mode: str = Field(description="pixels as stored: Pillow's mode, or DICOM's photometric interpretation")


class Heat(BaseModel):
    """Where the evidence for a class lies."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str = Field(alias="class")
    method: str
    empty: bool = Field(description="whether no place has evidence")
    notes: list[str] = Field(
        description="how this model's maps did in their tests; empty where nothing speaks against them"
    )
    image: str = Field(description="PNG with transparency of the preview's size, as a data URL")


class Answer(BaseModel):
    """What is said of one film."""

    prediction: str
    probabilities: ByClass = Field(description="0..1 for each class; they sum to 1")
    calibrated: bool = Field(description="whether a temperature was fitted and applied")
    members: Members
    quality: list[Quality]
    film: FilmFacts
    preview: str = Field(description="grey JPEG of at most 768 pixels a side, as a data URL")
    heat: Heat | None = Field(description="null with heat=false, and where the engine draws no maps")
    notes: list[str] = Field(description="what has to be known of the model, such as that it was trained on phantoms")
    notice: str = Field(examples=[NOTICE])
    seconds: float = Field(description="from the complete upload to the answer")


class ClassFacts(BaseModel):
    """One class."""

    name: str
    colour: str = Field(description="in every figure, such as #0072b2")


class UploadLimits(BaseModel):
    """What may be sent."""

    max_megabytes: float
    max_megapixels: float
    min_side: int


class Model(BaseModel):
    """What is known of the model."""

    title: str
    classes: list[ClassFacts]
    facts: dict[str, Any]
    trained_on: str | None = Field(description="the training images, in words; null where the checkpoint does not tell")
    notes: list[str] = Field(description="what has to be known when a prediction is read")
    calibrated: bool
    explains: bool = Field(description="whether heat maps can be had")
    limits: UploadLimits
    card: str = Field(description="the model card, in Markdown")
    notice: str = Field(examples=[NOTICE])


class Health(BaseModel):
    """The server is up, or ready."""

    status: str = "ok"


class ErrorText(BaseModel):
    """What is wrong, and what to do."""

    code: str
    cause: str
    remedy: str


class Error(BaseModel):
    """An answer without a result."""

    error: ErrorText


_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": _FILE}, "required": ["file"]}

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One film: JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM. The type is told by the content.",
        "content": {"application/octet-stream": {"schema": _FILE}, "multipart/form-data": {"schema": _FORM}},
    }
}
"""The upload, as a body or as a form."""

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "no file, more than one, or a form that is not understood"},
    401: {"model": Error, "description": "the server asks for a token"},
    403: {"model": Error, "description": "a page of another site asks"},
    408: {"model": Error, "description": "the upload takes too long, or comes too slowly"},
    413: {"model": Error, "description": "the file is too large"},
    415: {"model": Error, "description": "the body is compressed, or a multipart body that is no form"},
    422: {"model": Error, "description": "the file is no film that can be used; the cause says why"},
    429: {"model": Error, "description": "too many requests of one address; Retry-After says how long to wait"},
    500: {"model": Error, "description": "the server failed"},
    503: {
        "model": Error,
        "description": "too many images wait, no answer in time, short of memory, or closing; see Retry-After",
    },
}
"""What else /v1/predict answers."""
