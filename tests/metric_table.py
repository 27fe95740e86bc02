"""The table of metrics in docs/operations.md, as tests read it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.server import ROOT

_ROW = re.compile(r"^\| `(experimance_\w+)` \| (\w+) \|([^|]*)\| ([^|]*) \| (.*) \|$", re.M)


@dataclass(frozen=True, slots=True)
class DocumentedMetric:
    """One row; `gpu` marks those that need a GPU."""

    name: str
    kind: str
    labels: frozenset[str]
    unit: str
    gpu: bool


def documented_metrics() -> list[DocumentedMetric]:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    return [
        DocumentedMetric(
            name, kind, frozenset(re.findall(r"`(\w+)`", labels)), unit, "with a GPU" in meaning
        )
        for name, kind, labels, unit, meaning in _ROW.findall(page)
    ]


def series_of(metric: DocumentedMetric) -> set[str]:
    """The names of a metric's series, as queries use them."""
    if metric.kind == "histogram":
        return {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.name}
