"""Exact percentiles and summary statistics of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experimance.load.monitors import HealthSample, LagMeter
from experimance.load.outcomes import PHASES, OutcomeGroup
from experimance.load.recorder import Column, Columns

METHOD = "nearest rank over all values: the smallest that at least p % of them do not exceed"
_SHARES = (50, 90, 95, 99, 99.9)
_LATE_SECONDS = 0.05
_LATE_SHARE = 0.05
_BUSY = 0.8


def percentile(values: Column, share: float) -> float:
    """Return the percentile of `share` percent by nearest rank; NaN without values.

    The result is a measured value, never the mean of two.
    """
    if not len(values):
        return float("nan")
    return float(np.percentile(values, share, method="inverted_cdf"))


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Distribution of values in seconds; NaN without values."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, values: Column) -> LatencyStats:
        """Return the statistics of all values."""
        if not len(values):
            return cls(0, *(float("nan"),) * 8)
        p50, p90, p95, p99, p999 = (
            float(value) for value in np.percentile(values, _SHARES, method="inverted_cdf")
        )
        low, mean, high = float(values.min()), float(values.mean()), float(values.max())
        return cls(len(values), mean, low, p50, p90, p95, p99, p999, high)

    def document(self) -> dict[str, float | int | None]:
        """Return the statistics for JSON, which has no NaN."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class RequestStats:
    """Statistics of the requests that were due within `seconds`.

    Attributes:
        seconds: Duration of the measurement.
        ok_seconds: Duration until the last `ok` response, if that is longer.
        requests: Number of requests.
        sent: Number of requests that were sent.
        resent: Number of further attempts.
        endings: Number of requests by outcome group.
        causes: Number of requests by outcome group and code.
        latency: Seconds from due to ended, of `ok` requests.
        service_time: Seconds from sent to ended, of `ok` requests.
        first_step: Seconds from due to a stream's first step event.
        timings: Seconds reported by the server, by phase.
    """

    seconds: float
    ok_seconds: float
    requests: int
    sent: int
    resent: int
    endings: dict[str, int]
    causes: dict[str, dict[str, int]]
    latency: LatencyStats
    service_time: LatencyStats
    first_step: LatencyStats
    timings: dict[str, LatencyStats]

    @classmethod
    def of(cls, requests: Columns, start: float, seconds: float) -> RequestStats:
        """Return the statistics of requests that were due within `seconds` from `start`."""
        ok = requests.with_outcome(OutcomeGroup.OK)
        streamed = requests.where(~np.isnan(requests["first"]))
        attempts = requests["attempts"]
        groups = {group.label: requests.with_outcome(group) for group in OutcomeGroup}
        return cls(
            seconds=seconds,
            ok_seconds=max(seconds, float(ok["ended"].max()) - start if len(ok) else 0.0),
            requests=len(requests),
            sent=int(np.count_nonzero(attempts)),
            resent=int(np.maximum(attempts - 1, 0).sum()),
            endings={label: len(rows) for label, rows in groups.items()},
            causes={label: _count_codes(rows) for label, rows in groups.items()},
            latency=LatencyStats.of(ok.latency),
            service_time=LatencyStats.of(ok.service_time),
            first_step=LatencyStats.of(streamed["first"] - streamed["intended"]),
            timings={phase: LatencyStats.of(_drop_nan(ok[phase])) for phase in PHASES},
        )

    @property
    def codes(self) -> dict[str, int]:
        """Number of requests by code, over all groups."""
        counts: Counter[str] = Counter()
        for causes in self.causes.values():
            counts.update(causes)
        return dict(counts)

    @property
    def sent_per_second(self) -> float:
        """First attempts per second of the measurement."""
        return self.sent / self.seconds if self.seconds > 0 else float("nan")

    @property
    def ok_per_second(self) -> float:
        """`ok` requests per second; a queue left over at the end counts as time."""
        return self.endings["ok"] / self.ok_seconds if self.ok_seconds > 0 else float("nan")

    @property
    def sums_agree(self) -> bool:
        """Whether groups and codes both add up to the requests."""
        return sum(self.endings.values()) == sum(self.codes.values()) == self.requests

    def document(self) -> dict[str, Any]:
        """Return the statistics for JSON."""
        return {
            "seconds": self.seconds,
            "ok_seconds": self.ok_seconds,
            "requests": self.requests,
            "sent": self.sent,
            "resent": self.resent,
            "endings": self.endings,
            "codes": self.causes,
            "sums_agree": self.sums_agree,
            "sent_per_second": _nan_to_none(self.sent_per_second),
            "ok_per_second": _nan_to_none(self.ok_per_second),
            "latency": self.latency.document(),
            "service_time": self.service_time.document(),
            "first_step": self.first_step.document(),
            "timings": {phase: stats.document() for phase, stats in self.timings.items()},
        }


