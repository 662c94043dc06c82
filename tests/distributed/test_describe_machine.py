from __future__ import annotations

import torch

from ixt.distributed.machine import describe_machine


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["packages"]["torch"] == torch.__version__.split("+")[0]
    assert machine["cpu_cores"] >= 1
