"""Report of a first visit to a GPU: correctness, waits, times, kernels, memory, loads, recovery.

    python -m benchmarks.gpu_report [--minutes 8] [--output FILE] [--only NAME …] [--miniature]

Needs torch, diffusers and a GPU with 24 GB, but no service and no files, because SDXL's networks
get random weights. Each section stands by itself: a failure costs one section, and the report is
written after each. Sections that do not fit into the minutes are listed as left out. `--miniature`
is a trial with narrow networks on any device. `python -m benchmarks.pack_gpu_report` packs what a
bare machine needs.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import torch

from benchmarks.support.gpu.inspection import kernels, levers, memory
from benchmarks.support.gpu.painting import Row, correctness, step_times, waits
from benchmarks.support.gpu.service_work import loads, recovery
from benchmarks.support.gpu.subject import Subject
from benchmarks.support.report import finish

BAR = 1.0
"""Seconds of the eager engine over the pipeline's, for the installation's request."""

SECTIONS: Mapping[str, Callable[[Subject], Iterator[Row]]] = {
    "correctness": correctness,
    "waits": waits,
    "step times": step_times,
    "kernels": kernels,
    "memory": memory,
    "loads": loads,
    "recovery": recovery,
    "levers": levers,
}
"""Sections by name, in the order of what an installation needs to know first."""


class Report:
    """Markdown report that is written to its file after each section.

    Args:
        title: the first line.
        output: the file; None prints only.
    """

    def __init__(self, title: str, output: Path | None) -> None:
        self.figures: dict[str, dict[str, Any]] = {}
        self.left_out: list[str] = []
        self.failed: dict[str, str] = {}
        self._lines = [f"# {title}"]
        self._output = output

    def add(self, name: str, section: Iterator[Row], seconds_left: float) -> None:
        """Run a section and add its rows; an exception ends the section only.

        Args:
            name: name of the section.
            section: its rows, which are measured while they are read.
            seconds_left: seconds until the report must end; a section does not start without any.
        """
        if seconds_left <= 0:
            self.left_out.append(name)
            self._say(f"\n## {name}\n\nLeft out: no time was left.")
            return
        started = time.monotonic()
        self._say(f"\n## {name}\n\n| | figures |\n|---|---|")
        try:
            for line, values in section:
                self.figures[line] = values
                shown = ", ".join(f"{key} {_show(value)}" for key, value in values.items())
                self._say(f"| {line} | {shown} |")
        except Exception as error:
            self.failed[name] = " ".join(f"{type(error).__name__}: {error}".split())
            last = traceback.extract_tb(error.__traceback__)[-1]
            self._say(
                f"| failed | {self.failed[name]} ({Path(last.filename).name}:{last.lineno}) |"
            )
        self._say(f"\n{time.monotonic() - started:.0f} s.")

    def _say(self, text: str) -> None:
        print(text, flush=True)
        self._lines.append(text)
        if self._output is not None:
            self._output.write_text("\n".join(self._lines) + "\n", encoding="utf-8")


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _device_name(subject: Subject) -> str:
    if not subject.on_gpu:
        return "CPU"
    _, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()} ({total / 2**30:.0f} GiB)"


def main() -> None:
    """Run the sections, and finish with the engine's seconds over the pipeline's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--output", type=Path, default=None, help="also write the report here")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--miniature", action="store_true")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(options.miniature, Path(folder))
        name = _device_name(subject)
        report = Report(f"{name}, torch {torch.__version__}", options.output)
        for section in options.only:
            report.add(section, SECTIONS[section](subject), ends - time.monotonic())
    request = report.figures.get("installation's request, seconds", {})
    picture = report.figures.get("picture against diffusers'", {})
    is_right = bool(picture.get("equal within half precision"))
    ratio = request.get("ratio")
    is_fast = ratio is not None and (options.miniature or ratio <= BAR)
    passed = not report.failed and ("correctness" not in options.only or (is_right and is_fast))
    finish(
        {"ratio": ratio, "equal": is_right}, {"ratio": BAR, "equal": True}, passed, device=name,
        figures=report.figures, left_out=report.left_out, failed=report.failed,
    )  # fmt: skip


if __name__ == "__main__":
    main()