@dataclass(frozen=True)
class GeneratorStats:
    """Lag of the load generator in seconds, and its CPU time as a share of one core."""

    loop_delay: LatencyStats
    send_delay: LatencyStats
    cpu_share: float

    @classmethod
    def of(cls, lag: LagMeter, requests: Columns, warmup: float) -> GeneratorStats:
        """Return the statistics from second `warmup` on; `requests` exclude the warm-up."""
        return cls(
            loop_delay=LatencyStats.of(lag.delays[lag.moments >= warmup]),
            send_delay=LatencyStats.of(_drop_nan(requests.send_delay)),
            cpu_share=lag.cpu_share,
        )

    def warnings(self, stats: RequestStats) -> list[str]:
        """Return reasons to attribute the latencies to the generator instead of the server."""
        found = []
        delays = (self.loop_delay.p99, self.send_delay.p99)
        delay = max((seconds for seconds in delays if not np.isnan(seconds)), default=0.0)
        if delay > max(_LATE_SECONDS, _LATE_SHARE * stats.latency.p50):
            found.append(
                f"the load generator itself was late (p99 {delay * 1000:.0f} ms): give it a core "
                "or a machine of its own"
            )
        if self.cpu_share > _BUSY:
            found.append(
                f"the load generator used {self.cpu_share:.0%} of a core and was the bottleneck: "
                "run several, or reduce the load"
            )
        if stats.endings["unsent"]:
            found.append(
                f"{stats.endings['unsent']} requests were due but not sent, because "
                "--max-in-flight was reached"
            )
        return found

    def document(self) -> dict[str, Any]:
        """Return the statistics for JSON."""
        return {
            "loop_delay": self.loop_delay.document(),
            "send_delay": self.send_delay.document(),
            "cpu_share": self.cpu_share,
        }


@dataclass(frozen=True)
class ServerStats:
    """Statistics of /healthcheck: polls, queued requests and response times in seconds."""

    asked: int
    unanswered: int
    waiting: LatencyStats
    answer: LatencyStats

    @classmethod
    def of(cls, samples: list[HealthSample], warmup: float) -> ServerStats:
        """Return the statistics of the samples from second `warmup` on."""
        kept = [sample for sample in samples if sample.at >= warmup]
        waiting = _drop_nan(np.array([sample.waiting for sample in kept], dtype=np.float64))
        seconds = _drop_nan(np.array([sample.seconds for sample in kept], dtype=np.float64))
        unanswered = len(kept) - len(seconds)
        return cls(len(kept), unanswered, LatencyStats.of(waiting), LatencyStats.of(seconds))

    def document(self) -> dict[str, Any]:
        """Return the statistics for JSON."""
        return {
            "asked": self.asked,
            "unanswered": self.unanswered,
            "waiting": self.waiting.document(),
            "answer": self.answer.document(),
        }


def after_warmup(requests: Columns, warmup: float) -> Columns:
    """Return the requests that were due after the warm-up."""
    return requests.where(requests["intended"] >= warmup)


def group_by_scenario(requests: Columns, start: float, seconds: float) -> dict[str, RequestStats]:
    """Return the statistics of each scenario by its name."""
    return {
        name: RequestStats.of(requests.where(requests["scenario"] == index), start, seconds)
        for index, name in enumerate(requests.scenarios)
    }


def _count_codes(requests: Columns) -> dict[str, int]:
    counts = np.bincount(requests["code"].astype(np.int64), minlength=len(requests.codes))
    return {code: int(count) for code, count in zip(requests.codes, counts, strict=True) if count}


def _drop_nan(values: Column) -> Column:
    return values[~np.isnan(values)]


def _nan_to_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
