"""Durations that are known only after the work has ended."""

from __future__ import annotations

import pytest
import torch

from runners.device import Device
from runners.device_timer import DeviceTimer
from testing.workbench import DEVICE
from tests.support.runner.jobs import Clock


class Timeline:
    """A GPU's clock, which runs only while it works."""

    def __init__(self) -> None:
        self.launched = 0.0
        self.reached = 0.0


class FakeEvent:
    timeline = Timeline()

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = self.timeline.launched

    def query(self) -> bool:
        return self.timeline.reached >= self.at

    def elapsed_time(self, end: FakeEvent) -> float:
        return 1000 * (end.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[DeviceTimer, Timeline]:
    timeline = Timeline()
    monkeypatch.setattr(FakeEvent, "timeline", timeline)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    return DeviceTimer(Device(torch.device("cuda"), torch.float16)), timeline


def test_span_on_a_cpu_is_reported_at_once() -> None:
    clock, seen = Clock(), list[float]()
    timer = DeviceTimer(DEVICE, clock)
    span = timer.start()
    clock.now += 2.5
    timer.stop(span, seen.append)
    assert seen == [2.5]


def test_span_on_a_gpu_is_the_devices_and_comes_later(gpu: tuple[DeviceTimer, Timeline]) -> None:
    timer, timeline = gpu
    seen: list[float] = []
    timeline.launched = 10.0
    first = timer.start()
    timeline.launched += 3.0
    timer.stop(first, seen.append)
    second = timer.start()
    timeline.launched += 0.5
    timer.stop(second, seen.append)
    assert seen == []
    timeline.reached = 13.0
    timer.settle()
    assert seen == [3.0], "not the 10 s of work before it"
    timeline.reached = 13.5
    timer.settle()
    assert seen == [3.0, 0.5]


def test_spans_are_reported_in_order(gpu: tuple[DeviceTimer, Timeline]) -> None:
    timer, timeline = gpu
    seen: list[str] = []
    outer = timer.start()
    inner = timer.start()
    timeline.launched += 1.0
    timer.stop(inner, lambda _: seen.append("inner"))
    timeline.launched += 1.0
    timer.stop(outer, lambda _: seen.append("outer"))
    timeline.reached = 5.0
    timer.settle()
    assert seen == ["inner", "outer"]
