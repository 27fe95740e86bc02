"""Command-line options, usage errors and exit statuses."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import httpx2
import typer

_LOADS = "Load"
_REPORTS = "Reports"
_EXIT_MISSED, _EXIT_USAGE, _EXIT_INTERRUPTED = 1, 2, 130


class UsageError(ValueError):
    """An option or scenario key with an invalid value; the message lists the accepted ones."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


def join_names(names: Iterable[str]) -> str:
    """Return names as a comma-separated list."""
    return ", ".join(names)


def load(
    url: Annotated[
        str, typer.Option(envvar="MODEL_SERVER_URL", help="service URL; no other host is contacted")
    ] = "http://127.0.0.1:3000",
    token: Annotated[
        str | None, typer.Option(envvar="API_TOKEN", help="bearer token", show_envvar=True)
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(help="traffic mix: a TOML file, or burst, installation or visitors"),
    ] = "visitors",
    seed: Annotated[
        int | None, typer.Option(min=0, help="seed of all random draws; the file's, else 0")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            help="open loop: requests per second, due regardless of earlier responses. 2, a ramp "
            "1..5, or stages 1..5:30s,5:60s",
            rich_help_panel=_LOADS,
        ),
    ] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(
            help="arrival process of an open loop: poisson (default) or constant",
            rich_help_panel=_LOADS,
        ),
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option(
            help="closed loop: clients that each wait for a response before the next request; "
            "ramps and stages as with --rate",
            rich_help_panel=_LOADS,
        ),
    ] = None,
    think: Annotated[
        str | None,
        typer.Option(help="think time of a client in seconds: 2, or 1..3", rich_help_panel=_LOADS),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            help="duration of a load without stages: 90, 90s, 1.5m; 30s by default",
            rich_help_panel=_LOADS,
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="stop after this many requests", rich_help_panel=_LOADS)
    ] = None,
    warmup: Annotated[
        str | None,
        typer.Option(help="unmeasured load before the measurement: 5s", rich_help_panel=_LOADS),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, max=3600, help="timeout of a request in seconds", rich_help_panel=_LOADS
        ),
    ] = 120.0,
    max_in_flight: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="concurrent requests; further due requests stay unsent",
            rich_help_panel=_LOADS,
        ),
    ] = 256,
    respect_retry_after: Annotated[
        bool,
        typer.Option(
            "--respect-retry-after",
            help="resend refused requests after the server's Retry-After, at most four times",
            rich_help_panel=_LOADS,
        ),
    ] = False,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            help="expectation, e.g. p95<1.5, p99<=800ms, errors<1%, rate>2, deadline_exceeded<1, "
            "visitors:p95<2; exit status 1 if missed. Repeatable",
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="figures and every request; - for standard output alone",
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="one self-contained page with charts",
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="no live view", rich_help_panel=_REPORTS)
    ] = False,
) -> None:  # fmt: skip
    """Put load on a service; report throughput, latency and outcomes.

    Exit status: 0; 1 if an expectation was missed or the service did not answer; 2 for a usage
    error; 130 if the run was interrupted (the reports are still written).
    """
    _check_packages(html)
    # Imported after the check, because these modules need the packages of the extra.
    from experimance.load.load_test import LoadTestConfig, run_load_test

    config = LoadTestConfig(
        url=_check_url(url), token=token, scenario=scenario, seed=seed, timeout=timeout,
        max_in_flight=max_in_flight, respect_retry_after=respect_retry_after,
        load={
            "rate": rate, "arrivals": arrivals, "clients": clients, "think": think,
            "duration": duration, "requests": requests, "warmup": warmup,
        },
        thresholds=tuple(expect or ()),
        json=_check_path(json, "--json"),
        html=_check_path(html, "--html"),
        quiet=quiet,
        command=_redact_command_line(),
    )  # fmt: skip
    try:
        results = run_load_test(config)
    except UsageError as error:
        raise typer.BadParameter(error.problem, param_hint=f"'{error.where}'") from None
    if results is None:
        raise typer.Exit(_EXIT_MISSED)
    if results.interrupted:
        raise typer.Exit(_EXIT_INTERRUPTED)
    if not results.passed:
        raise typer.Exit(_EXIT_MISSED)


def _check_packages(html: Path | None) -> None:
    needed = ("numpy", "pydantic", *(("matplotlib", "jinja2") if html else ()))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        hint = "pip install 'experimance-client[load]'"
        typer.echo(f"{join_names(missing)} {verb} needed: {hint}", err=True)
        raise typer.Exit(_EXIT_USAGE)


def _check_url(url: str) -> str:
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


def _check_path(path: Path | None, option: str) -> Path | None:
    """Reject a path that cannot be written, before the run rather than after it."""
    if path is not None and str(path) != "-" and (path.is_dir() or not path.parent.is_dir()):
        raise typer.BadParameter(
            f"{path} is not a file in an existing folder", param_hint=f"'{option}'"
        )
    if str(path) == "-" and option == "--html":
        raise typer.BadParameter(
            "needs a file name; use --json - for standard output", param_hint="'--html'"
        )
    return path


def _redact_command_line() -> str:
    """Return the command line as typed, without the token."""
    words = ["experimance", *(sys.argv[1:] if "load" in sys.argv else ["load", *sys.argv[1:]])]
    for index, word in enumerate(words):
        if word == "--token" and index + 1 < len(words):
            words[index + 1] = "…"
        elif word.startswith("--token="):
            words[index] = "--token=…"
    return shlex.join(words)
