"""All that is known of a run when it is over: what reports are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from experimance.load.expectation import Expectation, Verdict
from experimance.load.health import HealthSample, HealthWatch
from experimance.load.lag import LagMeter
from experimance.load.ledger import Column, Ledger, Table
from experimance.load.outcomes import Ending
from experimance.load.percentiles import METHOD
from experimance.load.plan import Plan
from experimance.load.scenario import Traffic
from experimance.load.summary import Figures, Generator, Server, figures_by_scenario, measured
from experimance.load.versions import versions

FORMAT = 1


@dataclass(frozen=True)
class Results:
    """A run's figures and what they were made from; `table` has the warm-up's requests too."""

    url: str
    started: datetime
    plan: Plan
    traffic: Traffic
    command: str
    table: Table
    messages: dict[str, str]
    sending_ended: float
    interrupted: bool
    figures: Figures
    scenarios: dict[str, Figures]
    generator: Generator
    server: Server
    about_server: dict[str, Any]
    health: list[HealthSample]
    lag: tuple[Column, Column]
    verdicts: tuple[Verdict, ...]

    @classmethod
    def of(
        cls, plan: Plan, traffic: Traffic, ledger: Ledger, lag: LagMeter, health: HealthWatch,
        expectations: Sequence[Expectation], *, url: str, started: datetime, command: str,
        sending_ended: float, interrupted: bool,
    ) -> Results:  # fmt: skip
        """Of a run that is over."""
        rows = measured(ledger, plan.warmup)
        seconds = max(0.0, sending_ended - plan.warmup)
        figures = Figures.of(rows, plan.warmup, seconds)
        scenarios = figures_by_scenario(rows, plan.warmup, seconds)
        return cls(
            url=url,
            started=started,
            plan=plan,
            traffic=traffic,
            command=command,
            table=ledger.table(),
            messages=dict(ledger.messages),
            sending_ended=sending_ended,
            interrupted=interrupted,
            figures=figures,
            scenarios=scenarios,
            generator=Generator.of(lag, rows, plan.warmup),
            server=Server.of(health.samples, plan.warmup),
            about_server=health.about,
            health=list(health.samples),
            lag=(lag.moments, lag.delays),
            verdicts=tuple(e.judge(figures, scenarios) for e in expectations),
        )

    @property
    def passed(self) -> bool:
        """Whether every expectation was met."""
        return all(verdict.met for verdict in self.verdicts)

    @property
    def ended(self) -> float:
        """When the last request ended, in seconds from the run's begin."""
        return max(self.sending_ended, float(self.table["ended"].max()) if len(self.table) else 0.0)

    @property
    def due_per_second(self) -> float | None:
        """How many were due on average after the warm-up; None in a closed loop."""
        if not self.plan.open_loop or self.figures.seconds <= 0:
            return None
        return self.figures.requests / self.figures.seconds

    @property
    def warnings(self) -> list[str]:
        """What to know before believing the figures."""
        found = self.generator.warnings(self.figures)
        if self.interrupted:
            found.append("the run was broken off before its end")
        if not self.figures.requests:
            found.append("no request was measured: the run ended within its warm-up")
        if self.server.unanswered:
            asked, missing = self.server.asked, self.server.unanswered
            found.append(f"/healthcheck did not answer {missing} of {asked} times")
        if not self.figures.sums_agree:
            found.append("the outcomes do not add up to the requests: this is a fault of the tool")
        return found

    def document(self) -> dict[str, Any]:
        """The JSON report: figures, and every request in columns."""
        plan = self.plan
        return {
            "format": FORMAT,
            "passed": self.passed,
            "expectations": [verdict.document() for verdict in self.verdicts],
            "warnings": self.warnings,
            "interrupted": self.interrupted,
            "configuration": {
                "url": self.url,
                "started": self.started.isoformat(timespec="seconds"),
                "command": self.command,
                "mode": plan.mode,
                "open_loop": plan.open_loop,
                "stages": [asdict(stage) for stage in plan.shape.stages],
                "warmup": plan.warmup,
                "requests": plan.requests,
                "timeout": plan.timeout,
                "max_in_flight": plan.max_in_flight,
                "respect_retry_after": plan.respect_retry_after,
                "seed": self.traffic.seed,
                "scenario": self.traffic.name,
                "scenario_file": self.traffic.text,
                "percentiles": METHOD,
            },
            "versions": versions(),
            "summary": self.figures.document(),
            "scenarios": {name: f.document() for name, f in self.scenarios.items()},
            "generator": self.generator.document(),
            "server": {**self.server.document(), "about": self.about_server},
            "messages": self.messages,
            "health": [_plain(asdict(sample)) for sample in self.health],
            "requests": _columns(self.table),
        }


def _columns(table: Table) -> dict[str, list[Any]]:
    """Every request, those of the warm-up too; moments are seconds from the run's begin."""
    whole = {"number", "status", "attempts"}
    names = {
        "scenario": table.scenarios,
        "code": table.codes,
        "ending": tuple(ending.label for ending in Ending),
    }
    document: dict[str, list[Any]] = {}
    for name, values in table.columns.items():
        if name in names:
            document[name] = [names[name][int(value)] for value in values]
        elif name in whole:
            document[name] = [int(value) for value in values]
        else:
            rounded = np.round(values, 6)
            document[name] = [None if np.isnan(v) else float(v) for v in rounded]
    return document


def _plain(sample: dict[str, float]) -> dict[str, float | None]:
    return {k: None if v != v else round(v, 4) for k, v in sample.items()}
