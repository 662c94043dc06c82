"""All engines, process counts and accumulations against one process; all ways to resume."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from engine_runs import (
    ENGINES,
    LOSS,
    Result,
    Train,
    TrainTogether,
    assert_same_answer,
    assert_same_bits,
    farthest,
    weights,
)
from sections import Sections, changed

from ixt.recipe import dump_recipe, parse_recipe

pytestmark = pytest.mark.slow

OFFLOADED = [f"zero {stage} offloaded" for stage in (1, 2, 3)]
PERSISTENT = {"zero_optimization": {"stage3_param_persistence_threshold": 100_000}}
SMALL: dict[str, Any] = {"micro_batch_size": 8}


def variants() -> dict[str, dict[str, Any]]:
    """Engine sections: every engine with 2 micro-batches of 8 per process, and special settings."""
    named = {name: {**engine, **SMALL} for name, engine in ENGINES.items()}
    for name in OFFLOADED:
        named[name] = {**named[name.removesuffix(" offloaded")], "offload": "cpu"}
    named["zero 3 persistent"] = {**named["zero 3"], "ds_config": PERSISTENT}
    named["zero 1 in small buckets"] = {**named["zero 1"], "bucket_mib": 1}
    named["zero 2 in channels_last"] = {**named["zero 2"], "channels_last": True}
    named["ddp in small buckets"] = {**SMALL, "bucket_mib": 1}
    return named


@pytest.fixture(scope="module")
def alone(sections: Sections, train_here: Train) -> Result:
    return train_here(changed(sections, engine=SMALL))


@pytest.fixture(scope="module")
def two(sections: Sections, train_together: TrainTogether) -> dict[str, Result]:
    jobs = {name: changed(sections, engine=engine) for name, engine in variants().items()}
    return train_together(jobs, count=list(ENGINES))


@pytest.mark.parametrize("variant", variants())
def test_two_processes_that_accumulate_do_what_one_does(
    alone: Result, two: dict[str, Result], variant: str
) -> None:
    assert_same_answer(two[variant], alone)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_process_under_any_engine_resumes_bit_for_bit(
    alone: Result, sections: Sections, train_here: Train, tmp_path: Path, engine: str
) -> None:
    recipe = changed(sections, engine={**SMALL, **ENGINES[engine]})
    unbroken = train_here(recipe)
    assert_same_answer(unbroken, alone)
    resumed = train_here(recipe, unbroken.cut(tmp_path / "run", 1), resume=True)
    assert_same_bits(resumed, unbroken)


@pytest.mark.parametrize(("source", "target"), list(product(ENGINES, ENGINES)))
def test_two_processes_resume_as_one_under_any_engine(
    alone: Result,
    two: dict[str, Result],
    sections: Sections,
    train_here: Train,
    tmp_path: Path,
    source: str,
    target: str,
) -> None:
    run_dir = two[source].cut(tmp_path / "run", 1)
    recipe = changed(sections, engine={**SMALL, **ENGINES[target]})
    assert_same_answer(train_here(recipe, run_dir, resume=True), alone)


def test_two_processes_resume_as_two_under_any_engine_and_bit_for_bit_under_the_same(
    two: dict[str, Result],
    alone: Result,
    sections: Sections,
    train_together: TrainTogether,
    tmp_path: Path,
) -> None:
    ways = [*product(ENGINES, ENGINES), *((name, name) for name in OFFLOADED)]
    pairs = {f"{source} to {target}": (source, target) for source, target in ways}
    folders = {name: two[source].cut(tmp_path / name, 1) for name, (source, _) in pairs.items()}
    jobs = {
        name: changed(sections, engine=variants()[target]) for name, (_, target) in pairs.items()
    }
    results = train_together(jobs, resumed=folders)
    for name, (source, target) in pairs.items():
        assert_same_answer(results[name], alone)
        if source == target:
            assert_same_bits(results[name], two[source])


def test_one_process_resumes_as_two_under_any_engine(
    alone: Result, sections: Sections, train_together: TrainTogether, tmp_path: Path
) -> None:
    folders = {name: alone.cut(tmp_path / name, 1) for name in ENGINES}
    jobs = {name: changed(sections, engine={**SMALL, **ENGINES[name]}) for name in ENGINES}
    for result in train_together(jobs, resumed=folders).values():
        assert_same_answer(result, alone)


def test_gradients_are_exchanged_as_often_as_the_stage_needs(
    two: dict[str, Result], sections: Sections, train_together: TrainTogether
) -> None:
    """Twice the micro-batches cost nothing more where a process can hold whole gradients."""
    jobs = {n: changed(sections, engine={**e, "micro_batch_size": 4}) for n, e in ENGINES.items()}
    jobs = {n: changed(job, augment={"mixing_group": 4}) for n, job in jobs.items()}
    finer = train_together(jobs, count=list(ENGINES))
    for engine in ("ddp", "zero 0", "zero 1"):
        assert finer[engine].collectives == two[engine].collectives
    # ZeRO-2 and ZeRO-3 keep a slice only, so each micro-batch's gradient has to be handed out.
    for engine in ("zero 2", "zero 3"):
        assert sum(finer[engine].collectives.values()) > sum(two[engine].collectives.values())


def test_a_model_without_batch_norm_does_not_mind_the_micro_batch(
    sections: Sections, train_here: Train, train_together: TrainTogether
) -> None:
    """Without drop path, whose draws are one per micro-batch."""
    shape = {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32]}
    model = {"name": "convnext_atto", "drop_path_rate": 0.0, "kwargs": shape}
    recipe = changed(sections, model=model)
    whole = train_here(changed(recipe, engine={"micro_batch_size": 32}))
    accumulated = train_here(changed(recipe, engine={"micro_batch_size": 8}))
    results = train_together(
        {
            f"{name}, {micro}": changed(recipe, engine={**engine, "micro_batch_size": micro})
            for (name, engine), micro in product(ENGINES.items(), (16, 8))
        }
    )
    for result in (accumulated, *results.values()):
        assert_same_answer(result, whole)
        assert result.metrics["ema_loss"] == pytest.approx(whole.metrics["ema_loss"], abs=LOSS)


@pytest.mark.parametrize("name", ["adamw", "lion", "nadamw", "rmsproptf", "sgd"])
def test_elementwise_optimizers_may_be_cut_up(
    sections: Sections, train_here: Train, train_together: TrainTogether, name: str
) -> None:
    recipe = changed(sections, optim={"name": name, "lr": 2e-4, "weight_decay": 0.05})
    alone = train_here(recipe)
    engines = ("zero 1", "zero 2", "zero 3")
    jobs = {engine: changed(recipe, engine=ENGINES[engine]) for engine in engines}
    for result in train_together(jobs).values():
        assert result.losses == pytest.approx(alone.losses, abs=LOSS)


@pytest.mark.parametrize("precision", ["bf16"])
def test_bf16_keeps_fp32_weights_and_follows_ddp(
    sections: Sections, train_here: Train, train_together: TrainTogether, precision: str
) -> None:
    recipe = changed(sections, engine={"precision": precision})
    alone = train_here(recipe)
    fp32 = train_here(sections)
    assert alone.losses != fp32.losses
    jobs = {name: changed(recipe, engine=engine) for name, engine in ENGINES.items()}
    for result in train_together(jobs).values():
        assert result.losses == pytest.approx(alone.losses, abs=5e-3)
        assert {str(t.dtype) for t in weights(result).values()} == {"torch.float32"}


def test_a_static_graph_gives_the_same_answer(
    sections: Sections, train_here: Train, train_together: TrainTogether
) -> None:
    jobs = {"static": changed(sections, engine={"static_graph": True})}
    assert_same_answer(train_together(jobs)["static"], train_here(sections))


def test_gradients_may_travel_in_half_precision(
    sections: Sections, train_here: Train, train_together: TrainTogether
) -> None:
    alone = train_here(sections)
    jobs = {
        f"{name} {dtype}": changed(sections, engine={**ENGINES[name], "gradient_dtype": dtype})
        for name, dtype in product(ENGINES, ("bf16", "fp16"))
    }
    bf16 = {"precision": "bf16", "gradient_dtype": "bf16"}
    jobs |= {
        f"{name} autocast": changed(sections, engine={**ENGINES[name], **bf16}) for name in ENGINES
    }
    for name, result in train_together(jobs).items():
        tolerance = 1e-2 if "autocast" in name else 2e-3
        assert result.losses == pytest.approx(alone.losses, abs=tolerance), name
        # Rounded on the way, and not by more than it must be.
        assert 1e-6 < farthest(weights(result), weights(alone)) < 1e-2, name


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_trains_under_deepspeed_without_its_noise(
    sections: Sections, tmp_path: Path, processes: int
) -> None:
    recipe = changed(sections, engine=ENGINES["zero 2"], run={"log_every_steps": 10})
    (tmp_path / "x.yaml").write_text(dump_recipe(parse_recipe(recipe)))
    command = [sys.executable, "-m", "ixt", "train", "x.yaml", "--run-dir", "run"]
    done = subprocess.run(
        [*command, "--num-processes", str(processes)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["epoch"] * 4
    assert len(Result(tmp_path / "run").losses) == 2
