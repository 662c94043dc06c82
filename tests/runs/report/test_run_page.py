from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_page import Page, chromium, needs_chromium, requested
from odd_runs import found, outcomes, rows_text, write_run

from ixt.errors import CheckpointError, DataError
from ixt.runs.report.evaluation import EVALUATION
from ixt.runs.report.files import write_report
from ixt.runs.report.folder import read_run
from ixt.runs.report.page import run_html

EVIL = (
    *("a b", "\U0001f984 emoji", "new\nline", "<script>alert(1)</script>", "&amp;\"'"),
    *("x" * 300, "{{ 7 * 7 }}", "\x1b[31mred", "\u202ebackwards"),
)


def page_of(run: Path) -> str:
    return run_html(read_run(run))


@pytest.fixture
def evil(tmp_path: Path, digits: Path) -> Path:
    """A run whose classes and folder have names that no page must believe."""
    files = sorted(map(str, digits.rglob("val/*/*.jpeg")))
    labels = [number % len(EVIL) for number in range(90)]
    predictions = [(label + number % 2) % len(EVIL) for number, label in enumerate(labels)]
    evaluation = found(EVIL, labels, outcomes(predictions), files)
    return write_run(tmp_path / "<b>run & \U0001f984", evaluation)


def test_the_page_is_whole_and_loads_nothing(evil: Path) -> None:
    text = page_of(evil)
    page = Page(text)
    assert page.links and all(re.match(r"data:image/(png|jpeg);base64,", it) for it in page.links)
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)|@import|<link", text)
    assert len(set(page.ids)) == len(page.ids)


def test_names_are_text_and_never_markup(evil: Path) -> None:
    text = page_of(evil)
    assert text.count("<script") == 1 and "<b>run" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7 * 7 }}" in text
    assert "new\\nline" in text and "\\x1b[31mred" in text and "\\u202ebackwards" in text
    assert "\U0001f984 emoji" in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_the_page_has_every_part_with_its_numbers(evil: Path) -> None:
    text = page_of(evil)
    page = Page(text)
    for heading in (
        *("Curves", "Loss", "Top-1 accuracy", "Top-5 accuracy", "Learning rate", "Throughput"),
        *("Waiting for data", "Best and last epoch", "Confusions", "Most confident mistakes"),
        *("Accuracy by class", "Calibration", "Recipe", "Commands"),
    ):
        assert heading in page.headings, heading
    assert "90 images, 50.00 % right" in text
    assert "<dd>51.00 %</dd>" in text and "best top-1, after epoch 1" in text
    for command in ("ixt eval", "ixt resume", "ixt export", "ixt verify", "ixt report"):
        assert f"{command} &#39;{evil.parent!s}/&lt;b&gt;run" in text


