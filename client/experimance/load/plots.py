"""What a report shows of a run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from experimance.load.colours import AMBER, BLUE, GREY, INK, MUTED, RED, TEAL, VIOLET
from experimance.load.drawing import Drawing
from experimance.load.intervals import Intervals
from experimance.load.ledger import Column, Table
from experimance.load.outcomes import PARTS, Ending
from experimance.load.percentiles import percentile
from experimance.load.results import Results

_MOST_POINTS = 1500
_MOST_STAIRS = 400
_SHADES = {
    Ending.REFUSED: (AMBER,),
    Ending.STOPPED: (TEAL, BLUE, GREY),
    Ending.FAILED: (RED, VIOLET, INK, GREY),
    Ending.UNSENT: (MUTED,),
    Ending.INTERRUPTED: (GREY,),
}


def drawings(results: Results) -> list[tuple[Drawing, str]]:
    """Each drawing with what it shows in words."""
    return [
        _latency_over_time(results),
        _distribution(results),
        _scenarios(results),
        _throughput(results),
        _in_flight(results),
        _outcomes(results),
        _timings(results),
        _lateness(results),
    ]


def _over_time(results: Results, axes: Axes) -> Intervals:
    """The axis of time, with the warm-up shaded and the end of the sending marked."""
    axes.set_xlim(0, results.ended or 1)
    axes.set_xlabel("seconds from the start")
    if results.plan.warmup:
        axes.axvspan(0, results.plan.warmup, color=GREY, alpha=0.18, linewidth=0)
    if results.ended > results.sending_ended * 1.02:
        axes.axvline(results.sending_ended, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    return Intervals.over(results.ended, len(results.table))


def _latency_over_time(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("latency", "Latency over time", tall=True)
    (axes,) = drawing.axes
    spans = _over_time(results, axes)
    ok = results.table.ended_as(Ending.OK)
    moments, latency = ok["intended"], ok.latency
    shown = np.linspace(0, len(ok) - 1, min(len(ok), _MOST_POINTS)).astype(np.int64)
    axes.plot(
        moments[shown], latency[shown], ".", color=GREY, markersize=5, alpha=0.8, label="request"
    )
    for share, colour in ((50, TEAL), (95, BLUE), (99, VIOLET)):
        line = spans.each(moments, latency, lambda row, p=share: percentile(row, p))  # type: ignore[misc]
        axes.plot(spans.middles, line, color=colour, label=f"p{share}", marker="o", markersize=2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds")
    drawing.legend(axes, 4)
    return drawing, (
        "By the moment when each request was due; percentiles of every "
        f"{spans.width:g} s. Only requests that ended ok."
    )


def _distribution(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("distribution", "Latency distribution", rows=2, tall=True)
    above, below = drawing.axes
    latency = np.sort(_measured(results).ended_as(Ending.OK).latency)
    if len(latency):
        above.hist(latency, bins=min(40, max(8, int(len(latency) ** 0.5) * 2)), color=BLUE)
        below.step(*_stairs(latency), where="post", color=BLUE)
        for share, colour in ((50, TEAL), (95, AMBER), (99, RED)):
            at = percentile(latency, share)
            for axes in (above, below):
                axes.axvline(at, color=colour, linewidth=1.2, label=f"p{share} {at:.2f} s")
        above.set_xlim(left=0)
    above.set_ylabel("requests")
    below.set_ylabel("% within")
    below.set_ylim(0, 102)
    below.set_xlabel("seconds")
    drawing.legend(above)
    return drawing, "Above how many took how long, below which share took no longer."


def _scenarios(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("scenarios", "Latency by scenario")
    (axes,) = drawing.axes
    ok = _measured(results).ended_as(Ending.OK)
    found = [(name, ok.where(ok["scenario"] == i).latency) for i, name in enumerate(ok.scenarios)]
    shades = (BLUE, AMBER, TEAL, VIOLET, RED)
    for place, (name, latency) in enumerate((n, v) for n, v in found if len(v)):
        colour = shades[place] if place < len(shades) else GREY
        values, shares = _stairs(np.sort(latency))
        axes.step(values, shares, where="post", color=colour, label=name)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 102)
    axes.set_xlabel("seconds")
    axes.set_ylabel("% within")
    drawing.legend(axes)
    return drawing, "Which share of a scenario's ok requests took no longer."


def _throughput(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("throughput", "Requests per second")
    (axes,) = drawing.axes
    spans = _over_time(results, axes)
    table = results.table
    if results.plan.open_loop:
        moments = np.linspace(0, results.plan.shape.seconds, 400, endpoint=False)
        asked = [results.plan.shape.level(float(m)) for m in moments]
        axes.plot(moments, asked, color=INK, linewidth=1, linestyle=(0, (4, 2)), label="asked")
    sent = table["sent"][~np.isnan(table["sent"])]
    axes.plot(spans.middles, spans.rate(sent), color=GREY, label="sent")
    refused = table.ended_as(Ending.REFUSED)["ended"]
    axes.plot(spans.middles, spans.rate(table.ended_as(Ending.OK)["ended"]), color=BLUE, label="ok")
    if len(refused):
        axes.plot(spans.middles, spans.rate(refused), color=AMBER, label="refused")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("per second")
    drawing.legend(axes, 4)
    return drawing, f"In every {spans.width:g} s: sent when they went out, ok when they ended."


def _in_flight(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("flight", "Under way")
    (axes,) = drawing.axes
    _over_time(results, axes)
    table = results.table
    table = table.where(~np.isnan(table["sent"]))
    moments = np.concatenate([table["sent"], table["ended"]])
    changes = np.concatenate([np.ones(len(table)), -np.ones(len(table))])
    order = np.argsort(moments, kind="stable")
    at, level = _thinned(moments[order], np.cumsum(changes[order]))
    axes.step(at, level, where="post", color=BLUE, label="sent, not answered")
    asked = [sample for sample in results.health if not np.isnan(sample.waiting)]
    axes.plot(
        [s.at for s in asked], [s.waiting for s in asked], color=AMBER, label="server's queue"
    )
    axes.plot([s.at for s in asked], [s.running for s in asked], color=TEAL, label="server runs")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests")
    drawing.legend(axes)
    return drawing, "Requests in flight, and what /healthcheck told once a second."


def _outcomes(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("outcomes", "Outcomes other than ok")
    (axes,) = drawing.axes
    spans = _over_time(results, axes)
    bottom = np.zeros(spans.count)
    kinds = [
        (code, rows, shades[min(place, len(shades) - 1)])
        for ending, shades in _SHADES.items()
        for place, (code, rows) in enumerate(_by_code(results.table.ended_as(ending)))
    ]
    for code, rows, colour in kinds:
        counts = spans.counts(rows["ended"])
        axes.bar(
            spans.middles, counts, spans.width * 0.9, bottom=bottom, color=colour, label=code
        )  # fmt: skip
        bottom += counts
    if not kinds:
        axes.text(0.5, 0.5, "there were none", transform=axes.transAxes, ha="center", color=MUTED)
    axes.set_ylim(0, max(1.0, float(bottom.max()) * 1.05))
    axes.set_ylabel("requests")
    drawing.legend(axes)
    return drawing, f"In every {spans.width:g} s, by how they ended."


def _by_code(table: Table) -> list[tuple[str, Table]]:
    """The rows of each code that there is, the most frequent first."""
    found = [(code, table.where(table["code"] == i)) for i, code in enumerate(table.codes)]
    return sorted(((c, rows) for c, rows in found if len(rows)), key=lambda pair: -len(pair[1]))


def _timings(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("timings", "Where the time goes")
    (axes,) = drawing.axes
    spans = _over_time(results, axes)
    ok = results.table.ended_as(Ending.OK)
    ok = ok.where(~np.isnan(ok[PARTS[0]]))
    bottom = np.zeros(spans.count)
    told = np.zeros(len(ok))
    shades = (AMBER, VIOLET, BLUE, TEAL, RED)
    for part, colour in zip(PARTS, shades, strict=True):
        told += np.nan_to_num(ok[part])
        bottom = _stacked(axes, spans, ok, ok[part], bottom, colour, part)
    elsewhere = np.maximum(0.0, ok.latency - told)
    _stacked(axes, spans, ok, elsewhere, bottom, GREY, "elsewhere")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds, mean")
    drawing.legend(axes)
    return drawing, (
        "The server's own metadata.timings, on average by when a request was due; elsewhere is "
        "the rest: waiting between steps while others are painted, network, lateness."
    )


def _stacked(
    axes: Axes, spans: Intervals, ok: Table, values: Column, bottom: Column, colour: str, name: str
) -> Column:
    means = np.nan_to_num(spans.each(ok["intended"], values, lambda row: float(np.nanmean(row))))
    axes.bar(spans.middles, means, spans.width * 0.9, bottom=bottom, color=colour, label=name)
    return bottom + means


def _lateness(results: Results) -> tuple[Drawing, str]:
    drawing = Drawing("lateness", "The load generator's own lateness")
    (axes,) = drawing.axes
    spans = _over_time(results, axes)
    moments, delays = results.lag
    worst = spans.each(moments, delays * 1000, lambda row: float(row.max()))
    axes.plot(spans.middles, worst, color=VIOLET, label="event loop, worst")
    sent = results.table.where(~np.isnan(results.table["sent"]))
    late = spans.each(sent["intended"], sent.send_delay * 1000, lambda row: float(row.max()))
    axes.plot(spans.middles, late, color=BLUE, marker="o", markersize=2, label="sending, worst")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("milliseconds")
    drawing.legend(axes)
    return drawing, f"In every {spans.width:g} s. What is late here is not the server's fault."


def _measured(results: Results) -> Table:
    return results.table.where(results.table["intended"] >= results.plan.warmup)


def _stairs(ordered: Column) -> tuple[Column, Column]:
    """Some of the sorted values, and which percentage of all is no larger than each."""
    steps = np.unique(np.linspace(0, len(ordered) - 1, _MOST_STAIRS).astype(np.int64))
    shares = 100 * (steps + 1) / len(ordered)
    return np.append(ordered[:1], ordered[steps]), np.append(0.0, shares)


def _thinned(moments: Column, values: Column) -> tuple[Column, Column]:
    """Few enough points to draw, the last included."""
    if len(moments) <= 2 * _MOST_POINTS:
        return moments, values
    kept = np.linspace(0, len(moments) - 1, 2 * _MOST_POINTS).astype(np.int64)
    return moments[kept], values[kept]
