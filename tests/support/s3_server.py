"""An S3 server on this machine that can be told to fail."""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Respond = Callable[..., Iterable[bytes]]


@dataclass
class Bucket:
    """The server's address and what it is to do with the next requests for some objects."""

    endpoint: str = ""
    faults: list[str] = field(default_factory=list)
    """Consumed one by one: a status such as `500`, `slow`, `cut`, or `lost`, the answer only."""
    always: str | None = None
    """What happens once there are no faults left."""
    faulty: str = r"\.tar$"
    """Pattern of method and path of the requests that these faults happen to."""
    reads: list[str] = field(default_factory=list)
    """Path and range of each read of an object."""
    writes: list[str] = field(default_factory=list)
    """Path of each object written."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, environ: dict[str, Any]) -> str | None:
        """The fault for a request, which is noted."""
        method, path = str(environ["REQUEST_METHOD"]), str(environ["PATH_INFO"])
        with self.lock:
            if method == "GET" and path.count("/") > 1:
                self.reads.append(f"{path} {environ.get('HTTP_RANGE', '')}")
            if method == "PUT":
                self.writes.append(path)
            if not re.search(self.faulty, f"{method} {path}"):
                return None
            return self.faults.pop(0) if self.faults else self.always


@contextmanager
def serve() -> Iterator[Bucket]:
    """Run moto's S3 behind the faults, on a free port of the loopback address."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    bucket = Bucket()
    moto = DomainDispatcherApplication(create_backend_app)
    server = make_server(
        "127.0.0.1", 0, _faulty(bucket, moto), threaded=True, request_handler=Quiet
    )
    bucket.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield bucket
    server.shutdown()
    thread.join()
    server.server_close()


def _faulty(bucket: Bucket, moto: Respond) -> Respond:
    def respond(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        fault = bucket.next_fault(environ)
        if fault == "lost":
            list(moto(environ, lambda *_: None))
            return _fail("500", start_response)
        if fault in ("403", "500", "503"):
            _drain(environ)
            return _fail(fault, start_response)
        body = b"".join(moto(environ, start_response))
        if fault == "slow":
            return _slowly(body)
        return [body[: len(body) // 2]] if fault == "cut" else [body]

    return respond


def _fail(status: str, start_response: Callable[..., Any]) -> list[bytes]:
    start_response(f"{status} No", [("Content-Type", "application/xml")])
    return [b"<Error><Code>%s</Code><Message>no luck</Message></Error>" % status.encode()]


def _drain(environ: dict[str, Any]) -> None:
    """Read what the client sends, which would else take it for the next request."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _slowly(body: bytes) -> Iterator[bytes]:
    yield body[:10]
    time.sleep(1.0)
    yield body[10:]


def use(bucket: Bucket, patch: Any) -> None:
    """Let this process talk to the server, as a user whom it knows."""
    patch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def upload(root: Path, url: str) -> None:
    """Copy a packed set into a new bucket."""
    from ixt.storage.filesystems import filesystem_of

    filesystem = filesystem_of(url, 30.0)
    bucket = url.removeprefix("s3://").split("/")[0]
    if not filesystem.exists(bucket):
        filesystem.mkdir(bucket)
    filesystem.put(str(root) + "/", url, recursive=True)