def test_the_recipe_shows_what_is_not_the_default(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", optim={"lr": 0.25}, augment={"scale": [0.5, 1.0]})
    text = re.sub(r"\s+", " ", page_of(run))
    changed = text[text.index("What differs from the defaults") : text.index("<details>")]
    keys = re.findall(r"<code>([\w.]+)</code>", changed)
    assert keys == ["model.name", "augment.scale", "optim.lr"]
    assert '<code>optim.lr</code></td> <td class="name">0.25</td> <td class="name">0.001' in changed


@pytest.mark.parametrize(("names", "labels"), [(("only",), [0] * 5), (("a", "b"), [0, 1, 1])])
def test_one_class_and_three_images_give_a_page(
    tmp_path: Path, names: tuple[str, ...], labels: list[int]
) -> None:
    evaluation = found(names, labels, outcomes([0] * len(labels)))
    text = page_of(write_run(tmp_path / "run", evaluation))
    Page(text)
    assert f"{len(labels)} images" in text


def test_an_evaluation_of_no_image_gives_a_page(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run", found(("a", "b"), [-1, -1], outcomes([0, 1]))))
    Page(text)
    assert "0 images, 0.00 % right" in text and "<h2>Calibration" not in text


def test_a_run_on_several_labels_shows_average_precision_and_what_was_missed(
    tmp_path: Path,
) -> None:
    # Class b is right in ranks 1 and 3, a in rank 1; of image 2, which is b, c is predicted.
    labels = np.array([[0, 1], [2, -1], [1, -1]])
    scores = np.array([[9.0, 8.0, 0.0], [1.0, 7.0, 2.0], [0.0, 2.0, 3.0]])
    records = replace(outcomes([0, 2, 2], [0.9, 0.5, 0.7]), scores=scores)
    run = write_run(tmp_path / "run", found(("a", "b", "c"), labels, records))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    means = [row | {"map": 80.0 - row["step"]} if "top1" in row else row for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in means))
    text = page_of(run)
    page = Page(text)
    assert "<dd>76.00 %</dd>" in text and "best mAP, after epoch 0" in text
    assert {"Average precision by class", "Mean average precision"} <= set(page.headings)
    assert not {"Confusions", "Accuracy by class", "Calibration"} & set(page.headings)
    row = r'title="(\w)">\w</span></td><td class="number">(\d)</td>\s*<td[^>]*>(.*?)<'
    shown = re.findall(row, text)
    assert shown == [("c", "1", "50.0 %"), ("b", "2", "83.3 %"), ("a", "1", "100.0 %")]
    assert '<b class="clamp">c 70%</b>' in text and "is b</span>" in text
    columns = re.findall(r'<th scope="col" class="number">([^<]*)</th>', text)
    assert columns[:6] == ["epoch", "updates", "mAP", "top-1", "top-5", "loss"]
    assert write_report([run]).is_file()


def test_a_run_of_an_older_version_gives_curves_and_says_what_is_missing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("model: {name: resnet18}\nold_section: {key: 1}\n")
    (run / "metrics.jsonl").write_text('{"kind": "epoch", "step": 5, "epoch": 0, "top1": 12.5}\n')
    text = page_of(run)
    assert "old_section.key" in text and "12.50 %" in text
    assert "holds no images&#39; outcomes" in text or "holds no images' outcomes" in text


def test_a_run_that_writes_meanwhile_has_the_rows_before_the_half_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    whole = page_of(run)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "steps", "step": 9, "ep')
    assert page_of(run) == whole


def test_what_is_damaged_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", found(("a", "b"), [0, 1], outcomes([0, 0])))
    (run / EVALUATION).write_text('{"format": 1, "step"')
    (run / "recipe.yaml").write_text("model: [\n")
    (run / "machine.json").write_text("{")
    (run / "metrics.jsonl").write_text("nonsense\n" + rows_text())
    text = page_of(run)
    Page(text)
    for words in (
        "report/evaluation.json cannot be read (it is damaged, or of another version)",
        "recipe.yaml:",
        "machine.json cannot be read",
        "metrics.jsonl: 1 lines are no rows; they are left out",
    ):
        assert words in text
    assert "51.00 %" in text


def test_an_evaluation_that_the_rows_do_not_know_is_left_out(tmp_path: Path) -> None:
    evaluation = found(("a", "b"), [0, 1], outcomes([0, 0]), step=400)
    text = page_of(write_run(tmp_path / "run", evaluation))
    assert "is of step 400, of which metrics.jsonl has no row" in text
    assert "Most confident mistakes" not in text


def test_a_run_before_its_first_row_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    assert "No rows yet" in page_of(run)


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no run: there is neither recipe\.yaml nor"):
        write_report([tmp_path])
    with pytest.raises(CheckpointError, match="holds no run"):
        write_report([tmp_path / "missing"])


def test_a_folder_that_takes_no_page_asks_for_another_place(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(DataError) as caught:
        write_report([run])
    assert str(caught.value) == (
        f"{run}/report.html: cannot be written (is a directory); "
        "give another place with --output FILE"
    )
    assert "51.00 %" in write_report([run], tmp_path / "x.html").read_text()


def test_runs_beside_each_other_show_where_their_recipes_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ixt_status: Callable[..., int]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("one/run"), optim={"lr": 0.25})
    write_run(Path("two/run"), optim={"lr": 0.5}, run={"seed": 7})
    assert ixt_status("report", "one/run", "two/run") == 0
    text = Path("comparison.html").read_text()
    page = Page(text)
    assert {"Loss, training", "Loss, validation", "Top-1 accuracy, weights"} <= set(page.headings)
    assert "2 runs: one/run, two/run" in text
    keys = re.findall(r"<code>(\w+\.\w+)</code>", text)
    assert keys == ["optim.lr", "run.seed"]
    assert page.links == []


def test_one_run_twice_is_refused(tmp_path: Path, ixt_status: Callable[..., int]) -> None:
    run = write_run(tmp_path / "run")
    assert ixt_status("report", run, run) == 2


@needs_chromium
def test_a_browser_shows_it_at_any_width_and_asks_the_network_for_nothing(evil: Path) -> None:
    other = shutil.copytree(evil, evil.with_name("other"))
    pages = [
        write_report([evil]).rename(evil.with_name("run.html")),
        write_report([evil, other], evil.with_name("both.html")),
    ]
    with chromium() as browser:
        for page in pages:
            for width in (1280, 400):
                browser.set_window_size(width, 900)
                browser.get(page.as_uri())
                wide = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
                assert browser.execute_script(wide) == 0
            script = "return [...document.querySelectorAll('svg')].map(s => s.clientHeight)"
            heights = browser.execute_script(script)
            assert len(heights) >= 7 and all(height > 100 for height in heights)
        assert browser.get_log("browser") == []
        loaded = {url for url in requested(browser) if not url.startswith("data:")}
        assert loaded <= {page.as_uri() for page in pages}
