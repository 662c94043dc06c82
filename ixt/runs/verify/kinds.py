"""`ixt verify`: which kind of thing a path is, and the checks of that kind."""

from __future__ import annotations

from pathlib import Path

from ixt.checkpoint.address import locate
from ixt.checkpoint.state_json import STATE
from ixt.errors import CheckpointError
from ixt.files import refuse_url
from ixt.images.shards import INDEX_FOLDER, META
from ixt.runs.verify.exported import SUFFIXES, verify_export
from ixt.runs.verify.finding import Finding
from ixt.runs.verify.packed import SETTINGS, verify_packed
from ixt.runs.verify.run_folder import verify_checkpoint, verify_run


def verify(
    path: Path, data: str | None = None, replay: int | None = None, key: Path | None = None
) -> list[Finding]:
    """Check what ixt wrote; a list of what was checked, good or not.

    Args:
        path: a run's folder, a checkpoint's or its address, a packed set, or an export.
        data: images to compare with those that a run was trained on, or a packed set made of.
        replay: number of windows between checkpoints of a run to train again; None for none.
        key: public key to compare the signature of an export with.

    Raises:
        IxtError: the path is nothing of ixt's, has no data to compare, no window to replay, or the
            key cannot be used.
        Interrupted: a signal stopped a replay.
    """
    refuse_url(path, reads=True)
    path = locate(path)
    is_export = (path / "config.json").is_file() or (path / "model.safetensors").is_file()
    is_export |= path.is_file() and path.suffix in SUFFIXES
    if key is not None and not is_export and path.exists():
        raise CheckpointError(f"{path}: only exports are signed; leave out --key")
    if replay is not None:
        if not (path / "checkpoints").is_dir():
            raise CheckpointError(f"{path}: --replay trains a run again; give a run's folder")
        from ixt.runs.verify.replay import replay_run

        return [*verify_run(path, None), *replay_run(path, replay, data)]
    if path.is_dir():
        if (path / "checkpoints").is_dir():
            return verify_run(path, data)
        if (path / STATE).exists() or (path / "manifest.json").exists():
            return verify_checkpoint(path, data)
        if (path / SETTINGS).exists() or any(path.glob(f"*/{INDEX_FOLDER}/{META}")):
            return verify_packed(path, data)
    if is_export:
        if data is not None:
            raise CheckpointError(f"{path}: an export says nothing of its data; leave out --data")
        return verify_export(path, key)
    found = "is nothing that ixt writes" if path.exists() else "no such file or folder"
    raise CheckpointError(
        f"{path}: {found}; give a run's folder, a checkpoint's, a packed set, or an export "
        f"({', '.join(SUFFIXES)}, or a folder with config.json)"
    )
