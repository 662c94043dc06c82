"""Devices by name, with their published peaks (`devices.yaml`), or from a file of the user's."""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ixt.bench.results import Part
from ixt.errors import EngineError
from ixt.files import read_regular, reason

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an activation."""

_FILE = Path(__file__).with_name("devices.yaml")
Positive = Annotated[float, Field(gt=0.0)]


class Device(Part):
    """One accelerator's published peaks; rates are dense, without structured sparsity."""

    model_config = ConfigDict(strict=True)

    name: str
    """What `find_device` takes."""
    fp32_tflops: Positive
    """IEEE fp32 on the CUDA cores, in 1e12 FLOP/s; depthwise convolutions run there."""
    bandwidth_gb_per_s: Positive
    """Memory bandwidth, in 1e9 bytes/s."""
    memory_gib: Positive
    """Memory size as sold; the driver keeps a little of it."""
    tf32_tflops: Positive | None = None
    """TF32 peak on tensor cores, in 1e12/s; None where the device has none of that type."""
    bf16_tflops: Positive | None = None
    """bf16 peak on tensor cores, in 1e12/s, accumulating in fp32."""
    fp16_tflops: Positive | None = None
    """fp16 peak on tensor cores, in 1e12/s, accumulating in fp32."""
    power_w: Positive | None = None
    """Board power, in watts."""
    link: str = "PCIe 4 x16"
    """The fastest link between two of them in one machine."""
    link_gb_per_s: Positive = 31.5
    """Bandwidth of that link in one direction, in 1e9 bytes/s."""
    source: str = "given by the user"
    """Where the numbers come from."""

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Memory bandwidth, in bytes/s."""
        return self.bandwidth_gb_per_s * 1e9

    def peak_flops(self, precision: Precision) -> float:
        """Dense peak of a precision, in FLOP/s.

        Raises:
            EngineError: the device has no such precision.
        """
        peaks = {name: getattr(self, f"{name}_tflops") for name in ELEMENT_BYTES}
        if peaks[precision] is None:
            has = [name for name, tflops in peaks.items() if tflops is not None]
            raise EngineError(f"{self.name}: has no {precision}; it has {', '.join(has)}")
        return float(peaks[precision] * 1e12)


def find_device(name: str) -> Device:
    """A device by name, by the driver's name for it, or from a YAML file.

    Args:
        name: h100, a100-40gb, ...; what `torch.cuda.get_device_name` says, such as
            NVIDIA H100 80GB HBM3; the path of a file for `read_device`; or the fields themselves,
            as fp32_tflops=67,bandwidth_gb_per_s=3350,memory_gib=80.

    Raises:
        EngineError: no such device; the message names near ones.
    """
    if name.endswith((".yaml", ".yml")):
        return read_device(Path(name))
    if "=" in name:
        return _device({"name": "given device", **_inline(name)}, name)
    names = _names()
    key = _key(name)
    if key not in names:
        near = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
        near = near or [device.name for device in known_devices()]
        raise EngineError(
            f"{name}: not a known device; there are {', '.join(near)}; "
            f"or give a YAML file with {', '.join(_required())}, "
            f"or {','.join(f'{field}=...' for field in _required())} in place of a name"
        )
    return names[key]


def known_devices() -> tuple[Device, ...]:
    """The devices that have a name here."""
    return tuple(dict.fromkeys(_names().values()))


def read_device(path: Path) -> Device:
    """A device from a YAML file of `Device`'s fields; the name defaults to the file's.

    Raises:
        EngineError: the file cannot be read, or a field is missing, unknown or not positive.
    """
    try:
        data = YAML(typ="safe", pure=True).load(read_regular(path, 2**20).decode("utf-8"))
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        raise EngineError(f"{path}: cannot be read: {reason(error)}") from error
    if not isinstance(data, dict):
        raise EngineError(f"{path}: holds no fields; give {', '.join(_required())}")
    return _device({"name": path.stem, **data}, str(path))


def _inline(text: str) -> dict[str, float | str]:
    """The fields of `name=number,...`; what is no number is left for `_device` to refuse."""
    row: dict[str, float | str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        try:
            row[key.strip()] = float(value)
        except ValueError:
            row[key.strip()] = value.strip()
    return row


def _device(row: dict[str, Any], where: str) -> Device:
    try:
        return Device(**{str(key): value for key, value in row.items() if value is not None})
    except ValidationError as error:
        # An unknown field first: a required one is missing where its name is misspelt.
        wrong = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")[0]
    key, known = str(wrong["loc"][0]), list(Device.model_fields)
    if wrong["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1)
        raise EngineError(f"{where}: {key}: unknown; the fields are {', '.join(near or known)}")
    wanted = "a text" if wrong["type"] == "string_type" else "a number above 0"
    raise EngineError(f"{where}: {key}: is {row.get(key)!r}; give {wanted}")


def _required() -> list[str]:
    fields = Device.model_fields.items()
    return [name for name, field in fields if field.is_required() and name != "name"]


@cache
def _names() -> dict[str, Device]:
    rows = YAML(typ="safe", pure=True).load(_FILE.read_text(encoding="utf-8"))
    names: dict[str, Device] = {}
    for name, row in rows.items():
        others = [*row.pop("aliases"), *row.pop("reported_as")]
        device = _device({"name": name, **row}, f"{_FILE.name}: {name}")
        names |= {_key(other): device for other in (name, *others)}
    return names


def _key(name: str) -> str:
    """One spelling of a name: no vendor, lower case, words joined by dashes."""
    words = re.split(r"[\s_-]+", name.strip().lower())
    return "-".join(word for word in words if word not in ("nvidia", "tesla"))
