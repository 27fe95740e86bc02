"""HTML report: one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from experimance.load.outcomes import OutcomeGroup
from experimance.load.report.charts import draw_charts
from experimance.load.results import Results, find_versions
from experimance.load.statistics import METHOD, LatencyStats

_MEANINGS = {
    OutcomeGroup.OK: "an image",
    OutcomeGroup.REFUSED: "429: the server was full and said when to come back",
    OutcomeGroup.STOPPED: "cancelled, left or superseded, as the scenario intended",
    OutcomeGroup.FAILED: "everything else: the errors",
    OutcomeGroup.UNSENT: "due while --max-in-flight was reached",
    OutcomeGroup.INTERRUPTED: "in flight when the run was interrupted",
}


def render_html(results: Results) -> str:
    """Return the page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"share": _format_share, "seconds": _format_seconds, "plain": _format}
    source = (resources.files("experimance.load.report") / "template.html").read_text("utf-8")
    return environment.from_string(source).render(
        results=results,
        total=results.total,
        requests=max(1, results.total.requests),
        charts=draw_charts(results),
        latencies=_list_latencies(results),
        outcomes=[(group.label, meaning) for group, meaning in _MEANINGS.items()],
        method=METHOD,
        plan=_describe_plan(results),
        server={k.replace("_", " "): _join(v) for k, v in results.about_server.items()},
        versions=find_versions(),
    )


def _list_latencies(results: Results) -> Iterable[tuple[str, LatencyStats]]:
    total = results.total
    yield "latency, from due", total.latency
    yield "from sending", total.service_time
    if total.first_step.count:
        yield "to the first step of a stream", total.first_step
    for phase, stats in total.timings.items():
        yield f"server: {phase}", stats
    yield "load generator: lag of the event loop", results.generator.loop_delay
    yield "load generator: delay of sending", results.generator.send_delay
    yield "/healthcheck", results.server.answer


def _describe_plan(results: Results) -> dict[str, str]:
    plan = results.plan
    limit = f", or {plan.requests} requests" if plan.requests else ""
    return {
        "command": results.command,
        "load": f"{plan.mode}{limit}",
        "warm-up": f"{plan.warmup:g} s",
        "timeout": f"{plan.timeout:g} s",
        "most in flight": str(plan.max_in_flight),
        "refused requests": "sent again after Retry-After"
        if plan.respect_retry_after
        else "count at once",
        "seed": str(results.traffic.seed),
        "generator": f"{results.generator.cpu_share:.0%} of a core",
    }


def _join(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _format(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _format_seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{_format(value, 2 if value < 100 else 0)} s"


def _format_share(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"
