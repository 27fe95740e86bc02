"""What the terminal says when a run is over."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from experimance.load.percentiles import Spread
from experimance.load.results import Results


def print_results(results: Results, console: Console) -> None:
    """Figures, outcomes, the generator's own lateness, warnings and verdicts."""
    figures = results.figures
    console.print(
        f"\n[bold]{escape(results.traffic.name)}[/] against {escape(results.url)}", highlight=False
    )
    console.print(results.plan.mode, style="dim", highlight=False)
    due = results.due_per_second
    console.print(
        f"{figures.requests} requests in {figures.seconds:.1f} s: "
        + (f"{due:.2f}/s due, " if due is not None else "")
        + f"{figures.sent_per_second:.2f}/s sent, [bold]{figures.ok_per_second:.2f}/s ok[/]",
        highlight=False,
    )
    console.print(_latencies(results))
    console.print(_outcomes(results))
    generator = results.generator
    console.print(
        f"the generator itself: event loop late by {_ms(generator.loop_delay.p99)} (p99), requests "
        f"sent late by {_ms(generator.send_delay.p99)} (p99), {generator.cpu_share:.0%} of a core",
        style="dim", highlight=False,
    )  # fmt: skip
    for warning in results.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for verdict in results.verdicts:
        mark = "[green]met[/]   " if verdict.met else "[red]missed[/]"
        console.print(
            f"{mark} {escape(verdict.expected)}: {escape(verdict.shown)}", highlight=False
        )


def _latencies(results: Results) -> Grid:
    figures = results.figures
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("seconds", no_wrap=True)
    for heading in ("n", "mean", "p50", "p90", "p95", "p99", "max"):
        grid.add_column(heading, justify="right", no_wrap=True)
    rows: list[tuple[str, Spread]] = [("latency", figures.latency)]
    if results.plan.open_loop:
        rows = [("latency from due", figures.latency), ("from sending", figures.service_time)]
    if figures.first_step.count:
        rows.append(("to the first step", figures.first_step))
    if len(results.scenarios) > 1:
        rows += [(f"  {name}", f.latency) for name, f in results.scenarios.items()]
    rows += [(f"  server: {part}", s) for part, s in figures.timings.items() if s.count]
    for name, spread in rows:
        values = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99, spread.max)
        grid.add_row(
            name, str(spread.count), *("-" if math.isnan(v) else f"{v:.3f}" for v in values)
        )
    return grid


def _outcomes(results: Results) -> Grid:
    figures = results.figures
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("outcomes")
    grid.add_column("n", justify="right")
    grid.add_column("share", justify="right")
    grid.add_column("the first said", overflow="fold")
    for ending, count in figures.endings.items():
        if count or ending == "failed":
            grid.add_row(ending, str(count), f"{count / max(1, figures.requests):.1%}", "")
        for code, part in figures.causes[ending].items():
            if code != ending:
                grid.add_row(f"  {code}", str(part), "", results.messages.get(code, "")[:200])
    adds_up = "add up" if figures.sums_agree else "DO NOT ADD UP"
    grid.add_row(f"all ({adds_up})", str(figures.requests), "", "")
    return grid


def _ms(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:.1f} ms"
