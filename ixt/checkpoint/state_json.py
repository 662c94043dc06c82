"""What `state.json` of a checkpoint may hold, checked before anything believes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ixt.errors import CheckpointError
from ixt.files import read_json

STATE = "state.json"
FORMAT = 1


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Optimizer(_Part):
    parameters: dict[str, Any]
    groups: list[dict[str, Any]]


class _Data(_Part):
    digest: str
    num_images: int
    classes: dict[str, str]


class _Rows(_Part):
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class _State(_Part):
    """Types of what is there; only the step has to be."""

    step: int = Field(ge=0)
    epoch: int = 0
    epoch_ended: bool = False
    recipe: dict[str, dict[str, Any]] = {}
    base: dict[str, Any] | None = None
    class_names: list[str] = []
    metrics: dict[str, Any] = {}
    score: float | None = None
    optimizer: _Optimizer = _Optimizer(parameters={}, groups=[])
    scaler: dict[str, Any] | None = None
    machine: dict[str, Any] = {}
    data: dict[str, _Data] = {}
    rows: dict[str, _Rows] = {}
    ledger_format: int = 1
    from_scratch: bool | None = None


def read_state(folder: Path) -> Mapping[str, Any]:
    """The content of a checkpoint's `state.json`, everything in it of the right type.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or something in it is of a wrong type.
        CheckpointError: its format is newer than this version.
    """
    content = read_json(folder / STATE)
    if not isinstance(content, dict):
        raise ValueError(f"{STATE} is not an object")
    version = content.get("format")
    if type(version) is not int or version < 1:
        raise ValueError(f"{STATE}: format: is {version!r}, not a number from 1")
    if version > FORMAT:
        raise CheckpointError(
            f"{folder}: has format {version}, this version reads {FORMAT}; update ixt"
        )
    try:
        _State.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{STATE}: {key}: {first['msg']}") from None
    return content
