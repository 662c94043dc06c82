"""Devices by name, with their published peaks (`devices.yaml`), or from a file of the user's."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ixt.errors import EngineError
from ixt.files import read_regular, reason

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an activation."""

_FILE = Path(__file__).with_name("devices.yaml")
_OPTIONAL = ("tf32_tflops", "bf16_tflops", "fp16_tflops", "power_w")
_TEXTS = ("name", "link", "source")


@dataclass(frozen=True)
class Device:
    """One accelerator's published peaks; rates are dense, without structured sparsity."""

    name: str
    """What `find_device` takes."""
    fp32_tflops: float
    """IEEE fp32 on the CUDA cores, in 1e12 FLOP/s; depthwise convolutions run there."""
    bandwidth_gb_per_s: float
    """Memory bandwidth, in 1e9 bytes/s."""
    memory_gib: float
    """Memory size as sold; the driver keeps a little of it."""
    tf32_tflops: float | None = None
    """On tensor cores; None where the device has none of that type."""
    bf16_tflops: float | None = None
    """On tensor cores, accumulating in fp32."""
    fp16_tflops: float | None = None
    """On tensor cores, accumulating in fp32."""
    power_w: float | None = None
    """Board power, in watts."""
    link: str = "PCIe 4 x16"
    """The fastest link between two of them in one machine."""
    link_gb_per_s: float = 31.5
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
        tflops: float | None = asdict(self)[f"{precision}_tflops"]
        if tflops is None:
            has = [name for name in ELEMENT_BYTES if asdict(self)[f"{name}_tflops"] is not None]
            raise EngineError(f"{self.name}: has no {precision}; it has {', '.join(has)}")
        return tflops * 1e12


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
    known = [field.name for field in fields(Device)]
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise EngineError(f"{where}: {key}: unknown; the fields are {', '.join(near or known)}")
    for key in known:
        value = row.get(key)
        if key in _TEXTS or (value is None and key in (*_OPTIONAL, "link_gb_per_s")):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise EngineError(f"{where}: {key}: is {value!r}; give a number above 0")
    return Device(**{key: value for key, value in row.items() if value is not None})


def _required() -> list[str]:
    skipped = (*_OPTIONAL, *_TEXTS, "link_gb_per_s")
    return [field.name for field in fields(Device) if field.name not in skipped]


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
