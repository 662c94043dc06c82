"""Where the user's cache lies."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache_folder() -> Path | None:
    """The folder of ixt in the user's cache; None for a container's user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ixt"
    except RuntimeError:
        return None
