"""Statistics, thresholds and reports from the logged requests."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from experimance.load.cli import UsageError
from experimance.load.executor import Clock
from experimance.load.monitors import HealthSample, HealthWatch, LagMeter
from experimance.load.outcomes import OutcomeGroup
from experimance.load.recorder import Record, RequestLog
from experimance.load.report.charts import Intervals
from experimance.load.report.html import render_html
from experimance.load.results import Results
from experimance.load.statistics import RequestStats
from experimance.load.thresholds import parse_threshold
from tests.support.load_runs import plan, traffic

MIX = """
[[scenario]]
name = "painters"
depth = "mock"
[[scenario]]
name = "watchers & co"
stream = true
depth = "mock"
"""


def made(expect: tuple[str, ...] = (), requests: int = 300) -> Results:
    """Return results of a synthetic run: 5 s of warm-up, then 30 s."""
    rng = np.random.default_rng(5)
    mix = traffic(MIX)
    its_plan = plan(mix, rate="8..12:30s", warmup="5s")
    log = RequestLog([s.name for s in mix.scenarios])
    for number in range(requests):
        due = 35 * number / requests
        code, ending = (
            ("overloaded", OutcomeGroup.REFUSED) if number % 11 == 0
            else ("timeout", OutcomeGroup.FAILED) if number % 29 == 0
            else ("superseded", OutcomeGroup.STOPPED) if number % 31 == 0
            else ("ok", OutcomeGroup.OK)
        )  # fmt: skip
        sent, took = due + 0.001, float(rng.gamma(2.0, 0.3))
        log.open(number)
        log.close(
            Record(
                number, number % 2, due, sent, sent + took, ending, code,
                timings=(0.1 * took, 0.0, 0.6 * took, 0.2 * took, 0.0),
                first=sent + took / 3 if number % 2 else math.nan,
            ),
            "the <server> is full",
        )  # fmt: skip
    clock = Clock()
    lag = LagMeter(clock)
    health = HealthWatch(None, clock)  # type: ignore[arg-type]
    health.samples = [HealthSample(float(t), 0.01, t % 5, 1.0, 2.0) for t in range(36)]
    health.about = {"device": "cpu", "models_loaded": ["lightning"]}
    names = [s.name for s in mix.scenarios]
    return Results.of(
        its_plan, mix, log, lag, health, [parse_threshold(text, names) for text in expect],
        url="http://127.0.0.1:1", started=datetime(2026, 1, 2, tzinfo=UTC), command="test",
        sending_ended=35.0, interrupted=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> Results:
    return made(("p95<100", "errors<1"))


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return render_html(results)


def test_json_summary_matches_its_requests(results: Results) -> None:
    document = json.loads(json.dumps(results.document(), allow_nan=False))
    rows = document["requests"]
    kept = [i for i, due in enumerate(rows["intended"]) if due >= 5]
    ok = [i for i in kept if rows["ending"][i] == "ok"]
    latency = np.array([rows["ended"][i] - rows["intended"][i] for i in ok])
    summary = document["summary"]
    assert summary["requests"] == len(kept)
    assert summary["latency"]["count"] == len(ok)
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        exact = np.percentile(latency, share, method="inverted_cdf")
        assert summary["latency"][name] == pytest.approx(exact, abs=2e-6)
    assert summary["latency"]["mean"] == pytest.approx(latency.mean(), abs=2e-6)
    for ending, causes in summary["codes"].items():
        codes = [rows["code"][i] for i in kept if rows["ending"][i] == ending]
        assert causes == {code: codes.count(code) for code in sorted(set(codes), key=codes.index)}
        assert summary["endings"][ending] == len(codes)
    assert sum(summary["endings"].values()) == summary["requests"]
    assert summary["sums_agree"] is True
    queue = np.array([rows["queue"][i] for i in ok])
    assert summary["timings"]["queue"]["mean"] == pytest.approx(queue.mean(), abs=2e-6)
    assert summary["sent_per_second"] == pytest.approx(len(kept) / 30)
    last = max(rows["ended"][i] for i in ok)
    assert summary["ok_per_second"] == pytest.approx(len(ok) / (max(35, last) - 5), rel=1e-5)
    by_scenario = document["scenarios"]
    assert sum(s["requests"] for s in by_scenario.values()) == summary["requests"]
    assert document["server"]["waiting"]["max"] == 4


def test_a_queue_left_over_counts_as_time() -> None:
    log = RequestLog(["a"])
    for number in range(10):
        log.open(number)
        log.close(
            Record(number, 0, 0.1 * number, 0.1 * number, 1.0 * number, OutcomeGroup.OK, "ok")
        )
    stats = RequestStats.of(log.to_columns(), 0.0, 1.0)
    assert stats.sent_per_second == 10
    assert stats.ok_per_second == pytest.approx(10 / 9)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("p95<100", True), ("p95 < 0.001", False), ("p99<=100s", True), ("p50<1ms", False),
        ("p50>=1ms", True), ("errors<50%", True), ("errors<1", False), ("errors>0.1%", True),
        ("refused>0", True), ("overloaded>=1%", True), ("timeout<1", False), ("rate>2", True),
        ("rate>1000/s", False), ("painters:p95<100", True), ("watchers & co:errors<0.01%", False),
        ("unsent<1", True), ("no_such_code<1", True), ("max<1h", None),
    ],
)  # fmt: skip
def test_thresholds(results: Results, text: str, met: bool | None) -> None:
    names = list(results.scenarios)
    if met is None:
        with pytest.raises(UsageError):
            parse_threshold(text, names)
        return
    result = parse_threshold(text, names).evaluate(results.total, results.scenarios)
    assert result.met is met
    assert result.expected == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "use e.g. p95<1.5"),
        ("p95=1", "use e.g. p95<1.5"),
        ("P96<1", "no figure 'P96'"),
        ("p95<1%", "p95 has no unit %; use none or s, ms"),
        ("rate>1s", "rate has no unit s"),
        ("errors<1s", "errors has no unit s; use none or %"),
        ("gone:p95<1", "no scenario 'gone'; use painters"),
    ],
)
def test_invalid_thresholds_list_accepted_ones(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^--expect: ") as caught:
        parse_threshold(text, ["painters"])
    assert said in str(caught.value)


def test_unmeasured_figures_miss_their_threshold() -> None:
    results = made(("p95<100",), requests=0)
    assert not results.passed
    assert "nothing was measured" in results.threshold_results[0].shown
    assert any("no request was measured" in warning for warning in results.warnings)
    assert "<svg" in render_html(results)


def test_warnings_about_the_load_generator(results: Results) -> None:
    assert replace(results.generator, cpu_share=0.1).warnings(results.total) == []
    late = replace(results.generator.send_delay, p99=1.0)
    slow = replace(results.generator, send_delay=late, cpu_share=0.95)
    warned = slow.warnings(results.total)
    assert [bool(re.search("itself was late", w)) for w in warned] == [True, False]
    assert "95% of a core" in warned[1]


def test_intervals_hold_requests_and_may_end_early() -> None:
    spans = Intervals.over(42.0, 40)
    assert (spans.width, spans.count) == (5, 9)
    moments = np.array([0.0, 4.9, 5.0, 41.0, 42.0])
    assert list(spans.counts(moments)) == [2, 1, 0, 0, 0, 0, 0, 0, 2]
    assert list(spans.rate(moments)[[0, 1, 8]]) == [0.4, 0.2, 1.0]
    means = spans.aggregate(moments, moments, lambda row: float(row.mean()))
    assert list(means[[0, 1, 8]]) == [2.45, 5.0, 41.5]
    assert np.isnan(means[2])
    assert Intervals.over(42.0, 1000).count == 42


class Outline(HTMLParser):
    """Tags, ids and external references of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in {"src", "href", "xlink:href"} and value and not value.startswith("#"):
                self.loads.append(value)


def test_page_is_self_contained_and_escaped(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.loads == []
    assert "script" not in outline.tags
    assert "b" in outline.tags  # the tiles'
    assert "watchers &amp; co" in page
    assert "watchers & co" not in page
    assert "the <server> is full" not in page
    assert outline.tags.count("figure") == outline.tags.count("svg") == 8
    assert len(set(outline.ids)) == len(outline.ids)
    assert len(page) < 1_000_000


def test_page_follows_the_colour_scheme(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--blue)" in drawn
    # No colour of a plot is fixed.
    assert set(re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{3,6})", drawn)) == set()


def test_page_shows_the_summary(page: str, results: Results) -> None:
    stats = results.total
    for value in (stats.latency.p50, stats.latency.p95, stats.latency.p99):
        assert f"{value:.2f} s" in page
        assert f"<td>{value:.3f}</td>" in page
    assert f'<b class="">{stats.ok_per_second:.2f}</b>' in page
    assert "endings and codes both add up to it" in page


@pytest.mark.slow
def test_many_requests_keep_the_page_small() -> None:
    assert len(render_html(made(requests=20_000))) < 1_000_000
