"""Live view during a run and summary after it, on the terminal."""

from __future__ import annotations

import asyncio
import math

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experimance.load.executor import Clock, Executor
from experimance.load.monitors import HealthWatch
from experimance.load.outcomes import OutcomeGroup
from experimance.load.recorder import Columns, RequestLog
from experimance.load.results import Results
from experimance.load.schedule import Plan
from experimance.load.statistics import LatencyStats, after_warmup, percentile

_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 10.0
_RECENT_SECONDS = 10.0


class LiveView:
    """Progress of a run: a table updated twice a second, or a line every 10 s off a terminal."""

    def __init__(
        self, console: Console, title: str, plan: Plan, executor: Executor, log: RequestLog,
        health: HealthWatch, clock: Clock,
    ) -> None:  # fmt: skip
        self._console = console
        self._title = title
        self._plan = plan
        self._executor = executor
        self._log = log
        self._health = health
        self._clock = clock

    async def run(self) -> None:
        """Update the view until cancelled."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(_LINE_SECONDS)
                self._console.print(self._line(), highlight=False)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._render(), refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)

    def _select(self) -> tuple[Columns, Columns, float]:
        """Return the measured requests, those that ended recently, and the seconds of these."""
        now = self._clock.now()
        measured = after_warmup(self._log.to_columns(), self._plan.warmup)
        since = max(self._plan.warmup, now - _RECENT_SECONDS)
        return measured, measured.where(measured["ended"] >= since), max(0.5, now - since)

    def _render(self) -> Group:
        now = self._clock.now()
        measured, recent, seconds = self._select()
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "right", "right", "right", "right", "right", "right"):
            table.add_column(justify=justify)
        table.add_row("", "ok", "ok/s", "p50", "p95", "p99", "max", style="dim")
        for name, requests, duration in (
            ("last 10 s", recent, seconds),
            ("measured", measured, max(0.5, now - self._plan.warmup)),
        ):
            latency = requests.with_outcome(OutcomeGroup.OK).latency
            table.add_row(
                name, str(len(latency)), f"{len(latency) / duration:.2f}",
                *(_format_seconds(percentile(latency, p)) for p in (50, 95, 99, 100)),
            )  # fmt: skip
        title = Text.assemble((self._title, "bold"), "  ", self._phase(now))
        state, outcomes = self._state(now, recent, seconds), self._outcomes(measured)
        return Group(title, self._progress(now), table, state, outcomes)

    def _phase(self, now: float) -> Text:
        if self._executor.stopped:
            return Text(
                "stopping: waiting for requests in flight (Ctrl-C again to abort)", "yellow"
            )
        if now < self._plan.warmup:
            return Text("warming up, not measured", "yellow")
        if now > self._plan.profile.seconds or not np.isnan(self._executor.sending_ended):
            return Text("all sent: waiting for the last responses", "yellow")
        return Text("measuring", "green")

    def _progress(self, now: float) -> Table:
        plan = self._plan
        done, total, unit = now, plan.profile.seconds, "s"
        if plan.requests is not None:
            done, total, unit = float(len(self._log)), float(plan.requests), "requests"
        bar = ProgressBar(total=total, completed=min(done, total), width=40)
        table = Table.grid(padding=(0, 2))
        table.add_row(bar, Text(f"{done:.0f} of {total:.0f} {unit}", "dim"))
        return table

    def _state(self, now: float, recent: Columns, seconds: float) -> Text:
        plan, in_flight = self._plan, self._executor.in_flight
        level = plan.profile.level(now)
        ended = np.count_nonzero(recent["attempts"]) / seconds
        parts = [
            f"asked {level:.2f}/s" if plan.open_loop else f"{int(level)} clients",
            f"ended {ended:.2f}/s",
            f"in flight {in_flight}",
        ]
        if self._log.in_flight > in_flight:
            parts.append(f"waiting to be sent again {self._log.in_flight - in_flight}")
        sample = self._health.latest
        parts.append(
            "server queue ?"
            if sample is None
            else f"server queue {sample.waiting:.0f}, running {sample.running:.0f}, "
            f"{sample.estimated_seconds:.1f} s of work"
        )
        return Text("   ".join(parts))

    def _outcomes(self, measured: Columns) -> Text:
        counts = _count_failures(measured)
        if not counts:
            return Text("no other outcome than ok so far", "dim")
        text = Text()
        for code, group, count in counts:
            text.append(f"{code} {count}   ", "red" if group is OutcomeGroup.FAILED else "yellow")
        return text

    def _line(self) -> str:
        measured, recent, seconds = self._select()
        latency = recent.with_outcome(OutcomeGroup.OK).latency
        p50, p95 = (_format_seconds(percentile(latency, share)) for share in (50, 95))
        others = "".join(f", {code} {count}" for code, _, count in _count_failures(measured))
        return (
            f"{self._clock.now():.0f} s: {len(latency) / seconds:.2f} ok/s, p50 {p50}, p95 {p95}, "
            f"in flight {self._executor.in_flight}{others}"
        )


def _count_failures(requests: Columns) -> list[tuple[str, OutcomeGroup, int]]:
    """Return code, group and count of all outcomes other than `ok`."""
    found: list[tuple[str, OutcomeGroup, int]] = []
    for index, code in enumerate(requests.codes):
        endings = requests["ending"][requests["code"] == index]
        for group in OutcomeGroup:
            count = int(np.count_nonzero(endings == group))
            if count and group is not OutcomeGroup.OK:
                found.append((code, group, count))
    return found


def print_summary(results: Results, console: Console) -> None:
    """Print latencies, outcomes, the generator's lag, warnings and thresholds."""
    total = results.total
    console.print(
        f"\n[bold]{escape(results.traffic.name)}[/] against {escape(results.url)}", highlight=False
    )
    console.print(results.plan.mode, style="dim", highlight=False)
    due = results.due_per_second
    console.print(
        f"{total.requests} requests in {total.seconds:.1f} s: "
        + (f"{due:.2f}/s due, " if due is not None else "")
        + f"{total.sent_per_second:.2f}/s sent, [bold]{total.ok_per_second:.2f}/s ok[/]",
        highlight=False,
    )
    console.print(_tabulate_latencies(results))
    console.print(_tabulate_outcomes(results))
    generator = results.generator
    console.print(
        f"load generator: event loop late by {_format_ms(generator.loop_delay.p99)} (p99), "
        f"requests sent late by {_format_ms(generator.send_delay.p99)} (p99), "
        f"{generator.cpu_share:.0%} of a core",
        style="dim",
        highlight=False,
    )
    for warning in results.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for result in results.threshold_results:
        mark = "[green]met[/]   " if result.met else "[red]missed[/]"
        console.print(f"{mark} {escape(result.expected)}: {escape(result.shown)}", highlight=False)


