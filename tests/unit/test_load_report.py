"""Figures, expectations and reports: all from the raw columns."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from experimance.load.clock import Clock
from experimance.load.expectation import expectation
from experimance.load.health import HealthSample, HealthWatch
from experimance.load.intervals import Intervals
from experimance.load.lag import LagMeter
from experimance.load.ledger import Ledger, Record
from experimance.load.misuse import Misuse
from experimance.load.outcomes import Ending
from experimance.load.page import page_of
from experimance.load.results import Results
from experimance.load.summary import Figures
from tests.unit.load_runs import plan, traffic

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
    """Results of a run that never was: five seconds of warm-up, then thirty."""
    rng = np.random.default_rng(5)
    mix = traffic(MIX)
    its_plan = plan(mix, rate="8..12:30s", warmup="5s")
    ledger = Ledger([s.name for s in mix.scenarios])
    for number in range(requests):
        due = 35 * number / requests
        code, ending = (
            ("overloaded", Ending.REFUSED) if number % 11 == 0
            else ("timeout", Ending.FAILED) if number % 29 == 0
            else ("superseded", Ending.STOPPED) if number % 31 == 0
            else ("ok", Ending.OK)
        )  # fmt: skip
        sent, took = due + 0.001, float(rng.gamma(2.0, 0.3))
        ledger.open(number)
        ledger.close(
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
        its_plan, mix, ledger, lag, health, [expectation(text, names) for text in expect],
        url="http://127.0.0.1:1", started=datetime(2026, 1, 2, tzinfo=UTC), command="test",
        sending_ended=35.0, interrupted=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> Results:
    return made(("p95<100", "errors<1"))


def test_the_json_s_figures_are_those_of_its_requests(results: Results) -> None:
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


def test_a_queue_that_is_left_over_counts_as_time() -> None:
    ledger = Ledger(["a"])
    for number in range(10):
        ledger.open(number)
        ledger.close(Record(number, 0, 0.1 * number, 0.1 * number, 1.0 * number, Ending.OK, "ok"))
    figures = Figures.of(ledger.table(), 0.0, 1.0)
    assert figures.sent_per_second == 10
    assert figures.ok_per_second == pytest.approx(10 / 9)


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
def test_expectations(results: Results, text: str, met: bool | None) -> None:
    names = list(results.scenarios)
    if met is None:
        with pytest.raises(Misuse):
            expectation(text, names)
        return
    verdict = expectation(text, names).judge(results.figures, results.scenarios)
    assert verdict.met is met
    assert verdict.expected == text


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
def test_what_cannot_be_expected_is_told(text: str, said: str) -> None:
    with pytest.raises(Misuse, match=r"^--expect: ") as caught:
        expectation(text, ["painters"])
    assert said in str(caught.value)


def test_what_was_not_measured_does_not_hold() -> None:
    results = made(("p95<100",), requests=0)
    assert not results.passed
    assert "nothing was measured" in results.verdicts[0].shown
    assert any("no request was measured" in warning for warning in results.warnings)
    assert "<svg" in page_of(results)


def test_the_generator_s_own_faults_are_warned_of(results: Results) -> None:
    assert replace(results.generator, cpu_share=0.1).warnings(results.figures) == []
    late = replace(results.generator.send_delay, p99=1.0)
    slow = replace(results.generator, send_delay=late, cpu_share=0.95)
    warned = slow.warnings(results.figures)
    assert [bool(re.search("late itself", w)) for w in warned] == [True, False]
    assert "95% of a core" in warned[1]


def test_intervals_hold_a_few_requests_each_and_the_last_may_be_short() -> None:
    spans = Intervals.over(42.0, 40)
    assert (spans.width, spans.count) == (5, 9)
    moments = np.array([0.0, 4.9, 5.0, 41.0, 42.0])
    assert list(spans.counts(moments)) == [2, 1, 0, 0, 0, 0, 0, 0, 2]
    assert list(spans.rate(moments)[[0, 1, 8]]) == [0.4, 0.2, 1.0]
    means = spans.each(moments, moments, lambda row: float(row.mean()))
    assert list(means[[0, 1, 8]]) == [2.45, 5.0, 41.5]
    assert np.isnan(means[2])
    assert Intervals.over(42.0, 1000).count == 42


class Outline(HTMLParser):
    """What a page is made of, and what it would load."""

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


def test_the_page_is_whole_by_itself_and_escapes_what_it_is_given(results: Results) -> None:
    page = page_of(results)
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


def test_the_page_takes_its_colours_from_the_reader_s_scheme(results: Results) -> None:
    page = page_of(results)
    assert "prefers-color-scheme: dark" in page
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--blue)" in drawn
    # No colour of a plot is fixed.
    assert set(re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{3,6})", drawn)) == set()


def test_the_page_s_figures_are_the_summary_s(results: Results) -> None:
    page = page_of(results)
    figures = results.figures
    for value in (figures.latency.p50, figures.latency.p95, figures.latency.p99):
        assert f"{value:.2f} s" in page
        assert f"<td>{value:.3f}</td>" in page
    assert f'<b class="">{figures.ok_per_second:.2f}</b>' in page
    assert "endings and codes both add up to it" in page


def test_many_requests_make_no_large_page() -> None:
    assert len(page_of(made(requests=20_000))) < 1_000_000
