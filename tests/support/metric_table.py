"""The table of metrics in docs/operations.md, as tests read it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from testing.server import ROOT

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


FOLDER = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


RULES = {rule["alert"]: rule for group in read("rules.yml")["groups"] for rule in group["rules"]}


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in RULES.values()), *panels]
