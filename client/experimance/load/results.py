"""Results of a finished run and the JSON report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from experimance.load.monitors import HealthSample, HealthWatch, LagMeter
from experimance.load.outcomes import OutcomeGroup
from experimance.load.recorder import Column, Columns, RequestLog
from experimance.load.scenario import Traffic
from experimance.load.schedule import Plan
from experimance.load.statistics import (
    METHOD,
    GeneratorStats,
    RequestStats,
    ServerStats,
    after_warmup,
    group_by_scenario,
)  # fmt: skip
from experimance.load.thresholds import Threshold, ThresholdResult

FORMAT = 1
_PACKAGES = ("experimance-client", "httpx2", "numpy", "matplotlib")


@dataclass(frozen=True)
class Results:
    """Statistics of a run and their sources; `requests` includes the warm-up."""

    url: str
    started: datetime
    plan: Plan
    traffic: Traffic
    command: str
    requests: Columns
    messages: dict[str, str]
    sending_ended: float
    interrupted: bool
    total: RequestStats
    scenarios: dict[str, RequestStats]
    generator: GeneratorStats
    server: ServerStats
    about_server: dict[str, Any]
    health: list[HealthSample]
    lag: tuple[Column, Column]
    threshold_results: tuple[ThresholdResult, ...]

    @classmethod
    def of(
        cls, plan: Plan, traffic: Traffic, log: RequestLog, lag: LagMeter, health: HealthWatch,
        thresholds: Sequence[Threshold], *, url: str, started: datetime, command: str,
        sending_ended: float, interrupted: bool,
    ) -> Results:  # fmt: skip
        """Return the results of a run that has ended.

        Args:
            plan: Load and limits of the run.
            traffic: Mix that was sent.
            log: All requests.
            lag: Lag of the event loop.
            health: Samples of the server's health.
            thresholds: Pass criteria.
            url: URL of the service.
            started: Start of the run.
            command: Command line without the token.
            sending_ended: Second after which nothing was due.
            interrupted: Whether the run was stopped early.
        """
        requests = log.to_columns()
        measured = after_warmup(requests, plan.warmup)
        seconds = max(0.0, sending_ended - plan.warmup)
        total = RequestStats.of(measured, plan.warmup, seconds)
        scenarios = group_by_scenario(measured, plan.warmup, seconds)
        return cls(
            url=url,
            started=started,
            plan=plan,
            traffic=traffic,
            command=command,
            requests=requests,
            messages=dict(log.messages),
            sending_ended=sending_ended,
            interrupted=interrupted,
            total=total,
            scenarios=scenarios,
            generator=GeneratorStats.of(lag, measured, plan.warmup),
            server=ServerStats.of(health.samples, plan.warmup),
            about_server=health.about,
            health=list(health.samples),
            lag=(lag.moments, lag.delays),
            threshold_results=tuple(t.evaluate(total, scenarios) for t in thresholds),
        )

    @property
    def passed(self) -> bool:
        """Whether every threshold was met."""
        return all(result.met for result in self.threshold_results)

    @property
    def ended(self) -> float:
        """End of the last request, in seconds from the start of the run."""
        last = float(self.requests["ended"].max()) if len(self.requests) else 0.0
        return max(self.sending_ended, last)

    @property
    def due_per_second(self) -> float | None:
        """Mean rate of due requests after the warm-up; None in a closed loop."""
        if not self.plan.open_loop or self.total.seconds <= 0:
            return None
        return self.total.requests / self.total.seconds

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the results."""
        found = self.generator.warnings(self.total)
        if self.interrupted:
            found.append("the run was interrupted before its end")
        if not self.total.requests:
            found.append("no request was measured: the run ended within its warm-up")
        if self.server.unanswered:
            asked, missing = self.server.asked, self.server.unanswered
            found.append(f"/healthcheck did not answer {missing} of {asked} times")
        if not self.total.sums_agree:
            found.append("the outcomes do not add up to the requests: this is a bug of the tool")
        return found

    def document(self) -> dict[str, Any]:
        """Return the JSON report: statistics, and every request in columns."""
        plan = self.plan
        return {
            "format": FORMAT,
            "passed": self.passed,
            "expectations": [result.document() for result in self.threshold_results],
            "warnings": self.warnings,
            "interrupted": self.interrupted,
            "configuration": {
                "url": self.url,
                "started": self.started.isoformat(timespec="seconds"),
                "command": self.command,
                "mode": plan.mode,
                "open_loop": plan.open_loop,
                "stages": [asdict(stage) for stage in plan.profile.stages],
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
            "versions": find_versions(),
            "summary": self.total.document(),
            "scenarios": {name: stats.document() for name, stats in self.scenarios.items()},
            "generator": self.generator.document(),
            "server": {**self.server.document(), "about": self.about_server},
            "messages": self.messages,
            "health": [
                {k: None if v != v else round(v, 4) for k, v in asdict(sample).items()}
                for sample in self.health
            ],
            "requests": _convert_columns(self.requests),
        }


def find_versions() -> dict[str, str]:
    """Return the versions of Python, the system and installed packages by name."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _convert_columns(requests: Columns) -> dict[str, list[Any]]:
    integers = {"number", "status", "attempts"}
    names = {
        "scenario": requests.scenarios,
        "code": requests.codes,
        "ending": tuple(group.label for group in OutcomeGroup),
    }
    document: dict[str, list[Any]] = {}
    for name, values in requests.arrays.items():
        if name in names:
            document[name] = [names[name][int(value)] for value in values]
        elif name in integers:
            document[name] = [int(value) for value in values]
        else:
            rounded = np.round(values, 6)
            document[name] = [None if np.isnan(v) else float(v) for v in rounded]
    return document
