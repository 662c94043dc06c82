"""Shared by all tests: a small real image set and a recipe that trains on it in seconds."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import odd_images
import photographs as photograph_files
import pytest
from accelerate.state import AcceleratorState
from torch import Tensor

from ixt.distributed.signals import STOP_SIGNALS
from ixt.monitor import activity
from ixt.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe, parse_recipe
from ixt.tools.demo import write_demo


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as JPEG files in the ImageNet layout."""
    return write_demo(tmp_path_factory.mktemp("digits"), image_size=32).root


@pytest.fixture(scope="session")
def tiny_sections(digits: Path) -> dict[str, dict[str, object]]:
    """A recipe as plain data: a two-epoch run of a very small InceptionNeXt, all parts on.

    Nothing is left to the model, so that every part takes it as it is.
    """
    return {
        "model": {
            "name": "inceptionnext_atto",
            "drop_path_rate": 0.1,
            "kwargs": {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32]},
        },
        "data": {"root": str(digits), "num_threads": 1},
        "augment": {
            "image_size": 32,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "policy": "rand-m5-mstd0.5-inc1",
            "erase_prob": 0.25,
            "mixup_alpha": 0.8,
            "cutmix_alpha": 1.0,
        },
        "optim": {"lr": 2e-3, "label_smoothing": 0.1, "max_norm": 1.0},
        "schedule": {"epochs": 2, "warmup_epochs": 1, "unit": "update"},
        "ema": {"decay": 0.9},
        "engine": {"global_batch_size": 256, "micro_batch_size": 64},
        "eval": {
            "batch_size": 120,
            "crop_pct": 1.0,
            "crop_mode": "center",
            "interpolation": "bicubic",
        },
        "run": {"log_every_steps": 2, "trackers": []},
    }


@pytest.fixture
def tiny(tiny_sections: dict[str, dict[str, object]]) -> Recipe:
    """The recipe of `tiny_sections`."""
    return parse_recipe(tiny_sections)


@pytest.fixture(scope="session")
def ixt_status() -> Callable[..., int]:
    """Runs the command line in this process; its exit status."""

    def run(*arguments: object) -> int:
        from ixt.cli import main

        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
            patch.setattr("sys.argv", ["ixt", *map(str, arguments)])
            main()
        AcceleratorState._reset_state(reset_partial_state=True)
        return int(caught.value.code or 0)

    return run


@pytest.fixture
def infinite_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in this process has an infinite loss in every update."""
    from ixt.training import loop as training
    from ixt.training.run import open_run

    def poisoned(*arguments: Any) -> Any:
        run = open_run(*arguments)
        loss = run.loss
        run.loss = lambda logits, targets: loss(logits, targets) * float("inf")
        return run

    monkeypatch.setattr(training, "open_run", poisoned)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sound image files by kind."""
    return odd_images.write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def damaged_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Damaged files by kind: the path and what should be said of it."""
    return odd_images.write_damaged(tmp_path_factory.mktemp("damaged"))


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """(14, 3, 224, 224) uint8, real."""
    return photograph_files.crops()


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Accelerate and the hang watch keep their state in the process; each test starts without.

    A command that a signal stopped leaves them ignored, since its process would end.
    """
    activity.restart()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the suite runs under nohup
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    AcceleratorState._reset_state(reset_partial_state=True)
