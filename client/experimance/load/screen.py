"""The table that one watches while a run goes on."""

from __future__ import annotations

import asyncio

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from experimance.load.clock import Clock
from experimance.load.health import HealthWatch
from experimance.load.ledger import Ledger, Table
from experimance.load.outcomes import Ending
from experimance.load.percentiles import percentile
from experimance.load.plan import Plan
from experimance.load.run import Run

_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 10.0
_RECENT_SECONDS = 10.0


class Screen:
    """Shows a run on a terminal twice a second, elsewhere as a line every ten seconds."""

    def __init__(
        self, console: Console, title: str, plan: Plan, run: Run, ledger: Ledger,
        health: HealthWatch, clock: Clock,
    ) -> None:  # fmt: skip
        self._console = console
        self._title = title
        self._plan = plan
        self._run = run
        self._ledger = ledger
        self._health = health
        self._clock = clock

    async def run(self) -> None:
        """Until it is cancelled."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(_LINE_SECONDS)
                self._console.print(self._line(), highlight=False)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._picture(), refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)

    def _rows(self) -> tuple[Table, Table, float]:
        """What was due after the warm-up, what of it ended recently, and in how many seconds."""
        now = self._clock.now()
        table = self._ledger.table()
        measured = table.where(table["intended"] >= self._plan.warmup)
        since = max(self._plan.warmup, now - _RECENT_SECONDS)
        return measured, measured.where(measured["ended"] >= since), max(0.5, now - since)

    def _picture(self) -> Group:
        now = self._clock.now()
        measured, recent, seconds = self._rows()
        grid = Grid.grid(padding=(0, 2))
        for justify in ("left", "right", "right", "right", "right", "right", "right"):
            grid.add_column(justify=justify)
        grid.add_row("", "ok", "ok/s", "p50", "p95", "p99", "max", style="dim")
        for name, rows, lasting in (
            ("last 10 s", recent, seconds),
            ("measured", measured, max(0.5, now - self._plan.warmup)),
        ):
            latency = rows.ended_as(Ending.OK).latency
            grid.add_row(
                name, str(len(latency)), f"{len(latency) / lasting:.2f}",
                *(_seconds(percentile(latency, p)) for p in (50, 95, 99, 100)),
            )  # fmt: skip
        title = Text.assemble((self._title, "bold"), "  ", self._phase(now))
        state, endings = self._state(now, recent, seconds), self._endings(measured)
        return Group(title, self._progress(now), grid, state, endings)

    def _phase(self, now: float) -> Text:
        if self._run.stopped:
            return Text(
                "stopping: waiting for what is under way (Ctrl-C again to leave it)", "yellow"
            )
        if now < self._plan.warmup:
            return Text("warming up, not measured", "yellow")
        if now > self._plan.shape.seconds or not np.isnan(self._run.sending_ended):
            return Text("all sent: waiting for the last answers", "yellow")
        return Text("measuring", "green")

    def _progress(self, now: float) -> Grid:
        plan = self._plan
        grid = Grid.grid(padding=(0, 2))
        done, of, unit = now, plan.shape.seconds, "s"
        if plan.requests is not None:
            done, of, unit = float(len(self._ledger)), float(plan.requests), "requests"
        bar = ProgressBar(total=of, completed=min(done, of), width=40)
        grid.add_row(bar, Text(f"{done:.0f} of {of:.0f} {unit}", "dim"))
        return grid

    def _state(self, now: float, recent: Table, seconds: float) -> Text:
        plan = self._plan
        level = plan.shape.level(now)
        asked = f"asked {level:.2f}/s" if plan.open_loop else f"{int(level)} clients"
        sent = np.count_nonzero(recent["attempts"]) / seconds
        parts = [asked, f"ended {sent:.2f}/s", f"in flight {self._run.in_flight}"]
        waiting = self._ledger.unended - self._run.in_flight
        if waiting > 0:
            parts.append(f"waiting to be sent again {waiting}")
        sample = self._health.latest
        parts.append(
            "server queue ?"
            if sample is None
            else f"server queue {sample.waiting:.0f}, running {sample.running:.0f}, "
            f"{sample.estimated_seconds:.1f} s of work"
        )
        return Text("   ".join(parts))

    def _endings(self, measured: Table) -> Text:
        counts = _counts(measured)
        if not counts:
            return Text("no other outcome than ok so far", "dim")
        text = Text()
        for code, ending, count in counts:
            style = "red" if ending is Ending.FAILED else "yellow"
            text.append(f"{code} {count}   ", style)
        return text

    def _line(self) -> str:
        measured, recent, seconds = self._rows()
        latency = recent.ended_as(Ending.OK).latency
        others = "".join(f", {code} {count}" for code, _, count in _counts(measured))
        return (
            f"{self._clock.now():.0f} s: {len(latency) / seconds:.2f} ok/s, "
            f"p50 {_seconds(percentile(latency, 50))}, p95 {_seconds(percentile(latency, 95))}, "
            f"in flight {self._run.in_flight}{others}"
        )


def _counts(table: Table) -> list[tuple[str, Ending, int]]:
    """Everything but `ok`: code, group, how often."""
    found: list[tuple[str, Ending, int]] = []
    for index, code in enumerate(table.codes):
        rows = table.where(table["code"] == index)
        for ending in Ending:
            count = int(np.count_nonzero(rows["ending"] == ending))
            if count and ending is not Ending.OK:
                found.append((code, ending, count))
    return found


def _seconds(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f} s"
