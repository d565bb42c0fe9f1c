"""``make gpu-check``: checks and measurements that need a GPU, in ten minutes; exit status 0 if every part passes.

Run as ``python -m gpu`` with ``tests``, ``tests/support`` and the repository's root on the path. The figures are
written as JSON, with a picture of the kernels. A failure is recorded with its reason, and the other parts go on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.machine import describe

from . import machine, small
from .released import Released
from .report import Report
from .scale import GPU, REHEARSAL


def main() -> None:
    """Check, measure and report failures."""
    parser = argparse.ArgumentParser(prog="python -m gpu", description="Check a GPU and measure the server on it.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_check.json"), help="JSON file")
    parser.add_argument("--seconds", type=float, default=570, help="limit for all parts (default: %(default)g)")
    parser.add_argument("--rehearse", action="store_true", help="try the script itself without a GPU, at small sizes")
    parser.add_argument("--work", type=Path, help="folder for models, logs and profiles (default: a temporary one)")
    args = parser.parse_args()
    scale = REHEARSAL if args.rehearse else GPU
    report = Report(args.output, args.seconds, {"machine": describe()})
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
        work = args.work or Path(temporary)
        report.part("machine", 60, partial(machine.describe, on_gpu=scale.on_gpu))
        Released(report, scale, work, args.output.parent).check()
        small.check(report, scale, work)
    print(f"figures: {args.output}")
    if report.failed:
        sys.exit(f"failed: {', '.join(report.failed)}")


if __name__ == "__main__":
    main()
