from __future__ import annotations

from bench_samples import report, row, timing

from ixt.bench.report.figures import csv_text
from ixt.bench.report.notes import markdown_text, remarks
from ixt.bench.results import Ceilings

TWO = report(row(10.0), row(12.5, layout="channels_last"), row(None, mode="infer"))


def test_csv_holds_raw_numbers_a_line_per_cell() -> None:
    lines = csv_text(TWO).splitlines()
    assert lines[0] == (
        "model,mode,layout,precision,compile,batch_size,image_size,device,params,macs,"
        "images_per_s,p5_images_per_s,p95_images_per_s,ms_per_step,mfu,of_memory_floor,of_limit,peak_gib,images_per_joule,"
        "rounds,settled,throttled,paper_images_per_s,ratio_to_paper,error"
    )
    assert lines[1] == (
        "inceptionnext_atto,train,contiguous,fp32,False,4,224,cpu,4156520,502000000,"
        f"10.0,9.9,10.1,400.0,,,,1.25,,2,True,False,2661,{10 / 2661},"
    )
    assert lines[3] == (
        "inceptionnext_atto,infer,contiguous,fp32,False,4,224,,,,,,,,,,,,,0,,,9876,,out of memory"
    )
    assert len(lines) == 4


def test_markdown_is_the_terminal_s_table() -> None:
    assert markdown_text(TWO) == (
        "A <CPU> & more, 224 px, torch 2.14.1\n\n"
        "| model | mode | precision | layout | batch | img/s | spread | paper, A100 | ratio "
        "| ms/step | GiB | GMACs | px |\n"
        f"| --- | --- | --- | --- |{' ---: |' * 9}\n"
        "| inceptionnext_atto | train | fp32 | NCHW | 4 | 10.0 | ±1.0% | 2,661 | 0.00376 | 400.0 "
        "| 1.25 | 0.50 | 224 |\n"
        "| inceptionnext_atto | train | fp32 | NHWC | 4 | **12.5** | ±1.0% | 2,661 | 0.0047 "
        "| 320.0 | 1.25 | 0.50 | 224 |\n"
        "| inceptionnext_atto | infer | fp32 | NCHW | 4 | failed |  | 9,876 |  |  |  |  | 224 |\n\n"
        "- inceptionnext_atto infer contiguous fp32 batch 4: out of memory\n"
    )


def test_flags_as_read_back_and_ceilings_stand_under_the_table() -> None:
    checks = {
        "conv_fp32_precision": "tf32",
        "matmul_fp32_precision": "ieee",
        "weight_dtype": "float32",
    }
    own = row(10.0, precision="tf32")
    flagged = own.model_copy(update={"rounds": (timing(10.0, checks=checks),)})
    ceilings = Ceilings(copy_gb_per_s=1500.0, matmul_tflops={"tf32": 128.25})
    lines = markdown_text(report(flagged).model_copy(update={"ceilings": ceilings})).splitlines()
    assert lines[-2:] == [
        "- tf32: convolutions tf32, matrix products ieee, weights float32",
        "- this device reaches 1,500 GB/s in a copy, 128 TFLOP/s in tf32 products",
    ]


def test_a_cpu_that_others_used_is_reported_and_a_gpu_s_host_is_not() -> None:
    busy = (timing(10.0, checks={"other_cores": 0.02}), timing(9.0, checks={"other_cores": 1.04}))
    own = row(10.0).model_copy(update={"rounds": busy})
    assert remarks([own]) == [
        "inceptionnext_atto train contiguous fp32 batch 4: other processes kept 1.0 cores busy; "
        "spread 9.9 to 10.1 img/s"
    ]
    assert remarks([own.model_copy(update={"device": "NVIDIA H200"})]) == []


def test_what_many_cells_share_is_said_once() -> None:
    busy = (timing(10.0, checks={"other_cores": 1.0}),)
    rows = [row(10.0, batch_size=n).model_copy(update={"rounds": busy}) for n in (1, 2, 3, 4)]
    failed = row(None, mode="infer")
    assert remarks([*rows, failed]) == [
        "4 of 5 cells: other processes kept cores busy; spread ±1.0% to ±1.0%",
        "inceptionnext_atto infer contiguous fp32 batch 4: out of memory",
    ]
    assert len(remarks(rows[:3])) == 3
