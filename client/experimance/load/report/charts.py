"""Charts of the HTML report, as SVG in the page's colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experimance.load.outcomes import PHASES, OutcomeGroup
from experimance.load.recorder import Column, Columns
from experimance.load.results import Results
from experimance.load.statistics import after_warmup, percentile

# Placeholder colours; `use_css_variables` replaces them, so charts follow the page's light or dark
# scheme.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
BLUE, TEAL, AMBER, VIOLET, RED, GREY = (
    "#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006",
)  # fmt: skip
_VARIABLES: Mapping[str, str] = {
    INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", TEAL: "teal", AMBER: "amber",
    VIOLET: "violet", RED: "red", GREY: "grey",
}  # fmt: skip
_PLACEHOLDER = re.compile("|".join(_VARIABLES))
_GROUP_COLOURS = {
    OutcomeGroup.REFUSED: (AMBER,),
    OutcomeGroup.STOPPED: (TEAL, BLUE, GREY),
    OutcomeGroup.FAILED: (RED, VIOLET, INK, GREY),
    OutcomeGroup.UNSENT: (MUTED,),
    OutcomeGroup.INTERRUPTED: (GREY,),
}
_MAX_POINTS = 1500
_MAX_STEPS = 400
_MIN_INTERVALS, _MAX_INTERVALS = 12, 60
_REQUESTS_PER_INTERVAL = 5
_INTERVAL_WIDTHS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)
# In points: on a phone a point is about a pixel, so text keeps its size.
_WIDTH, _HEIGHT, _TALL = 340.0, 200.0, 1.5
# The keys are literals in matplotlib's types.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 10.0, "font.family": "sans-serif",
    "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID,
    "grid.linewidth": 0.6, "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED, "text.color": INK, "legend.frameon": False,
    "legend.fontsize": 9.0, "legend.handlelength": 1.2, "legend.columnspacing": 1.2,
    "legend.labelcolor": INK, "lines.linewidth": 1.6,
}  # fmt: skip


def use_css_variables(svg: str) -> str:
    """Return the SVG with placeholder colours replaced by the page's CSS variables."""
    return _PLACEHOLDER.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", svg)


