"""The figures of a run, all from the ledger's columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from experimance.load.health import HealthSample
from experimance.load.lag import LagMeter
from experimance.load.ledger import Column, Ledger, Table
from experimance.load.outcomes import PARTS, Ending
from experimance.load.percentiles import Spread

_LATE_SECONDS = 0.05
_LATE_SHARE = 0.05
_BUSY = 0.8


@dataclass(frozen=True)
class Figures:
    """Of the requests that were due in `seconds`; latencies are of those that ended `ok`.

    `ok_seconds` reaches to the end of the last of those, if that is later: a queue that is left
    over in the end took its time too.
    `latency` is from when a request was due, `service_time` from when it was sent, `first_step`
    from when it was due to the first step that a stream told of.
    """

    seconds: float
    ok_seconds: float
    requests: int
    sent: int
    resent: int
    endings: dict[str, int]
    causes: dict[str, dict[str, int]]
    latency: Spread
    service_time: Spread
    first_step: Spread
    timings: dict[str, Spread]

    @classmethod
    def of(cls, table: Table, begin: float, seconds: float) -> Figures:
        """Of all rows, which were due in so many seconds from `begin`."""
        ok = table.ended_as(Ending.OK)
        streamed = table.where(~np.isnan(table["first"]))
        attempts = table["attempts"]
        return cls(
            seconds=seconds,
            ok_seconds=max(seconds, float(ok["ended"].max()) - begin if len(ok) else 0.0),
            requests=len(table),
            sent=int(np.count_nonzero(attempts)),
            resent=int(np.maximum(attempts - 1, 0).sum()),
            endings={e.label: int(np.count_nonzero(table["ending"] == e)) for e in Ending},
            causes={e.label: _codes(table.ended_as(e)) for e in Ending},
            latency=Spread.of(ok.latency),
            service_time=Spread.of(ok.service_time),
            first_step=Spread.of(streamed["first"] - streamed["intended"]),
            timings={part: Spread.of(ok[part][~np.isnan(ok[part])]) for part in PARTS},
        )

    @property
    def codes(self) -> dict[str, int]:
        """How often each code was the outcome, whatever group it belongs to."""
        counts: Counter[str] = Counter()
        for causes in self.causes.values():
            counts.update(causes)
        return dict(counts)

    @property
    def sent_per_second(self) -> float:
        """First sends over the seconds in which they were due."""
        return self.sent / self.seconds if self.seconds > 0 else float("nan")

    @property
    def ok_per_second(self) -> float:
        """Requests that ended ok over the seconds that it took until all of them had."""
        return self.endings["ok"] / self.ok_seconds if self.ok_seconds > 0 else float("nan")

    @property
    def sums_agree(self) -> bool:
        """Whether endings and codes both add up to the requests."""
        return sum(self.endings.values()) == sum(self.codes.values()) == self.requests

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seconds": self.seconds,
            "ok_seconds": self.ok_seconds,
            "requests": self.requests,
            "sent": self.sent,
            "resent": self.resent,
            "endings": self.endings,
            "codes": self.causes,
            "sums_agree": self.sums_agree,
            "sent_per_second": _finite(self.sent_per_second),
            "ok_per_second": _finite(self.ok_per_second),
            "latency": self.latency.document(),
            "service_time": self.service_time.document(),
            "first_step": self.first_step.document(),
            "timings": {part: spread.document() for part, spread in self.timings.items()},
        }


@dataclass(frozen=True)
class Generator:
    """The load generator's own lateness, in seconds, and the share of a core that it took."""

    loop_delay: Spread
    send_delay: Spread
    cpu_share: float

    @classmethod
    def of(cls, lag: LagMeter, table: Table, warmup: float) -> Generator:
        """Over the measured part."""
        sent = table.send_delay
        delays = lag.delays[lag.moments >= warmup]
        return cls(Spread.of(delays), Spread.of(sent[~np.isnan(sent)]), lag.cpu_share)

    def warnings(self, figures: Figures) -> list[str]:
        """Why the figures may be the generator's rather than the server's."""
        found = []
        delays = (self.loop_delay.p99, self.send_delay.p99)
        delay = max((seconds for seconds in delays if not np.isnan(seconds)), default=0.0)
        if delay > max(_LATE_SECONDS, _LATE_SHARE * figures.latency.p50):
            found.append(
                f"the load generator was late itself (p99 {delay * 1000:.0f} ms): give it a core "
                "of its own, or a machine"
            )
        if self.cpu_share > _BUSY:
            found.append(
                f"the load generator took {self.cpu_share:.0%} of a core: it was the bottleneck; "
                "run several, or ask for less"
            )
        if figures.endings["unsent"]:
            found.append(
                f"{figures.endings['unsent']} requests were due and not sent, because as many as "
                "--max-in-flight allows were under way"
            )
        return found

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "loop_delay": self.loop_delay.document(),
            "send_delay": self.send_delay.document(),
            "cpu_share": self.cpu_share,
        }


@dataclass(frozen=True)
class Server:
    """What /healthcheck said during the measured part: requests waiting, seconds it took."""

    asked: int
    unanswered: int
    waiting: Spread
    answer: Spread

    @classmethod
    def of(cls, samples: list[HealthSample], warmup: float) -> Server:
        """Of the samples after the warm-up."""
        kept = [s for s in samples if s.at >= warmup]
        waiting, seconds = (_column(kept, name) for name in ("waiting", "seconds"))
        unanswered = len(kept) - len(seconds)
        return cls(len(kept), unanswered, Spread.of(waiting), Spread.of(seconds))

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "asked": self.asked,
            "unanswered": self.unanswered,
            "waiting": self.waiting.document(),
            "answer": self.answer.document(),
        }


def measured(ledger: Ledger, warmup: float) -> Table:
    """The requests that were due after the warm-up."""
    table = ledger.table()
    return table.where(table["intended"] >= warmup)


def figures_by_scenario(table: Table, begin: float, seconds: float) -> dict[str, Figures]:
    """Each scenario's figures by its name."""
    return {
        name: Figures.of(table.where(table["scenario"] == index), begin, seconds)
        for index, name in enumerate(table.scenarios)
    }


def _codes(table: Table) -> dict[str, int]:
    counts = np.bincount(table["code"].astype(np.int64), minlength=len(table.codes))
    return {code: int(count) for code, count in zip(table.codes, counts, strict=True) if count}


def _column(samples: list[HealthSample], name: str) -> Column:
    values = np.array([getattr(sample, name) for sample in samples], dtype=np.float64)
    return values[~np.isnan(values)]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
