"""Emulators of Google Cloud Storage (PyPI) and Azure Blob Storage (npm) on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

# Azurite's published account, which every copy of it has.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def google(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve `gs://bucket`. The emulator knows no preconditions, so that of a creation is added."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import create_server

    upload, lock = objects._multipart_upload, threading.Lock()

    def unless_it_exists(request: Any, response: Any, storage: Any) -> None:
        with lock:
            names = [item.get("name") for item in _listed(storage, request.params["bucket_name"])]
            is_new = request.query.get("ifGenerationMatch") == ["0"]
            if is_new and request.data["meta"]["name"] in names:
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
            upload(request, response, storage)

    patch.setattr(objects, "_multipart_upload", unless_it_exists)
    port = _free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    yield
    server.stop()


def _listed(storage: Any, bucket: str) -> list[dict[str, Any]]:
    return list(storage.get_file_list(bucket)[0])


@contextmanager
def azure(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Serve `az://bucket` with Azurite; AZURITE names its program where it is not on the PATH."""
    pytest.importorskip("adlfs")
    program = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if program is None:
        pytest.skip("npm install azurite; AZURITE=node_modules/.bin/azurite-blob")
    port = _free_port()
    words = [program, "--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    words += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        patch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;",
        )
        from ixt.storage.filesystems import filesystem_of

        filesystem_of("az://", 30.0).mkdir("bucket")
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "Azurite ended"
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("Azurite does not answer")
