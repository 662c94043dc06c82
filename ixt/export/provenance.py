"""Where exported weights come from: an in-toto statement in `provenance.json`, to be signed.

It holds digests, versions and counts; no path of the machine that trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ixt
from ixt.checkpoint.folder import sha256
from ixt.export.source import Source
from ixt.recipe import RUN_RECIPE, dump_recipe, parse_stored

PROVENANCE = "provenance.json"
SIGNATURE = "model.sig"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "urn:ixt:provenance:v1"


def provenance_of(export: Path) -> Path:
    """Where an export's provenance is: in a folder, or beside a file."""
    beside = export.with_name(f"{export.name}.{PROVENANCE}")
    return export / PROVENANCE if export.is_dir() else beside


def signature_of(export: Path) -> Path:
    """Where an export's signature is: in a folder, or beside a file."""
    return export / SIGNATURE if export.is_dir() else export.with_name(f"{export.name}.sig")


def write_provenance(
    source: Source, export: Path, format_name: str, digests: Mapping[str, str]
) -> Path:
    """Write the statement of what an export holds and how it came about; its file.

    A run tells its training, another file does not. `digests`: SHA-256 of each exported file, by
    name.
    """
    file = source.loaded.file
    statement = {
        "_type": _STATEMENT,
        "subject": [_resource(name, digest) for name, digest in sorted(digests.items())],
        "predicateType": _PREDICATE,
        "predicate": {
            "format": format_name,
            "model": source.recipe.model.name,
            "weights": source.loaded.kind,
            "source": _resource(file.name, sha256(file)),
            "exported_by": {"ixt": ixt.__version__},
            "training": _training(source) if source.record else None,
        },
    }
    target = provenance_of(export)
    target.write_text(json.dumps(statement, indent=1) + "\n")
    return target


def _training(source: Source) -> dict[str, Any]:
    """What a checkpoint of ixt says of the run that wrote it."""
    record, folder = source.record, source.loaded.file.parent
    machine, base = record.get("machine", {}), record.get("base") or {}
    # As the run's folder has it, so that sha256sum gives the same.
    recipe = dump_recipe(parse_stored(record.get("recipe", {})))
    return {
        "step": record["step"],
        "epoch": record.get("epoch"),
        "checkpoint": _resource(f"{folder.name}/manifest.json", sha256(folder / "manifest.json")),
        "recipe": _resource(RUN_RECIPE, hashlib.sha256(recipe.encode()).hexdigest()),
        "rows": [
            _resource(name, rows["sha256"], rows=rows["rows"], bytes=rows["bytes"])
            for name, rows in record.get("rows", {}).items()
        ],
        "data": [
            _resource(split, data["digest"], num_images=data["num_images"])
            for split, data in record.get("data", {}).items()
        ],
        "base_weights": _resource(base["name"], base["sha256"])
        if base and base["sha256"]
        else None,
        "versions": {key: machine.get(key) for key in ("ixt", "git_commit", "python", "packages")},
    }


def _resource(name: str, digest: str, **annotations: int) -> dict[str, Any]:
    """A resource descriptor of in-toto."""
    described = {"name": name, "digest": {"sha256": digest}}
    return {**described, "annotations": annotations} if annotations else described