class Chart:
    """One or more plots above one another with a shared horizontal axis."""

    def __init__(self, name: str, title: str, rows: int = 1, *, tall: bool = False) -> None:
        self.name = name
        self.title = title
        self.caption = ""
        with matplotlib.rc_context(_STYLE):
            height = _HEIGHT * (_TALL if tall else 1.0)
            self._figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
            found = self._figure.subplots(rows, 1, sharex=True, squeeze=False)
        self.axes: list[Axes] = [axes for (axes,) in found]

    def add_legend(self, axes: Axes, columns: int = 3) -> None:
        """Add a legend above the plot."""
        with matplotlib.rc_context(_STYLE):
            handles, labels = axes.get_legend_handles_labels()
            if handles:
                axes.legend(
                    handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns,
                    borderaxespad=0.2,
                )  # fmt: skip

    def to_svg(self) -> str:
        """Return the SVG element with title and caption as its alternative text."""
        buffer = io.StringIO()
        # The salt makes the ids of clip paths unique within a page.
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": self.name}):
            self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        # Ids of groups repeat in every chart, and nothing refers to them.
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", text)
        text = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", text)
        label = escape(f"{self.title}. {self.caption}")
        return use_css_variables(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


@dataclass(frozen=True)
class Intervals:
    """Intervals of equal `width` in seconds from 0; the last one ends early, at `seconds`."""

    width: float
    count: int
    seconds: float

    @classmethod
    def over(cls, seconds: float, requests: int) -> Intervals:
        """Return 12 to 60 intervals of a round width, with a few requests in each."""
        most = min(_MAX_INTERVALS, max(_MIN_INTERVALS, requests // _REQUESTS_PER_INTERVAL))
        width = next((w for w in _INTERVAL_WIDTHS if seconds / w <= most), _INTERVAL_WIDTHS[-1])
        return cls(width, max(1, math.ceil(seconds / width)), seconds)

    @property
    def middles(self) -> Column:
        """Middle of each interval, in seconds."""
        return np.linspace(0.5, self.count - 0.5, self.count, dtype=np.float64) * self.width

    def index(self, moments: Column) -> NDArray[np.int64]:
        """Return the interval of each moment."""
        return np.clip(np.floor(moments / self.width), 0, self.count - 1).astype(np.int64)

    def counts(self, moments: Column) -> NDArray[np.int64]:
        """Return the number of moments in each interval."""
        return np.bincount(self.index(moments), minlength=self.count)

    def rate(self, moments: Column) -> Column:
        """Return the number of moments per second in each interval."""
        widths = np.full(self.count, self.width, dtype=np.float64)
        widths[-1] = max(self.width / 10, self.seconds - self.width * (self.count - 1))
        return self.counts(moments) / widths

    def aggregate(
        self, moments: Column, values: Column, figure: Callable[[Column], float]
    ) -> Column:
        """Return a figure of the values in each interval; NaN without values.

        Args:
            moments: Time of each value.
            values: Values to aggregate.
            figure: Function of the values of one interval.
        """
        index = self.index(moments)
        rows = [values[index == i] for i in range(self.count)]
        return np.array([figure(row) if len(row) else math.nan for row in rows])


def draw_charts(results: Results) -> list[Chart]:
    """Return all charts of the report."""
    return [
        _draw_latency(results),
        _draw_distribution(results),
        _draw_scenarios(results),
        _draw_throughput(results),
        _draw_in_flight(results),
        _draw_outcomes(results),
        _draw_timings(results),
        _draw_lag(results),
    ]


def _draw_time_axis(results: Results, axes: Axes) -> Intervals:
    """Shade the warm-up, mark the end of sending, and return the intervals."""
    axes.set_xlim(0, results.ended or 1)
    axes.set_xlabel("seconds from the start")
    if results.plan.warmup:
        axes.axvspan(0, results.plan.warmup, color=GREY, alpha=0.18, linewidth=0)
    if results.ended > results.sending_ended * 1.02:
        axes.axvline(results.sending_ended, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    return Intervals.over(results.ended, len(results.requests))


def _finish(chart: Chart, axes: Axes, label: str, caption: str, columns: int = 3) -> Chart:
    """Start the vertical axis at 0, and add its label, the legend and the caption."""
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    chart.add_legend(axes, columns)
    chart.caption = caption
    return chart


def _draw_latency(results: Results) -> Chart:
    chart = Chart("latency", "Latency over time", tall=True)
    (axes,) = chart.axes
    spans = _draw_time_axis(results, axes)
    ok = results.requests.with_outcome(OutcomeGroup.OK)
    moments, latency = ok["intended"], ok.latency
    shown = np.linspace(0, len(ok) - 1, min(len(ok), _MAX_POINTS)).astype(np.int64)
    axes.plot(
        moments[shown], latency[shown], ".", color=GREY, markersize=5, alpha=0.8, label="request"
    )
    for share, colour in ((50, TEAL), (95, BLUE), (99, VIOLET)):
        line = spans.aggregate(moments, latency, lambda row, p=share: percentile(row, p))  # type: ignore[misc]
        axes.plot(spans.middles, line, color=colour, label=f"p{share}", marker="o", markersize=2)
    caption = (
        f"By the time each request was due; percentiles of every {spans.width:g} s. Only requests "
        "that ended ok."
    )
    return _finish(chart, axes, "seconds", caption, columns=4)


def _draw_distribution(results: Results) -> Chart:
    chart = Chart("distribution", "Latency distribution", rows=2, tall=True)
    above, below = chart.axes
    measured = after_warmup(results.requests, results.plan.warmup)
    latency = np.sort(measured.with_outcome(OutcomeGroup.OK).latency)
    if len(latency):
        above.hist(latency, bins=min(40, max(8, int(len(latency) ** 0.5) * 2)), color=BLUE)
        below.step(*_accumulate_shares(latency), where="post", color=BLUE)
        for share, colour in ((50, TEAL), (95, AMBER), (99, RED)):
            at = percentile(latency, share)
            for axes in (above, below):
                axes.axvline(at, color=colour, linewidth=1.2, label=f"p{share} {at:.2f} s")
        above.set_xlim(left=0)
    above.set_ylabel("requests")
    below.set_ylabel("% within")
    below.set_ylim(0, 102)
    below.set_xlabel("seconds")
    chart.add_legend(above)
    chart.caption = "Top: number of requests by latency. Bottom: share of requests within it."
    return chart


def _draw_scenarios(results: Results) -> Chart:
    chart = Chart("scenarios", "Latency by scenario")
    (axes,) = chart.axes
    measured = after_warmup(results.requests, results.plan.warmup)
    ok = measured.with_outcome(OutcomeGroup.OK)
    found = [(name, ok.where(ok["scenario"] == i).latency) for i, name in enumerate(ok.scenarios)]
    colours = (BLUE, AMBER, TEAL, VIOLET, RED)
    for place, (name, latency) in enumerate((n, v) for n, v in found if len(v)):
        colour = colours[place] if place < len(colours) else GREY
        values, shares = _accumulate_shares(np.sort(latency))
        axes.step(values, shares, where="post", color=colour, label=name)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    _finish(chart, axes, "% within", "Share of a scenario's ok requests within a latency.")
    axes.set_ylim(0, 102)
    return chart


def _draw_throughput(results: Results) -> Chart:
    chart = Chart("throughput", "Requests per second")
    (axes,) = chart.axes
    spans = _draw_time_axis(results, axes)
    requests, profile = results.requests, results.plan.profile
    if results.plan.open_loop:
        moments = np.linspace(0, profile.seconds, 400, endpoint=False)
        asked = [profile.level(float(m)) for m in moments]
        axes.plot(moments, asked, color=INK, linewidth=1, linestyle=(0, (4, 2)), label="asked")
    sent = requests["sent"][~np.isnan(requests["sent"])]
    axes.plot(spans.middles, spans.rate(sent), color=GREY, label="sent")
    ok = requests.with_outcome(OutcomeGroup.OK)["ended"]
    axes.plot(spans.middles, spans.rate(ok), color=BLUE, label="ok")
    refused = requests.with_outcome(OutcomeGroup.REFUSED)["ended"]
    if len(refused):
        axes.plot(spans.middles, spans.rate(refused), color=AMBER, label="refused")
    caption = f"In every {spans.width:g} s: sent by send time, ok by response time."
    return _finish(chart, axes, "per second", caption, columns=4)


def _draw_in_flight(results: Results) -> Chart:
    chart = Chart("flight", "In flight")
    (axes,) = chart.axes
    _draw_time_axis(results, axes)
    requests = results.requests.where(~np.isnan(results.requests["sent"]))
    moments = np.concatenate([requests["sent"], requests["ended"]])
    changes = np.concatenate([np.ones(len(requests)), -np.ones(len(requests))])
    order = np.argsort(moments, kind="stable")
    at, level = _thin_out(moments[order], np.cumsum(changes[order]))
    axes.step(at, level, where="post", color=BLUE, label="sent, not answered")
    samples = [sample for sample in results.health if not np.isnan(sample.waiting)]
    times = [s.at for s in samples]
    axes.plot(times, [s.waiting for s in samples], color=AMBER, label="server's queue")
    axes.plot(times, [s.running for s in samples], color=TEAL, label="server runs")
    caption = "Requests in flight, and the server's /healthcheck once a second."
    return _finish(chart, axes, "requests", caption)


def _draw_outcomes(results: Results) -> Chart:
    chart = Chart("outcomes", "Outcomes other than ok")
    (axes,) = chart.axes
    spans = _draw_time_axis(results, axes)
    bottom = np.zeros(spans.count)
    for group, colours in _GROUP_COLOURS.items():
        for place, (code, rows) in enumerate(_split_by_code(results.requests.with_outcome(group))):
            colour = colours[min(place, len(colours) - 1)]
            bottom = _stack(axes, spans, spans.counts(rows["ended"]), bottom, colour, code)
    if not bottom.any():
        axes.text(0.5, 0.5, "there were none", transform=axes.transAxes, ha="center", color=MUTED)
    caption = f"In every {spans.width:g} s, by outcome code."
    _finish(chart, axes, "requests", caption)
    axes.set_ylim(0, max(1.0, float(bottom.max()) * 1.05))
    return chart


def _draw_timings(results: Results) -> Chart:
    chart = Chart("timings", "Where the time goes")
    (axes,) = chart.axes
    spans = _draw_time_axis(results, axes)
    ok = results.requests.with_outcome(OutcomeGroup.OK)
    ok = ok.where(~np.isnan(ok[PHASES[0]]))
    series = {phase: ok[phase] for phase in PHASES}
    reported = np.sum([np.nan_to_num(values) for values in series.values()], axis=0)
    series["elsewhere"] = np.maximum(0.0, ok.latency - reported)
    bottom = np.zeros(spans.count)
    for (name, values), colour in zip(
        series.items(), (AMBER, VIOLET, BLUE, TEAL, RED, GREY), strict=True
    ):
        means = spans.aggregate(ok["intended"], values, lambda row: float(np.nanmean(row)))
        bottom = _stack(axes, spans, np.nan_to_num(means), bottom, colour, name)
    caption = (
        "The server's own metadata.timings, mean by due time. Elsewhere is the rest: waiting "
        "between steps of other requests, network, lag."
    )
    return _finish(chart, axes, "seconds, mean", caption)


def _draw_lag(results: Results) -> Chart:
    chart = Chart("lateness", "The load generator's own lateness")
    (axes,) = chart.axes
    spans = _draw_time_axis(results, axes)
    moments, delays = results.lag
    worst = spans.aggregate(moments, delays * 1000, lambda row: float(row.max()))
    axes.plot(spans.middles, worst, color=VIOLET, label="event loop, worst")
    sent = results.requests.where(~np.isnan(results.requests["sent"]))
    late = spans.aggregate(sent["intended"], sent.send_delay * 1000, lambda row: float(row.max()))
    axes.plot(spans.middles, late, color=BLUE, marker="o", markersize=2, label="sending, worst")
    caption = f"In every {spans.width:g} s. The generator causes this delay, not the server."
    return _finish(chart, axes, "milliseconds", caption)


def _split_by_code(requests: Columns) -> list[tuple[str, Columns]]:
    """Return the requests of each code that occurs, the most frequent code first."""
    found = [(code, requests.where(requests["code"] == i)) for i, code in enumerate(requests.codes)]
    return sorted(((c, rows) for c, rows in found if len(rows)), key=lambda pair: -len(pair[1]))


def _stack(
    axes: Axes, spans: Intervals, heights: NDArray[Any], bottom: Column, colour: str, name: str
) -> Column:
    """Draw one bar per interval on top of others, and return the new top."""
    axes.bar(spans.middles, heights, spans.width * 0.9, bottom=bottom, color=colour, label=name)
    return bottom + heights


def _accumulate_shares(ordered: Column) -> tuple[Column, Column]:
    """Return a few of the sorted values, and the percentage of all values up to each."""
    steps = np.unique(np.linspace(0, len(ordered) - 1, _MAX_STEPS).astype(np.int64))
    shares = 100 * (steps + 1) / len(ordered)
    return np.append(ordered[:1], ordered[steps]), np.append(0.0, shares)


def _thin_out(moments: Column, values: Column) -> tuple[Column, Column]:
    """Return a drawable number of points, including the last."""
    if len(moments) <= 2 * _MAX_POINTS:
        return moments, values
    kept = np.linspace(0, len(moments) - 1, 2 * _MAX_POINTS).astype(np.int64)
    return moments[kept], values[kept]
