"""The script that checks a GPU: its report and its reading of a profile."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

from gpu.kernels import draw, table_of
from gpu.report import Figures, Report


def test_a_part_that_fails_keeps_its_figures_and_does_not_end_the_others(tmp_path: Path) -> None:
    def fail(figures: Figures) -> None:
        figures["measured"] = 3
        raise ValueError("a kernel was missing")

    report = Report(tmp_path / "figures.json", 60, {"machine": "a card"})
    assert not report.part("first", 10, fail)
    assert report.part("second", 10, lambda figures: figures.update(measured=4))
    written_report = json.loads((tmp_path / "figures.json").read_text())
    assert written_report["machine"] == "a card"
    assert written_report["parts"]["first"]["measured"] == 3
    assert written_report["parts"]["first"]["failed"] == "ValueError: a kernel was missing"
    assert "failed" not in written_report["parts"]["second"]
    assert report.failed == ["first"]


def test_a_part_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    report = Report(tmp_path / "figures.json", 60, {})
    assert not report.part("hangs", 0.1, lambda _: time.sleep(60))
    assert "took more than 0.1 s" in report.parts["hangs"]["failed"]


def test_a_part_is_not_started_without_enough_time(tmp_path: Path) -> None:
    started: list[Figures] = []
    report = Report(tmp_path / "figures.json", 1, {})
    assert not report.part("late", 10, started.append)
    assert not started
    assert "not begun" in report.parts["late"]["failed"]


def test_the_kernels_of_a_trace_are_summed_by_name(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [
        {"cat": "kernel", "name": "gemm", "dur": 3000},
        {"cat": "kernel", "name": "top_k", "dur": 1000},
        {"cat": "cpu_op", "name": "aten::mm", "dur": 9000},
        {"cat": "kernel", "name": "gemm", "dur": 4000},
        {"name": "process_name"},
    ]
    trace = tmp_path / "rank.trace.json.gz"
    trace.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    table = table_of(trace, "kernel")
    assert table == [
        {"kernel": "gemm", "calls": 2, "ms": 7.0, "share": 0.875},
        {"kernel": "top_k", "calls": 1, "ms": 1.0, "share": 0.125},
    ]
    draw(table, "two kernels", tmp_path / "kernels.png")
    assert (tmp_path / "kernels.png").stat().st_size > 1000
