"""A signature says who exported weights and where they come from; any change is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ixt.checkpoint.folder import newest_checkpoint
from ixt.cli.app import app
from ixt.errors import ExportError
from ixt.export import export_checkpoint
from ixt.export.provenance import provenance_of, signature_of
from ixt.runs.verify import verify

pytest.importorskip("model_signing.verifying")

from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from model_signing import verifying

PLAIN = pem.NoEncryption()


def write_private(file: Path, key: object, encryption: object = PLAIN) -> Path:
    form = (pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encryption)
    file.write_bytes(key.private_bytes(*form))  # type: ignore[attr-defined]
    return file


def write_public(file: Path, key: object) -> Path:
    form = (pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    file.write_bytes(key.public_key().public_bytes(*form))  # type: ignore[attr-defined]
    return file


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key.pem, public.pem, and foreign.pem, the public half of another pair."""
    folder = tmp_path_factory.mktemp("keys")
    own = ec.generate_private_key(ec.SECP256R1())
    write_private(folder / "key.pem", own)
    write_public(folder / "public.pem", own)
    write_public(folder / "foreign.pem", ec.generate_private_key(ec.SECP256R1()))
    return folder


@pytest.fixture(scope="module")
def signed(trained: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with signed exports: the folder `hub`, and `x.pth` with what is beside it."""
    place = tmp_path_factory.mktemp("signed")
    for name, kind in (("hub", "hub"), ("x.pth", "timm-pth")):
        export_checkpoint(trained, place / name, kind, real_images=False, key=keys / "key.pem")
    return place


@pytest.fixture
def place(signed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed, tmp_path / "place")


def findings(export: Path, key: Path) -> dict[str, str]:
    """What `ixt verify` says, by what was checked."""
    return {found.name: str(found) for found in verify(export, key=key)}


def signature_line(export: Path, key: Path) -> str:
    return findings(export, key)[signature_of(export).name]


def flip(file: Path, at: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


EXPORTS = pytest.mark.parametrize("name", ["hub", "x.pth"])


@EXPORTS
def test_a_signed_export_is_good_to_its_key_and_to_the_library(
    name: str, signed: Path, keys: Path
) -> None:
    export = signed / name
    found = findings(export, keys / "public.pem")
    assert all(line.startswith("ok ") for line in found.values())
    count = 5 if name == "hub" else 4
    expected = f"{count} files, as they were signed with the private half of the key"
    assert found[signature_of(export).name].endswith(expected)
    folder = signature_of(export).parent
    config = verifying.Config().use_elliptic_key_verifier(public_key=keys / "public.pem")
    config.set_ignore_unsigned_files(export.is_file()).verify(folder, signature_of(export))


@EXPORTS
def test_any_file_that_changes_or_goes_is_named(name: str, place: Path, keys: Path) -> None:
    export, public = place / name, keys / "public.pem"
    signature = signature_of(export)
    beside = set(export.iterdir()) if export.is_dir() else set(place.glob("x.pth*"))
    for file in sorted(beside - {signature}):
        content = file.read_bytes()
        flip(file)
        line = signature_line(export, public)
        assert line == f"WRONG  {signature.name}: {file.name} is not what was signed"
        if file != export:
            file.unlink()
            line = signature_line(export, public)
            assert line == f"WRONG  {signature.name}: {file.name} is missing"
        file.write_bytes(content)
    assert signature_line(export, public).startswith("ok ")


def test_checksums_that_fit_a_change_do_not_help(
    place: Path, keys: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    file, sums = place / "hub" / "config.json", place / "hub" / "SHA256SUMS"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(file.read_text() + " ")
    after = hashlib.sha256(file.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))
    assert ixt_status("verify", place / "hub") == 0
    assert "ok     model.sig: not compared; --key PUBLIC does it" in capsys.readouterr().out
    assert ixt_status("verify", place / "hub", "--key", keys / "public.pem") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("WRONG")] == [
        "WRONG  model.sig: SHA256SUMS is not what was signed"
    ]


@pytest.mark.parametrize("added", ["tokenizer.py", ".hidden", "below/x.py"])
def test_a_file_added_to_a_folder_is_named(added: str, place: Path, keys: Path) -> None:
    (place / "hub" / added).parent.mkdir(exist_ok=True)
    (place / "hub" / added).write_text("")
    line = signature_line(place / "hub", keys / "public.pem")
    assert line == f"WRONG  model.sig: {added} was added after signing"


def test_a_link_in_the_place_of_a_signed_file_is_refused(place: Path, keys: Path) -> None:
    (place / "x.pth.json").rename(place / "elsewhere")
    (place / "x.pth.json").symlink_to(place / "elsewhere")
    assert "x.pth.json' because it is a symlink" in signature_line(
        place / "x.pth", keys / "public.pem"
    )


@EXPORTS
def test_a_foreign_key_and_a_missing_signature_are_named(
    name: str, place: Path, keys: Path
) -> None:
    signature = signature_of(place / name)
    line = signature_line(place / name, keys / "foreign.pem")
    assert line.startswith(f"WRONG  {signature.name}: not by this key, or damaged: ")
    signature.unlink()
    line = signature_line(place / name, keys / "public.pem")
    assert line == f"WRONG  {signature.name}: is missing: the export is not signed"


def test_a_forged_hint_at_the_key_does_not_help(place: Path, keys: Path) -> None:
    own = (keys / "foreign.pem").read_bytes()
    file = signature_of(place / "hub")
    bundle = json.loads(file.read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = hashlib.sha256(own).hexdigest()
    file.write_text(json.dumps(bundle))
    line = signature_line(place / "hub", keys / "foreign.pem")
    assert line == "WRONG  model.sig: not by this key, or damaged: InvalidSignature"


def test_the_signature_of_another_file_does_not_pass(place: Path, keys: Path) -> None:
    torch.save({}, place / "y.pth")
    shutil.copy(place / "x.pth.sig", place / "y.pth.sig")
    line = signature_line(place / "y.pth", keys / "public.pem")
    assert line.startswith("WRONG  y.pth.sig: is for x.pth, ")
    assert line.endswith("not for y.pth")


def test_a_damaged_signature_is_one_line_and_never_good(place: Path, keys: Path) -> None:
    file = signature_of(place / "hub")
    whole = file.read_bytes()
    payload = whole.index(b'"payload"')
    harmless = 0
    for at in range(0, len(whole), 97):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
            file.write_bytes(damaged)
            line = signature_line(place / "hub", keys / "public.pem")
            assert "\n" not in line
            if line.startswith("ok "):
                assert at < payload  # an unsigned part of the bundle
                harmless += 1
    assert harmless < 3


def test_the_provenance_is_that_of_the_run(signed: Path, trained: Path) -> None:
    def sha256(file: Path) -> dict[str, str]:
        return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}

    text = provenance_of(signed / "hub").read_text()
    assert str(trained.parent) not in text
    statement = json.loads(text)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    names = ["README.md", "config.json", "model.safetensors"]
    assert statement["subject"] == [
        {"name": name, "digest": sha256(signed / "hub" / name)} for name in names
    ]
    checkpoint = newest_checkpoint(trained)
    assert checkpoint is not None
    said = statement["predicate"]["training"]
    assert (said["step"], said["epoch"]) == (5, 1)
    assert said["recipe"] == {
        "name": "recipe.yaml",
        "digest": sha256(trained / "recipe.yaml"),
    }
    assert said["checkpoint"]["digest"] == sha256(checkpoint.path / "manifest.json")
    ledger = next(rows for rows in said["rows"] if rows["name"] == "ledger.jsonl")
    assert ledger["digest"] == sha256(trained / "ledger.jsonl")
    assert ledger["annotations"]["rows"] == 5
    digests = {data["name"]: data["digest"]["sha256"] for data in said["data"]}
    assert digests == {k: v["digest"] for k, v in checkpoint.state["data"].items()}
    assert said["versions"]["packages"]["torch"] == version("torch")


def test_weights_without_a_run_are_signed_as_what_they_are(
    signed: Path, keys: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    export_checkpoint(signed / "x.pth", out, "timm-folder", key=keys / "key.pem")
    said = json.loads(provenance_of(out).read_text())["predicate"]
    assert said["training"] is None and said["source"]["name"] == "x.pth"
    assert signature_line(out, keys / "public.pem").startswith("ok ")


@EXPORTS
def test_an_export_without_signature_replaces_a_signed_one_wholly(
    name: str, place: Path, trained: Path
) -> None:
    kind = "hub" if name == "hub" else "timm-pth"
    export_checkpoint(trained, place / name, kind, overwrite=True, real_images=False)
    assert not signature_of(place / name).exists() and not provenance_of(place / name).exists()


def bad_keys(folder: Path) -> dict[str, Path]:
    curve = ec.generate_private_key(ec.SECP256R1())
    (folder / "text").write_text("no key")
    return {
        "missing": folder / "none.pem",
        "a folder": folder,
        "no key": folder / "text",
        "the other half": write_public(folder / "public", curve),
        "encrypted": write_private(folder / "locked", curve, pem.BestAvailableEncryption(b"x")),
        "rsa": write_private(folder / "rsa", rsa.generate_private_key(65537, 2048)),
        "ed25519": write_private(folder / "ed", ed25519.Ed25519PrivateKey.generate()),
        "other curve": write_private(folder / "k1", ec.generate_private_key(ec.SECP256K1())),
    }


def test_a_key_that_does_not_serve_is_one_line_before_any_work(
    trained: Path,
    signed: Path,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for key in bad_keys(tmp_path).values():
        out = tmp_path / "out"
        assert ixt_status("export", trained, out, "--format", "hub", "--sign", key) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{key}: ") and "private key" in line
        assert not out.exists()
        if key.name != "public":
            assert ixt_status("verify", signed / "hub", "--key", key) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"{key}: ") and "public key" in line


def test_only_exports_have_a_signature_to_compare(trained: Path, keys: Path) -> None:
    with pytest.raises(Exception, match="only exports are signed; leave out --key"):
        verify(trained, key=keys / "public.pem")


def test_without_the_library_one_line_says_how_to_get_it(
    trained: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ExportError, match=r"run pip install 'ixt\[sign\]'$"):
        export_checkpoint(trained, tmp_path / "out", "hub", key=keys / "key.pem")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the keys with openssl")
def test_the_help_makes_a_pair_that_works(signed: Path, tmp_path: Path) -> None:
    text = CliRunner().invoke(app, ["export", "--help"], terminal_width=300).stdout
    words = " ".join(text.replace("│", " ").split())
    commands = re.findall(r"openssl [\w .-]+?-out \w+\.pem", words)
    assert len(commands) == 2
    for command in commands:
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    out, key = tmp_path / "out", tmp_path / "key.pem"
    export_checkpoint(signed / "x.pth", out, "timm-folder", key=key)
    assert signature_line(out, tmp_path / "public.pem").startswith("ok ")