def _tabulate_latencies(results: Results) -> Table:
    total = results.total
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("seconds", no_wrap=True)
    for heading in ("n", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows: list[tuple[str, LatencyStats]] = [("latency", total.latency)]
    if results.plan.open_loop:
        rows = [("latency from due", total.latency), ("from sending", total.service_time)]
    if total.first_step.count:
        rows.append(("to the first step", total.first_step))
    if len(results.scenarios) > 1:
        rows += [(f"  {name}", stats.latency) for name, stats in results.scenarios.items()]
    rows += [(f"  server: {phase}", s) for phase, s in total.timings.items() if s.count]
    for name, stats in rows:
        values = (stats.mean, stats.p50, stats.p90, stats.p95, stats.p99, stats.max)
        table.add_row(
            name, str(stats.count), *("-" if math.isnan(v) else f"{v:.3f}" for v in values)
        )
    return table


def _tabulate_outcomes(results: Results) -> Table:
    total = results.total
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("outcomes")
    table.add_column("n", justify="right")
    table.add_column("share", justify="right")
    table.add_column("first message", overflow="fold")
    for ending, count in total.endings.items():
        if count or ending == "failed":
            table.add_row(ending, str(count), f"{count / max(1, total.requests):.1%}", "")
        for code, part in total.causes[ending].items():
            if code != ending:
                table.add_row(f"  {code}", str(part), "", results.messages.get(code, "")[:200])
    adds_up = "add up" if total.sums_agree else "DO NOT ADD UP"
    table.add_row(f"all ({adds_up})", str(total.requests), "", "")
    return table


def _format_seconds(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f} s"


def _format_ms(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:.1f} ms"
