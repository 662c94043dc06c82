"""Signatures of exports: an in-toto statement in a Sigstore bundle, by `model-signing`, offline.

A folder is signed as a whole, and nothing may be added to it; a file together with what `ixt
export` wrote beside it. The library's own command, `model_signing verify key`, reads them, too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ixt.errors import ExportError, first_line
from ixt.export.provenance import signature_of
from ixt.files import read_json, reason


def open_private_key(key: Path) -> Any:
    """The library's settings to sign with a private key; `sign` takes them.

    The key is a PEM file of an elliptic curve (P-256, P-384 or P-521), without a password.

    Raises:
        ExportError: the key cannot be used, or the library is not installed.
    """
    config = _library().signing.Config()
    return _open(key, "private", lambda: config.use_elliptic_key_signer(private_key=key))


def open_public_key(key: Path) -> Any:
    """The library's settings to compare with a public key; `check_signature` takes them.

    Raises:
        ExportError: the key cannot be used, or the library is not installed.
    """
    config = _library().verifying.Config()
    return _open(key, "public", lambda: config.use_elliptic_key_verifier(public_key=key))


def sign(export: Path, signer: Any) -> None:
    """Sign a folder, or a file with all that is in its folder.

    `signer` is of `open_private_key`.
    """
    signature, hashing = signature_of(export), _library().hashing.Config()
    hashing.set_ignored_paths(paths=[signature.name])
    signer.set_hashing_config(hashing).sign(signature.parent, signature)


def check_signature(export: Path, verifier: Any) -> str:
    """Compare an export with its signature; in words what was signed.

    `verifier` is of `open_public_key`.

    Raises:
        ExportError: there is no signature or one by another key, or a file is missing, was added
            or has changed.
        OSError: a file cannot be read.
    """
    signature = signature_of(export)
    if not signature.is_file():
        raise ExportError("is missing: the export is not signed")
    found = _Found(_library().hashing.Config(), signature.name)
    verifier.set_hashing_config(found).set_ignore_unsigned_files(export.is_file())
    try:
        verifier.verify(signature.parent, signature)
    except OSError:
        raise
    except Exception as error:  # a damaged bundle fails in any way
        if not found.asked:
            raise ExportError(f"not by this key, or damaged: {first_line(error)}") from error
        if found.digests is None:  # e.g. a link
            raise ExportError(first_line(error)) from error
        raise ExportError(_difference(_signed(signature), found.digests)) from error
    signed = _signed(signature)
    if export.is_file() and export.name not in signed:
        raise ExportError(f"is for {', '.join(signed)}, not for {export.name}")
    return f"{len(signed)} files, as they were signed with the private half of the key"


@dataclass
class _Found:
    """In the place of the library's settings for hashing: keeps what was found.

    The library hashes files only after it has found the signature itself to be good.
    """

    config: Any
    signature: str
    asked: bool = False
    digests: dict[str, str] | None = None

    def add_ignored_paths(self, **_: object) -> None:
        """Ignore the signature, and nothing that the signature says."""

    def hash(self, folder: Path, *, files_to_hash: Iterable[Path] | None = None) -> Any:
        """Hash a folder, or those of some files that are there."""
        self.asked = True
        self.config.set_ignored_paths(paths=[self.signature])
        if files_to_hash is not None:
            files_to_hash = [file for file in files_to_hash if file.is_file()]
        manifest = self.config.hash(folder, files_to_hash=files_to_hash)
        self.digests = {
            file.identifier: file.digest.digest_hex for file in manifest.resource_descriptors()
        }
        return manifest


def _signed(signature: Path) -> dict[str, str]:
    """The digests of the signed files by name, of a bundle that is known to be good."""
    payload = base64.b64decode(read_json(signature)["dsseEnvelope"]["payload"])
    resources = json.loads(payload)["predicate"]["resources"]
    return {resource["name"]: resource["digest"] for resource in resources}


def _difference(signed: dict[str, str], found: dict[str, str]) -> str:
    """How files differ from those that were signed, in words."""
    for name, digest in signed.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} is not what was signed"
    return f"{', '.join(found.keys() - signed.keys())} was added after signing"


def _open(key: Path, half: str, open_key: Callable[[], Any]) -> Any:
    """Load a key.

    Raises:
        ExportError: see `open_private_key`.
    """
    try:
        return open_key()
    except OSError as error:
        raise ExportError(f"{key}: cannot be read ({reason(error)}); give a {half} key") from error
    # The libraries below have many kinds of errors for a key of another kind.
    except Exception as error:
        raise ExportError(
            f"{key}: is no {half} key of an elliptic curve without a password "
            f"({first_line(error)}); --help says how to make a pair"
        ) from error


def _library() -> SimpleNamespace:
    """The library, imported where it is wanted.

    Raises:
        ExportError: it, or a package that it needs, is not installed.
    """
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise ExportError(
            f"signatures need model-signing ({first_line(error)}); run pip install 'ixt[sign]'"
        ) from error
    return SimpleNamespace(hashing=hashing, signing=signing, verifying=verifying)
