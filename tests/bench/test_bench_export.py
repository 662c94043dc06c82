from __future__ import annotations

from samples import report, row

from ixt.bench.export import csv_text, markdown_text

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
        "| model | mode | precision | batch | NCHW img/s | channels_last img/s | ms/step | GiB "
        "| GMACs | MFU | of limit | paper, A100 | ratio |\n"
        f"| --- | --- | --- |{' ---: |' * 10}\n"
        "| inceptionnext_atto | train | fp32 | 4 | 10.0 ±1.0% | **12.5 ±1.0%** | 320.0 | 1.2 "
        "| 0.50 |  |  | 2661 | 0.00 |\n"
        "| inceptionnext_atto | infer | fp32 | 4 | - |  |  |  |  |  |  | 9876 |  |\n\n"
        "- inceptionnext_atto infer contiguous fp32 batch 4: out of memory\n"
    )
