"""A run's numbers for Prometheus: a page to scrape, or a file for the node exporter."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ixt.errors import EngineError
from ixt.files import reason
from ixt.recipe import Prometheus

_GAUGES = {
    "step": "Optimizer updates done.",
    "epoch": "Epoch under way, from 0.",
    "loss": "Training loss, mean over the last log interval.",
    "lr": "Learning rate of the last update.",
    "images_per_s": "Training images per second, all processes together.",
    "data_wait": "Share of the time that the first process waited for data.",
    "top1": "Top-1 accuracy of the last evaluation, percent.",
    "ema_top1": "Top-1 accuracy of the averaged weights, percent.",
    "last_checkpoint_step": "Updates in the newest checkpoint on the disk.",
}
_COUNTERS = {
    "skipped": ("skipped_images", "Damaged images left out."),
    "nonfinite": ("nonfinite_updates", "Updates rolled back because they were not finite."),
}


class Exporter:
    """Keeps the newest numbers where Prometheus finds them. The first process has one."""

    def __init__(self, settings: Prometheus, run: str) -> None:
        """Open the page, or begin the file.

        `run` is the value of the label `run`.

        Raises:
            EngineError: prometheus-client is not installed, the port is taken, or the file cannot
                be written.
        """
        if find_spec("prometheus_client") is None:
            raise EngineError(
                "run.prometheus: needs the package prometheus-client, which is not installed; "
                "run `pip install 'ixt[prometheus]'`, or remove run.prometheus"
            )
        import prometheus_client as client

        self._registry = client.CollectorRegistry()
        self._run, self._textfile = run, settings.textfile
        self._gauges = {
            name: client.Gauge(f"ixt_{name}", text, ["run"], registry=self._registry)
            for name, text in _GAUGES.items()
        }
        self._memory = client.Gauge(
            "ixt_memory_gib", "Peak memory of a process.", ["run", "rank"], registry=self._registry
        )
        self._counters = {
            name: client.Counter(f"ixt_{key}", text, ["run"], registry=self._registry)
            for name, (key, text) in _COUNTERS.items()
        }
        self._server: Any = None
        if settings.port is not None:
            try:
                self._server, self._thread = client.start_http_server(
                    settings.port, settings.address, self._registry
                )
            except OSError as error:
                raise EngineError(
                    f"run.prometheus: port {settings.port} of {settings.address}: "
                    f"{reason(error)}; choose another port"
                ) from error
        self._write()

    def record(self, row: Mapping[str, Any]) -> None:
        """Update the values from a log row or an evaluation."""
        for name, gauge in self._gauges.items():
            if name in row:
                gauge.labels(self._run).set(row[name])
        for name, counter in self._counters.items():
            if row.get(name) is not None:
                counter.labels(self._run).inc(row[name])
        for rank, gib in enumerate(row.get("memory_gib_per_rank", ())):
            self._memory.labels(self._run, str(rank)).set(gib)
        self._write()

    def close(self) -> None:
        """Close the page; a file keeps its last numbers."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _write(self) -> None:
        if self._textfile is None:
            return
        from prometheus_client import write_to_textfile

        path = Path(self._textfile)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(path), self._registry)
        except OSError as error:
            raise EngineError(
                f"run.prometheus: {path}: cannot be written ({reason(error)}); choose another file"
            ) from error
