from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from bench_samples import report, row, small_report
from html_page import Page, chromium, needs_chromium, requested

from ixt.bench.report.figures import Source, measured
from ixt.bench.report.page import page_html
from ixt.bench.report.roofline_charts import roofline_charts
from ixt.bench.report.svg import _VARIABLES
from ixt.bench.results import Ceilings
from ixt.errors import EngineError


@pytest.fixture(scope="module")
def text() -> str:
    ceilings = Ceilings(copy_gb_per_s=16.0, matmul_tflops={"fp32": 0.08})
    return page_html([Source("bench", small_report().model_copy(update={"ceilings": ceilings}))])


def test_the_page_is_whole_and_loads_nothing(text: str) -> None:
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert page.links == []
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)|@import|<link|<img", text)
    references = set(re.findall(r'(?:url\(#|xlink:href="#)([\w-]+)', text))
    assert references <= set(page.ids)


def test_there_is_a_chart_for_each_question_and_it_says_what_it_shows(text: str) -> None:
    page = Page(text)
    for heading in ("Accuracy and speed", "Layouts and precisions", "Batch sizes", "All results"):
        assert heading in page.headings
    # Accuracy of two modes; bars of four models and modes; batches of one; the roofline.
    assert len(page.labels) == 2 + 4 + 1 + 1
    assert "inceptionnext_atto, training, images per second: fp32 NCHW 11; fp32 NHWC 14" in (
        page.labels
    )
    assert "Without a published accuracy: mobilenetv4_conv_small at 224 px." in text


def test_marks_say_their_figures(text: str) -> None:
    tips = re.findall(r'<g class="tip"><title>(.*?)</title>', text)
    assert any(
        tip.startswith("inceptionnext_atto, bench: 75.3 % at 14.0 img/s (13.9 to 14.1)")
        and tip.endswith("0.01 times the paper&#x27;s rate")
        for tip in tips
    )
    assert "inceptionnext_tiny, the paper: 82.3 % at 901 img/s, 28.1 M parameters" in tips


def test_colours_are_all_the_theme_s(text: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--series-1)" in drawings
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) == set()
    assert not any(colour in text for colour in _VARIABLES)


def test_remarks_stand_before_the_figures_and_names_are_escaped(text: str) -> None:
    assert text.index("the warm-up did not settle") < text.index("<main>")
    assert "inceptionnext_atto infer channels_last fp32 batch 4: out of memory" in text
    assert "A &lt;CPU&gt; &amp; more" in text
    assert "<CPU>" not in text


def test_two_files_are_distinguished() -> None:
    sources = [Source("old", report(row(10.0))), Source("new", report(row(11.0)))]
    text = page_html(sources)
    assert "measured: old" in text and "measured: new" in text
    assert '<th scope="col"><button type="button">results</button></th>' in text
    # Bars are compared with the first file's, and every point has its own name.
    assert re.findall(r"<small>([\d.]+x)</small>", text) == ["1.00x", "1.10x"]
    assert text.count("InceptionNeXt-A, old") == text.count("InceptionNeXt-A, new") == 1


def test_a_bar_alone_is_compared_with_nothing() -> None:
    sources = [Source("old", report(row(10.0))), Source("new", report(row(11.0, model="resnet18")))]
    assert re.findall(r"<small>([\d.]+x)</small>", page_html(sources)) == []


def test_every_measured_point_has_a_name_whatever_the_files_are_called() -> None:
    models = ("inceptionnext_atto", "resnet18", "inceptionnext_tiny")
    rows = [row(10.0 + n, model=model) for n, model in enumerate(models)]
    labels = ("results_before_the_long_change", "results_after_the_long_change")
    text = page_html([Source(label, report(*rows)) for label in labels])
    chart = text[text.index("Accuracy and training throughput") :].split("</svg>")[0]
    names = re.findall(r"<text[^>]*>([^<]+)</text>", chart)
    for model in ("InceptionNeXt-A", "resnet18", "InceptionNeXt-T"):
        assert sum(name.split(",")[0] == model for name in names) == 2, model


