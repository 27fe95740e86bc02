"""Load test from its configuration to its reports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from experimance.cli.console import SafeConsole
from experimance.load.cli import UsageError
from experimance.load.executor import Clock, Executor
from experimance.load.http import Sender, make_client
from experimance.load.monitors import HealthWatch, LagMeter
from experimance.load.recorder import RequestLog
from experimance.load.report.console import LiveView, print_summary
from experimance.load.request_factory import RequestFactory
from experimance.load.results import Results
from experimance.load.scenario import Traffic, read_traffic
from experimance.load.schedule import Plan, build_plan
from experimance.load.thresholds import Threshold, parse_threshold

_ABORT_DELAY_SECONDS = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class LoadTestConfig:
    """Options of the command; `load` holds those that a scenario file may set, too."""

    url: str
    token: str | None
    scenario: str
    seed: int | None
    timeout: float
    max_in_flight: int
    respect_retry_after: bool
    load: Mapping[str, Any]
    thresholds: tuple[str, ...]
    json: Path | None
    html: Path | None
    quiet: bool
    command: str


def run_load_test(config: LoadTestConfig) -> Results | None:
    """Load the service and write the reports.

    Returns:
        The results, or None if the service does not answer.

    Raises:
        UsageError: An option or a key of the scenario file is not accepted.
    """
    traffic = read_traffic(config.scenario, config.seed)
    plan = build_plan(
        traffic, config.load, timeout=config.timeout, max_in_flight=config.max_in_flight,
        respect_retry_after=config.respect_retry_after,
    )  # fmt: skip
    names = [scenario.name for scenario in traffic.scenarios]
    thresholds = [parse_threshold(text, names) for text in config.thresholds]
    # Progress goes to stderr, because stdout may carry the JSON report.
    stderr = SafeConsole(stderr=True)
    results = asyncio.run(_measure(config, traffic, plan, thresholds, stderr))
    if results is None:
        stderr.print(
            f"[red]nothing answers at {escape(config.url)}[/] (GET /healthcheck)", highlight=False
        )
        return None
    print_summary(results, stderr if str(config.json) == "-" else SafeConsole())
    _write_reports(config, results, stderr)
    return results


async def _measure(
    config: LoadTestConfig, traffic: Traffic, plan: Plan, thresholds: Sequence[Threshold],
    console: Console,
) -> Results | None:  # fmt: skip
    log = RequestLog([scenario.name for scenario in traffic.scenarios])
    async with (
        make_client(config.url, config.token, config.max_in_flight + 8) as client,
        make_client(config.url, config.token, 2) as health_client,
    ):
        probe = HealthWatch(health_client, Clock())
        await probe.poll()
        if probe.latest is None:
            return None
        factory = RequestFactory(traffic)
        started, clock = datetime.now(UTC), Clock()
        health, lag = HealthWatch(health_client, clock), LagMeter(clock)
        health.about = probe.about
        sender = Sender(client, clock.now, plan.timeout, f"load-{secrets.token_hex(4)}")
        executor = Executor(plan, factory, sender, log, clock, traffic.seed)
        tasks = [asyncio.create_task(lag.run()), asyncio.create_task(health.run())]
        if not config.quiet:
            title = f"{traffic.name} → {config.url}"
            view = LiveView(console, title, plan, executor, log, health, clock)
            tasks.append(asyncio.create_task(view.run()))
        try:
            with _handle_signals(executor):
                await executor.run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return Results.of(
        plan, traffic, log, lag, health, thresholds,
        url=config.url, started=started, command=config.command,
        sending_ended=executor.sending_ended, interrupted=executor.stopped,
    )  # fmt: skip


@contextlib.contextmanager
def _handle_signals(executor: Executor) -> Iterator[None]:
    """Stop on the first Ctrl-C and abort after 5 s; abort at once on the second."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if executor.stopped:
            executor.abort()
        else:
            executor.stop()
            loop.call_later(_ABORT_DELAY_SECONDS, executor.abort)

    # The event loop of Windows has no signal handlers; Ctrl-C ends the program there.
    with contextlib.suppress(NotImplementedError):
        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def _write_reports(config: LoadTestConfig, results: Results, console: Console) -> None:
    if config.json is not None:
        text = json.dumps(results.document(), ensure_ascii=False, allow_nan=False)
        if str(config.json) == "-":
            print(text)
        else:
            _write_file(config.json, text, "--json", console)
    if config.html is not None:
        # Imported late, because matplotlib takes longer to import than everything else.
        from experimance.load.report.html import render_html

        _write_file(config.html, render_html(results), "--html", console)


def _write_file(path: Path, text: str, option: str, console: Console) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(option, f"{path} cannot be written: {error.strerror}") from None
    console.print(f"written: {path}", style="dim", highlight=False, soft_wrap=True)
