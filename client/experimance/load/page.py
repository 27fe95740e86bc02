"""The HTML report: one file that needs nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from experimance.load.outcomes import Ending
from experimance.load.percentiles import METHOD, Spread
from experimance.load.plots import drawings
from experimance.load.results import Results
from experimance.load.summary import Figures
from experimance.load.versions import versions

_MEANINGS = {
    Ending.OK: "a picture",
    Ending.REFUSED: "429: the server was full and said when to come back",
    Ending.STOPPED: "cancelled, left or superseded, as the scenario wanted",
    Ending.FAILED: "everything else: the errors",
    Ending.UNSENT: "due while as many as --max-in-flight allows were under way",
    Ending.INTERRUPTED: "under way when the run was broken off",
}


def page_of(results: Results) -> str:
    """The whole page."""
    template = Template((resources.files("experimance.load") / "page.html").read_text("utf-8"))
    started = results.started.strftime("%Y-%m-%d %H:%M:%S UTC")
    marks = ["Shaded: the warm-up, not measured."] if results.plan.warmup else []
    if results.ended > results.sending_ended * 1.02:
        marks.append("Dotted line: nothing was sent after it.")
    return template.substitute(
        title=escape(f"Load test: {results.traffic.name}"),
        subtitle=escape(f"{results.url} · {started} · {results.plan.mode}"),
        notes=_notes(results),
        tiles=_tiles(results),
        legend=escape(" ".join(marks)),
        plots="".join(_plot(results)),
        latency=_latency(results),
        outcomes=_outcomes(results),
        scenarios=_scenarios(results.scenarios),
        configuration=_configuration(results),
    )


def _notes(results: Results) -> str:
    items = [
        (
            "met" if verdict.met else "missed",
            f"{'Met' if verdict.met else 'Missed'}: {verdict.expected}, {verdict.shown}",
        )
        for verdict in results.verdicts
    ]
    items += [("warning", f"Warning: {text}") for text in results.warnings]
    if not items:
        return ""
    return (
        '<ul class="notes">'
        + "".join(f'<li class="{kind}">{escape(text)}</li>' for kind, text in items)
        + "</ul>"
    )


def _tiles(results: Results) -> str:
    figures = results.figures
    due = results.due_per_second
    latency, total = figures.latency, max(1, figures.requests)
    failed, refused = figures.endings["failed"], figures.endings["refused"]
    tiles = [
        ("ok per second", f"{figures.ok_per_second:.2f}", _sent(figures, due), False),
        ("p50", _seconds(latency.p50), f"mean {_seconds(latency.mean)}", False),
        ("p95", _seconds(latency.p95), f"p90 {_seconds(latency.p90)}", False),
        ("p99", _seconds(latency.p99), f"max {_seconds(latency.max)}", False),
        (
            "requests",
            str(figures.requests),
            f"in {figures.seconds:.0f} s, {latency.count} ok",
            False,
        ),
        ("errors", f"{failed / total:.1%}", f"{failed} of {figures.requests}", failed > 0),
        ("refused", f"{refused / total:.1%}", f"{refused} of {figures.requests}", False),
        ("server's queue", _plain(results.server.waiting.max), "most that waited at once", False),
    ]
    return "".join(
        f'<li><span class="name">{escape(name)}</span><b class="{"bad" if bad else ""}">'
        f"{escape(value)}</b><small>{escape(note)}</small></li>"
        for name, value, note, bad in tiles
    )


def _sent(figures: Figures, due: float | None) -> str:
    sent = f"sent {figures.sent_per_second:.2f}"
    return f"due {due:.2f}, {sent}" if due is not None else sent


def _plot(results: Results) -> Iterable[str]:
    for drawing, words in drawings(results):
        yield (
            f"<figure><h3>{escape(drawing.title)}</h3>{drawing.svg(f'{drawing.title}. {words}')}"
            f"<figcaption>{escape(words)}</figcaption></figure>"
        )


def _latency(results: Results) -> str:
    figures = results.figures
    rows: list[tuple[str, Spread]] = [
        ("latency, from when it was due", figures.latency),
        ("from when it was sent", figures.service_time),
    ]
    if figures.first_step.count:
        rows.append(("to a stream's first step", figures.first_step))
    rows += [(f"server: {part}", spread) for part, spread in figures.timings.items()]
    rows += [
        ("the generator's event loop, late by", results.generator.loop_delay),
        ("the generator's sending, late by", results.generator.send_delay),
        ("/healthcheck", results.server.answer),
    ]
    return (
        _table(
            ("", "n", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"),
            [
                (
                    name,
                    str(s.count),
                    *map(_bare, (s.mean, s.p50, s.p90, s.p95, s.p99, s.p999, s.max)),
                )
                for name, s in rows
            ],
        )
        + f'<p class="muted">Percentiles: {escape(METHOD)}.</p>'
    )


def _outcomes(results: Results) -> str:
    figures = results.figures
    total = max(1, figures.requests)
    rows = []
    for ending in Ending:
        count = figures.endings[ending.label]
        rows.append(_row((ending.label, str(count), f"{count / total:.2%}"), _MEANINGS[ending]))
        for code, part in figures.causes[ending.label].items():
            if code != ending.label:
                said = results.messages.get(code, "")
                words = f"the first said: {said}" if said else ""
                cells = (code, str(part), f"{part / total:.2%}")
                rows.append(_row(cells, words, indent=True))
    agree = "endings and codes both add up to it" if figures.sums_agree else "they do not add up"
    rows.append(_row(("all", str(figures.requests), ""), agree, kind="sum"))
    resent = f", {figures.resent} sends again after Retry-After" if figures.resent else ""
    return (
        "<table><thead><tr><th>ending, and code</th><th>n</th><th>share</th>"
        '<th class="text">what it is</th></tr></thead><tbody>' + "".join(rows) + "</tbody></table>"
        f'<p class="muted">{figures.sent} were sent{resent}. '
        f"The run's warm-up had {len(results.table) - figures.requests} more.</p>"
    )


def _row(cells: Sequence[str], text: str, *, indent: bool = False, kind: str = "") -> str:
    first, *others = cells
    return (
        f'<tr class="{kind}"><td{" class=indent" if indent else ""}>{escape(first)}</td>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in others)
        + f'<td class="text">{escape(text)}</td></tr>'
    )


def _scenarios(scenarios: dict[str, Figures]) -> str:
    headings = ("", "requests", "ok", "refused", "stopped", "failed", "p50", "p95", "p99", "max")
    rows = []
    for name, figures in scenarios.items():
        counts = (figures.endings[key] for key in ("ok", "refused", "stopped", "failed"))
        spread = figures.latency
        seconds = (spread.p50, spread.p95, spread.p99, spread.max)
        rows.append((name, str(figures.requests), *map(str, counts), *map(_bare, seconds)))
    return _table(headings, rows)


def _configuration(results: Results) -> str:
    plan, server = results.plan, results.about_server
    ends = f", or {plan.requests} requests" if plan.requests else ""
    run = {
        "command": results.command,
        "load": f"{plan.mode}{ends}",
        "warm-up": f"{plan.warmup:g} s",
        "timeout": f"{plan.timeout:g} s",
        "most in flight": str(plan.max_in_flight),
        "refused requests": "sent again after Retry-After"
        if plan.respect_retry_after
        else "count at once",
        "seed": str(results.traffic.seed),
        "generator": f"{results.generator.cpu_share:.0%} of a core",
    }
    about = {key.replace("_", " "): _listed(value) for key, value in server.items()}
    scenario = (
        f"<details><summary>Scenario file {escape(results.traffic.name)}</summary>"
        f"<pre>{escape(results.traffic.text.strip())}</pre></details>"
    )
    return (
        f"<details open><summary>Command and plan</summary>{_list(run)}</details>"
        f"<details><summary>Server, by its /healthcheck before</summary>{_list(about)}</details>"
        f"{scenario}<details><summary>Versions</summary>{_list(versions())}</details>"
    )


def _list(pairs: dict[str, str]) -> str:
    rows = (f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items())
    return f"<dl>{''.join(rows)}</dl>"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def _bare(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _plain(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"