def test_results_without_a_figure_are_refused() -> None:
    with pytest.raises(EngineError, match="no cell of the results has a figure"):
        page_html([Source("bench", report(row(None)))])


def test_a_missing_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EngineError, match=r"need matplotlib \(.*\); pip install 'ixt\[plot\]'$"):
        page_html([Source("bench", report(row(1.0)))])


def test_the_roofline_places_points_by_intensity_and_share() -> None:
    # 3.01 GFLOP over 48 MB an image; the limit is 70,213 images per second.
    own = row(7021.3, precision="amp-bf16", device="NVIDIA H100 80GB HBM3", batch_size=128)
    (drawing,), remarks = roofline_charts(measured([Source("bench", report(own))]))
    assert remarks == []
    assert "63 FLOP/byte, 21.1 TFLOP/s, 10.0% of the limit" in drawing.svg
    assert "Roofline of h100-sxm, bf16" in drawing.alt
    assert "Dashed" not in drawing.caption


def test_ceilings_are_drawn_under_known_peaks_and_stand_in_for_unknown_ones() -> None:
    ceilings = Ceilings(copy_gb_per_s=16.0, matmul_tflops={"fp32": 0.08, "amp-bf16": 700.0})
    known = report(row(9.0, precision="amp-bf16", device="h100")).model_copy(
        update={"ceilings": ceilings}
    )
    (drawing,), _ = roofline_charts(measured([Source("bench", known)]))
    assert "700 TFLOP/s measured" in drawing.svg and "Dashed" in drawing.caption
    unknown = report(row(9.0)).model_copy(update={"ceilings": ceilings})
    (drawing,), _ = roofline_charts(measured([Source("bench", unknown)]))
    assert "Sloping: the 16 GB/s of a copy" in drawing.caption
    assert "0.0271 TFLOP/s" in drawing.svg  # 3.01 GFLOP, 9 times a second


def test_without_any_peaks_there_is_no_roofline() -> None:
    entries = measured([Source("bench", report(row(1.0)))])
    drawings, (remark,) = roofline_charts(entries)
    assert drawings == [] and remark.startswith("No roofline: cpu: not a known device")
    with pytest.raises(EngineError, match="not a known device"):
        roofline_charts(entries, "cpu")


@needs_chromium
def test_a_browser_draws_it_sorts_it_and_asks_the_network_for_nothing(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(text)
    with chromium() as browser:
        browser.set_window_size(1280, 900)
        browser.get(file.as_uri())
        script = "return [...document.querySelectorAll('svg')].map(s => s.clientHeight)"
        assert all(height > 20 for height in browser.execute_script(script))
        column = (
            "return [...document.querySelectorAll('#results tbody tr')]"
            ".map(r => r.querySelector('.rate').textContent)"
        )
        button = browser.find_element("xpath", "//button[text()='img/s']")
        browser.execute_script("arguments[0].click()", button)
        largest = ["40.0", "14.0", "12.0", "11.0", "10.0", "6.0", "5.0", "failed"]
        assert browser.execute_script(column) == largest
        browser.execute_script("arguments[0].click()", button)
        assert browser.execute_script(column) == [*largest[-2::-1], "failed"]
        header = button.find_element("xpath", "..")
        assert header.get_attribute("aria-sort") == "ascending"
        tip = browser.find_element("id", "tip")
        for kind, says in (("svg .tip", "img/s"), (".bar.tip", "fp32 NCHW: 11.0 img/s")):
            mark = browser.find_element("css selector", kind)
            browser.execute_script(
                "arguments[0].dispatchEvent(new PointerEvent('pointermove', "
                "{clientX: innerWidth - 5, clientY: 5}))",
                mark,
            )
            assert says in tip.text
            assert tip.rect["x"] + tip.rect["width"] <= 1280
        assert browser.get_log("browser") == []
        assert requested(browser) <= {file.as_uri()}
        browser.set_window_size(400, 900)
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(wide) == 0
