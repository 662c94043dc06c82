"""An S3 server on this machine that can be told to fail."""

from __future__ import annotations

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
    """The server's address and what it is to do with the next reads of tars."""

    endpoint: str = ""
    faults: list[str] = field(default_factory=list)
    """Consumed one by one: a status such as `500`, `slow`, or `cut`."""
    always: str | None = None
    """What happens once there are no faults left."""
    reads: list[str] = field(default_factory=list)
    """Path and range of each read of an object."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, environ: dict[str, Any]) -> str | None:
        """The fault for a request, which is noted."""
        path = str(environ["PATH_INFO"])
        with self.lock:
            if environ["REQUEST_METHOD"] == "GET" and path.count("/") > 1:
                self.reads.append(f"{path} {environ.get('HTTP_RANGE', '')}")
            if not path.endswith(".tar"):
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
        if fault in ("403", "500", "503"):
            start_response(f"{fault} No", [("Content-Type", "application/xml")])
            return [b"<Error><Code>%s</Code><Message>no luck</Message></Error>" % fault.encode()]
        body = b"".join(moto(environ, start_response))
        if fault == "slow":
            return _slowly(body)
        return [body[: len(body) // 2]] if fault == "cut" else [body]

    return respond


def _slowly(body: bytes) -> Iterator[bytes]:
    yield body[:10]
    time.sleep(1.0)
    yield body[10:]


def upload(root: Path, url: str) -> None:
    """Copy a packed set into a new bucket."""
    from ixt.images import buckets

    filesystem = buckets._filesystem()
    bucket = url.removeprefix("s3://").split("/")[0]
    if not filesystem.exists(bucket):
        filesystem.mkdir(bucket)
    filesystem.put(str(root) + "/", url, recursive=True)
