"""From an order to its results: everything that runs beside the load, and the reports after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from experimance.command.console import SafeConsole
from experimance.load.clock import Clock
from experimance.load.draft import Drafter
from experimance.load.expectation import Expectation, expectation
from experimance.load.health import HealthWatch
from experimance.load.lag import LagMeter
from experimance.load.ledger import Ledger
from experimance.load.misuse import Misuse
from experimance.load.plan import Plan, plan_of
from experimance.load.printout import print_results
from experimance.load.results import Results
from experimance.load.run import Run
from experimance.load.scenario import Traffic, read_traffic
from experimance.load.screen import Screen
from experimance.load.sender import Sender, http_client

_PATIENCE_AFTER_INTERRUPT = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Order:
    """What the command was told; `load` holds the options that a scenario file may set, too."""

    url: str
    token: str | None
    scenario: str
    seed: int | None
    timeout: float
    max_in_flight: int
    respect_retry_after: bool
    load: Mapping[str, Any]
    expectations: tuple[str, ...]
    json: Path | None
    html: Path | None
    quiet: bool
    command: str


def carry_out(order: Order) -> Results | None:
    """Load the service and write the reports; None if nothing answers there.

    Raises:
        Misuse: an option or a scenario file asks for what cannot be done.
    """
    traffic = read_traffic(order.scenario, order.seed)
    plan = plan_of(
        traffic, order.load, timeout=order.timeout, max_in_flight=order.max_in_flight,
        respect_retry_after=order.respect_retry_after,
    )  # fmt: skip
    names = [scenario.name for scenario in traffic.scenarios]
    expectations = [expectation(text, names) for text in order.expectations]
    # The output may be a file, or the report: what is for people to watch goes beside it.
    aside = SafeConsole(stderr=True)
    results = asyncio.run(_measure(order, traffic, plan, expectations, aside))
    if results is None:
        aside.print(
            f"[red]nothing answers at {escape(order.url)}[/] (GET /healthcheck)", highlight=False
        )
        return None
    print_results(results, aside if str(order.json) == "-" else SafeConsole())
    _write(order, results, aside)
    return results


async def _measure(
    order: Order, traffic: Traffic, plan: Plan, expectations: list[Expectation], aside: Console
) -> Results | None:
    clock = Clock()
    ledger = Ledger([scenario.name for scenario in traffic.scenarios])
    async with (
        http_client(order.url, order.token, order.max_in_flight + 8) as client,
        http_client(order.url, order.token, 2) as other,
    ):
        before = HealthWatch(other, clock)
        await before.ask()
        if before.latest is None:
            return None
        drafter = Drafter(traffic)
        started, clock = datetime.now(UTC), Clock()
        health, lag = HealthWatch(other, clock), LagMeter(clock)
        health.about = before.about
        sender = Sender(client, clock, plan.timeout, f"load-{secrets.token_hex(4)}")
        run = Run(plan, drafter, sender, ledger, clock, traffic.seed)
        beside = [asyncio.create_task(lag.run()), asyncio.create_task(health.run())]
        if not order.quiet:
            screen = Screen(
                aside, f"{traffic.name} → {order.url}", plan, run, ledger, health, clock
            )
            beside.append(asyncio.create_task(screen.run()))
        try:
            with _interruptible(run):
                await run.go()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
    return Results.of(
        plan, traffic, ledger, lag, health, expectations,
        url=order.url, started=started, command=order.command,
        sending_ended=run.sending_ended, interrupted=run.stopped,
    )  # fmt: skip


@contextlib.contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """Ctrl-C ends the sending, and what does not end within seconds; a second one all of it."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if run.stopped:
            run.abort()
        else:
            run.stop()
            loop.call_later(_PATIENCE_AFTER_INTERRUPT, run.abort)

    # Windows' event loop has no handlers: there, Ctrl-C ends the program as usual.
    with contextlib.suppress(NotImplementedError):
        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def _write(order: Order, results: Results, aside: Console) -> None:
    if order.json is not None:
        text = json.dumps(results.document(), ensure_ascii=False, allow_nan=False)
        if str(order.json) == "-":
            print(text)
        else:
            _save(order.json, text, "--json", aside)
    if order.html is not None:
        # Only now: it takes longer to import than all the rest.
        from experimance.load.page import page_of

        _save(order.html, page_of(results), "--html", aside)


def _save(path: Path, text: str, option: str, aside: Console) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Misuse(option, f"{path} cannot be written: {error.strerror}") from None
    aside.print(f"written: {path}", style="dim", highlight=False, soft_wrap=True)
