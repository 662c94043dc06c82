"""Decoders are made by what a recipe says, in training and wherever its runs are looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ixt.checkpoint.weights import Weights, read_weights
from ixt.errors import DataError
from ixt.evaluate.candidates import Source
from ixt.evaluate.evaluation import Settings, run_evaluation
from ixt.images.index import Index, load_index
from ixt.pipeline import from_recipe
from ixt.pipeline.decode.base import GpuDecoding
from ixt.pipeline.decode.factory import make_decoder
from ixt.predict import ImageFile, open_classifier, predict
from ixt.recipe import Recipe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ON_CPU = GpuDecoding("cpu", largest=(32, 32))
RUN = Path(__file__).parents[1] / "checkpoint" / "formats" / "1"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Kind and GPU decoding of the decoders asked for; what is made is torch's, for the CPU."""
    asked: list[tuple[str, Any]] = []

    def recorded(kind: Any, *, gpu: GpuDecoding, **settings: Any) -> object:
        asked.append((kind, gpu))
        return make_decoder("torch", **settings | {"device": CPU})

    monkeypatch.setattr(from_recipe, "make_decoder", recorded)
    return asked


@pytest.fixture
def index(digits: Path) -> Index:
    return load_index(digits, "val")


def with_data(recipe: Recipe, **update: object) -> Recipe:
    return recipe.with_(data=update)


def test_a_run_is_decoded_later_as_in_training_where_its_settings_act(
    tiny: Recipe, index: Index, made: list[tuple[str, Any]]
) -> None:
    recipe = with_data(tiny, decode_device="cpu")
    from_recipe.build_decoder(recipe, index, CUDA).close()
    from_recipe.build_chosen_decoder(recipe, index, CUDA, "dali").close()
    assert made == [("auto", ON_CPU), ("dali", ON_CPU)]


def test_settings_for_another_device_stop_a_training_and_no_later_look(
    tiny: Recipe, index: Index
) -> None:
    recipe = with_data(tiny, decode_device="cpu")
    with pytest.raises(
        DataError, match="decode_device: cpu has an effect only where DALI decodes for a"
    ):
        from_recipe.build_decoder(recipe, index, CPU)
    for kind in ("auto", "exact", "dali"):
        from_recipe.build_chosen_decoder(recipe, index, CPU, kind).close()


def _held(monkeypatch: pytest.MonkeyPatch, module: str, **data: object) -> None:
    """Weights read by a module hold a recipe with these settings of data."""

    def changed(path: Path, prefer_ema: bool) -> Weights:
        weights = read_weights(path, prefer_ema)
        assert weights.info is not None
        recipe: Any = weights.info.recipe
        recipe["data"] |= data
        return weights

    monkeypatch.setattr(f"{module}.read_weights", changed)


@pytest.fixture
def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders are chosen as for a CUDA device."""
    choose = from_recipe.build_chosen_decoder

    def chosen(recipe: Recipe, index: Index, device: torch.device, kind: Any) -> object:
        return choose(recipe, index, CUDA, kind)

    monkeypatch.setattr("ixt.evaluate.evaluation.build_chosen_decoder", chosen)
    monkeypatch.setattr("ixt.predict.predictions.build_chosen_decoder", chosen)


@pytest.mark.usefixtures("as_if_on_a_gpu")
def test_eval_and_predict_pass_on_how_a_run_decodes(
    digits: Path, index: Index, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ixt.evaluate.candidates", "ixt.predict.classifier"):
        _held(monkeypatch, module, decoder="auto", decode_device="cpu")
    run_evaluation([Source(RUN)], str(digits), Settings(decoders=("dali",)))
    (path,) = index.paths([0])
    list(predict(open_classifier(RUN, decoder="dali"), [ImageFile(path, path)]))
    assert [kind for kind, _ in made] == ["dali", "dali"]
    assert [gpu.decode_device for _, gpu in made] == ["cpu", "cpu"]


def test_predict_takes_another_decoder_than_the_runs_settings_are_for(
    index: Index, monkeypatch: pytest.MonkeyPatch, ixt_status: Callable[..., int]
) -> None:
    _held(monkeypatch, "ixt.predict.classifier", decoder="auto", decode_device="cpu")
    assert ixt_status("predict", RUN, *index.paths([0]), "--decoder", "torch") == 0
