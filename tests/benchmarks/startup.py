"""How long `ixt --help` takes, as the median of 11 runs: `python tests/benchmarks/startup.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11


def seconds(*arguments: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start_s


def main() -> None:
    commands = {"ixt --help": ("-m", "ixt", "--help"), "python -c pass": ("-c", "pass")}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(seconds(*command))
    for name, measured in times.items():
        print(f"{name}: {statistics.median(measured):.3f} s")


if __name__ == "__main__":
    main()
