"""DeepSpeed's settings follow the recipe; what it would do wrong is refused in one line."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from engine_runs import ENGINES, Train
from sections import Sections, changed

from ixt.distributed.engine import start
from ixt.distributed.engine.deepspeed import configuration, inlined
from ixt.errors import EngineError, RecipeError
from ixt.recipe import dump_recipe, parse_recipe

ZERO_2 = ENGINES["zero 2"]


def config(sections: Sections, processes: int = 2, **engine: Any) -> dict[str, Any]:
    return configuration(parse_recipe(changed(sections, engine={**ZERO_2, **engine})), processes)


def test_batch_sizes_accumulation_and_clipping_are_the_recipes(sections: Sections) -> None:
    values = config(sections, micro_batch_size=8)
    assert values["train_batch_size"] == 32
    assert values["train_micro_batch_size_per_gpu"] == 8
    assert values["gradient_accumulation_steps"] == 2
    assert values["gradient_clipping"] == 1.0
    assert values["zero_optimization"]["stage"] == 2


def test_no_clipping_means_none_and_not_deepspeeds_default_of_1(sections: Sections) -> None:
    assert config(changed(sections, optim={"max_norm": None}))["gradient_clipping"] == 0.0


def test_bf16_is_autocast_and_sends_fp32_gradients_by_default(
    sections: Sections,
) -> None:
    values = config(sections, precision="bf16")
    assert values["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }
    assert values["bf16"] == values["fp16"] == {"enabled": False}
    values = config(sections, precision="bf16", gradient_dtype="bf16")
    assert "lower_precision_safe_modules" not in values["torch_autocast"]


def test_buckets_are_counted_in_elements(sections: Sections) -> None:
    assert config(sections, bucket_mib=8)["zero_optimization"]["reduce_bucket_size"] == 2**21


def test_its_file_adds_what_the_recipe_leaves_open(sections: Sections, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(
        json.dumps(
            {
                "zero_optimization": {"overlap_comm": True, "stage": 2, "reduce_scatter": "auto"},
                "gradient_clipping": "auto",
                "wall_clock_breakdown": True,
            }
        )
    )
    values = config(sections, ds_config=str(file))
    assert values["zero_optimization"]["overlap_comm"] is True
    assert "reduce_scatter" not in values["zero_optimization"]
    assert values["gradient_clipping"] == 1.0
    assert values["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"zero_optimization": {"stage": 3}},
            r"zero_optimization\.stage is 3 and the recipe makes it 2; remove it",
        ),
        (
            {"gradient_accumulation_steps": 5},
            "gradient_accumulation_steps is 5 and the recipe makes it 1",
        ),
        ({"gradient_clipping": 2.0}, r"gradient_clipping is 2\.0 and the recipe makes it 1\.0"),
        ({"bf16": {"enabled": True}}, r"bf16\.enabled is true and the recipe makes it false"),
        ({"optimizer": {"type": "Adam"}}, "optimizer cannot be set: the recipe's optim section"),
        (
            {"zero_optimization": {"offload_param": {"device": "cpu"}}},
            r"zero_optimization\.offload_param cannot be set: only the optimizer",
        ),
    ],
)
def test_its_settings_may_not_contradict_the_recipe(
    sections: Sections, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=rf"engine\.ds_config: {message}"):
        config(sections, ds_config=given)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not readable"), ("[1]", "is not a JSON object")]
)
def test_a_file_that_is_not_json_is_named(
    sections: Sections, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(text)
    with pytest.raises(EngineError, match=rf"engine\.ds_config: .*ds\.json: {message}"):
        config(sections, ds_config=str(file))


def test_the_recipe_keeps_the_content_of_its_file(sections: Sections, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"wall_clock_breakdown": true}')
    recipe = parse_recipe(changed(sections, engine={**ZERO_2, "ds_config": str(file)}))
    file_free = inlined(recipe)
    file.unlink()
    assert "wall_clock_breakdown: true" in dump_recipe(file_free)
    assert configuration(file_free, 1)["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("engine", "optim", "message"),
    [
        ({"kind": "ddp"}, {}, "zero_stage: has an effect only with kind: deepspeed"),
        ({"zero_stage": None}, {}, "kind: is deepspeed; give zero_stage: 0, 1, 2 or 3"),
        ({"zero_stage": 5}, {}, r"engine\.zero_stage: is 5"),
        ({"precision": "fp16"}, {}, "precision: is fp16: DeepSpeed clips gradients that are still"),
        ({"zero_stage": 3, "compile": True}, {}, "compile: ZeRO-3's gathering breaks the graph"),
        ({"static_graph": True}, {}, "static_graph: has an effect only with kind: ddp"),
        ({"zero_stage": 0, "offload": "cpu"}, {}, "offload: needs zero_stage 1 or more"),
        ({}, {"name": "lamb"}, r"optim\.name: lamb needs whole parameters, which .* 2 partitions"),
        ({}, {"name": "muon"}, "take one of adamw, lion, nadamw, rmsproptf, sgd"),
    ],
)
def test_what_deepspeed_would_do_wrong_is_refused(
    sections: Sections, engine: dict[str, Any], optim: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(changed(sections, engine={**ZERO_2, **engine}, optim=optim))


def test_an_optimizer_that_needs_shapes_is_welcome_where_parameters_stay_whole(
    sections: Sections,
) -> None:
    recipe = parse_recipe(changed(sections, engine=ENGINES["zero 0"], optim={"name": "lamb"}))
    assert (recipe.engine.kind, recipe.engine.zero_stage) == ("deepspeed", 0)
    assert recipe.optim.name == "lamb"


def test_without_deepspeed_one_line_names_the_extra(
    sections: Sections, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "ixt.distributed.engine.deepspeed.find_spec",
        lambda name: None if name == "deepspeed" else find(name),
    )
    message = (
        r"engine\.kind: deepspeed needs the package deepspeed, which is not installed; run `pip "
        r"install 'ixt\[deepspeed\]'`, or set engine\.kind: ddp"
    )
    with pytest.raises(EngineError, match=message):
        train_here(changed(sections, engine=ZERO_2))


def test_a_setting_that_deepspeed_does_not_know_is_one_line_and_leaves_the_process_clean(
    sections: Sections, train_here: Train
) -> None:
    given = {"zero_optimization": {"overlap_com": True}}
    with pytest.raises(EngineError, match=r"engine\.ds_config: overlap_com: Extra inputs"):
        train_here(changed(sections, engine={**ZERO_2, "ds_config": given}))
    assert "RANK" not in os.environ
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ
    assert not dist.is_initialized()


def test_a_static_graph_that_accumulates_is_refused(
    sections: Sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = parse_recipe(changed(sections, engine={"static_graph": True, "micro_batch_size": 8}))
    with pytest.raises(EngineError, match="does not work with 2 micro-batches per process"):
        start(recipe, tmp_path)
