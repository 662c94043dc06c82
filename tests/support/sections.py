"""Recipes as dictionaries of sections, changed for a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Sections = dict[str, dict[str, Any]]


def changed(sections: Sections, **changes: Mapping[str, Any]) -> Sections:
    """Sections with some keys set anew."""
    return {name: {**section, **changes.get(name, {})} for name, section in sections.items()}


def graphed(sections: Sections, **changes: Mapping[str, Any]) -> Sections:
    """A recipe that records its updates; changes by section."""
    changes["engine"] = {
        "cuda_graph": True,
        "global_batch_size": 64,
        "micro_batch_size": 64,
        **changes.get("engine", {}),
    }
    return changed(sections, **changes)
