"""The command: options in, exit status out."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from experimance.load.misuse import Misuse

_LOADS = "Load"
_REPORTS = "Reports"
_MISSED, _BROKEN_OFF = 1, 130


def load(
    url: Annotated[
        str, typer.Option(envvar="MODEL_SERVER_URL", help="the service; nothing else is talked to")
    ] = "http://127.0.0.1:3000",
    token: Annotated[
        str | None, typer.Option(envvar="API_TOKEN", help="bearer token", show_envvar=True)
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(help="what is sent: a TOML file, or burst, installation or visitors"),
    ] = "visitors",
    seed: Annotated[
        int | None, typer.Option(min=0, help="of everything that is drawn; the file's, else 0")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="open loop: requests per second, due whatever became of the others. 2, a ramp "
            "1..5, or stages 1..5:30s,5:60s",
            rich_help_panel=_LOADS,
        ),
    ] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(help="of an open loop: poisson (default) or constant", rich_help_panel=_LOADS),
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option(
            help="closed loop: callers who each wait for their answer before they ask again; "
            "ramps and stages as with --rate",
            rich_help_panel=_LOADS,
        ),
    ] = None,
    think: Annotated[
        str | None,
        typer.Option(help="pause of a client in seconds: 2, or 1..3", rich_help_panel=_LOADS),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            help="of a load without stages: 90, 90s, 1.5m; 30s by default", rich_help_panel=_LOADS
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="end after so many requests", rich_help_panel=_LOADS)
    ] = None,
    warmup: Annotated[
        str | None,
        typer.Option(help="load before that does not count: 5s", rich_help_panel=_LOADS),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, max=3600, help="seconds until a request has failed", rich_help_panel=_LOADS
        ),
    ] = 120.0,
    max_in_flight: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="connections; what is due beyond is unsent",
            rich_help_panel=_LOADS,
        ),
    ] = 256,
    respect_retry_after: Annotated[
        bool,
        typer.Option(
            "--respect-retry-after",
            help="send refused requests again when the server said so, four times at most",
            rich_help_panel=_LOADS,
        ),
    ] = False,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            help="e.g. p95<1.5, p99<=800ms, errors<1%, rate>2, deadline_exceeded<1, "
            "visitors:p95<2; exit status 1 when missed. Repeatable",
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="figures and every request; - for the output alone",
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="one page with plots, nothing beside it",
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="no live table", rich_help_panel=_REPORTS)
    ] = False,
) -> None:  # fmt: skip
    """Put load on a service, and say how much it took and how soon it answered.

    Exit status: 0, or 1 if an expectation was missed or nothing answered, 2 for a wrong option,
    130 if it was broken off (the reports are written nevertheless).
    """
    _check_packages(html)
    # After the check: these need the packages of the extra.
    from experimance.load.session import Order, carry_out

    order = Order(
        url=_url(url), token=token, scenario=scenario, seed=seed, timeout=timeout,
        max_in_flight=max_in_flight, respect_retry_after=respect_retry_after,
        load={
            "rate": rate, "arrivals": arrivals, "clients": clients, "think": think,
            "duration": duration, "requests": requests, "warmup": warmup,
        },
        expectations=tuple(expect or ()),
        json=_writable(json, "--json"),
        html=_writable(html, "--html"),
        quiet=quiet,
        command=_command_line(),
    )  # fmt: skip
    try:
        results = carry_out(order)
    except Misuse as misuse:
        raise typer.BadParameter(misuse.problem, param_hint=f"'{misuse.where}'") from None
    if results is None:
        raise typer.Exit(_MISSED)
    if results.interrupted:
        raise typer.Exit(_BROKEN_OFF)
    if not results.passed:
        raise typer.Exit(_MISSED)


def _check_packages(html: Path | None) -> None:
    needed = ("numpy", "matplotlib") if html else ("numpy",)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        typer.echo(
            f"{', '.join(missing)} is needed: pip install 'experimance-client[load]'", err=True
        )
        raise typer.Exit(2)


def _url(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.query:
        raise typer.BadParameter(
            f"{url!r} is not accepted; use http://HOST:PORT or https://HOST", param_hint="'--url'"
        )
    if parsed.userinfo:
        raise typer.BadParameter("must not hold a password; use --token", param_hint="'--url'")
    return url.rstrip("/")


def _writable(path: Path | None, option: str) -> Path | None:
    """Before the run rather than after it."""
    if path is not None and str(path) != "-" and (path.is_dir() or not path.parent.is_dir()):
        raise typer.BadParameter(
            f"{path} is no file in a folder that exists", param_hint=f"'{option}'"
        )
    if str(path) == "-" and option == "--html":
        raise typer.BadParameter(
            "is a file's name; use --json - for the output", param_hint="'--html'"
        )
    return path


def _command_line() -> str:
    """As it was typed, without what nobody should read in a report."""
    words = ["experimance", *(sys.argv[1:] if "load" in sys.argv else ["load", *sys.argv[1:]])]
    for index, word in enumerate(words):
        if word == "--token" and index + 1 < len(words):
            words[index + 1] = "…"
        elif word.startswith("--token="):
            words[index] = "--token=…"
    return shlex.join(words)
