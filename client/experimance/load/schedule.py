"""Load profiles, arrival times and the plan of a run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experimance.load.cli import UsageError, join_names
from experimance.load.scenario import LOAD_KEYS, Traffic

PROCESSES = ("poisson", "constant")
MAX_SECONDS = 24 * 3600.0
MAX_CLIENTS = 1000
MAX_RATE = 1000.0
MAX_REQUESTS = 1_000_000
_DEFAULT_SECONDS = 30.0
_MAX_THINK_SECONDS = 3600.0
_ARRIVAL_STREAM = 1
"""Separates the random numbers of arrivals from those of request contents."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"({_NUMBER})\s*(ms|s|m|h)?")
_STAGE = re.compile(rf"({_NUMBER})(?:\.\.({_NUMBER}))?(?::(.+))?")
_STAGES_ACCEPTED = "a level (2), a ramp (1..5), or stages of both (1..5:30s,5:60s)"


def parse_duration(text: str | float, where: str) -> float:
    """Return the seconds of `90`, `90s`, `1.5m`, `500ms` or `1h`.

    Raises:
        UsageError: The text is not a duration, or exceeds 24 h.
    """
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        raise UsageError(where, f"{text!r} is not a duration; accepted: 90, 90s, 1.5m, 500ms, 1h")
    seconds = float(found[1]) * _UNITS[found[2] or "s"]
    if seconds > MAX_SECONDS:
        raise UsageError(where, f"{text!r} is too long; accepted: up to 24h")
    return seconds


@dataclass(frozen=True, slots=True)
class Stage:
    """A linear change of the level from `start` to `end` within `seconds`."""

    seconds: float
    start: float
    end: float

    @property
    def integral(self) -> float:
        """Integral of the level over the stage; for a rate, the number of arrivals."""
        return self.seconds * (self.start + self.end) / 2

    def level(self, at: float) -> float:
        """Return the level `at` seconds after the start of the stage."""
        return self.start + (self.end - self.start) * at / self.seconds

    def time_at(self, integral: float) -> float:
        """Return the seconds after which the level has accumulated to `integral`."""
        if integral <= 0:
            return 0.0
        slope = (self.end - self.start) / self.seconds
        root = math.sqrt(max(0.0, self.start**2 + 2 * slope * integral))
        return min(self.seconds, 2 * integral / (self.start + root))


class LoadProfile:
    """Consecutive stages of a level: arrivals per second, or number of clients."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._starts = list(itertools.accumulate((s.seconds for s in stages), initial=0.0))
        self._integrals = list(itertools.accumulate((s.integral for s in stages), initial=0.0))

    @classmethod
    def parse(cls, text: str | float, where: str, seconds: float, most: float) -> LoadProfile:
        """Return the profile that an option or a key describes.

        Args:
            text: `2`, `1..5` or `1..5:30s,5:60s`.
            where: Option or key that error messages name.
            seconds: Duration of a single stage without its own.
            most: Highest accepted level.

        Raises:
            UsageError: The text has another form, or a level is out of bounds.
        """
        parts = [part.strip() for part in str(text).split(",")]
        stages = []
        for part in parts:
            found = _STAGE.fullmatch(part)
            if found is None:
                raise UsageError(where, f"{part!r} is not accepted; use {_STAGES_ACCEPTED}")
            start, end = float(found[1]), float(found[2] or found[1])
            if max(start, end) > most:
                raise UsageError(where, f"{part!r} is too high; accepted: up to {most:g}")
            default = seconds if len(parts) == 1 else 0.0
            stage_seconds = default if found[3] is None else parse_duration(found[3], where)
            if stage_seconds <= 0:
                raise UsageError(where, f"{part!r} has no duration; use {_STAGES_ACCEPTED}")
            stages.append(Stage(stage_seconds, start, end))
        profile = cls(stages)
        if profile.integral <= 0:
            raise UsageError(where, f"{text!r} never exceeds 0; use {_STAGES_ACCEPTED}")
        if profile.seconds > MAX_SECONDS:
            raise UsageError(where, f"{text!r} is too long; accepted: up to 24h in all")
        return profile

    def after(self, seconds: float) -> LoadProfile:
        """Return this profile behind a warm-up of `seconds` at its first level above 0."""
        if not seconds:
            return self
        level = next(v for s in self.stages for v in (s.start, s.end) if v > 0)
        return LoadProfile((Stage(seconds, level, level), *self.stages))

    @property
    def seconds(self) -> float:
        """Duration of all stages."""
        return self._starts[-1]

    @property
    def integral(self) -> float:
        """Integral of the level over all stages."""
        return self._integrals[-1]

    @property
    def peak(self) -> float:
        """Highest level."""
        return max(max(s.start, s.end) for s in self.stages)

    def level(self, at: float) -> float:
        """Return the level at second `at`; 0 outside the profile."""
        for start, stage in zip(self._starts, self.stages, strict=False):
            if start <= at < start + stage.seconds:
                return stage.level(at - start)
        return 0.0

    def time_at(self, integral: float) -> float:
        """Return the second at which the level has accumulated to `integral`, or infinity."""
        for start, before, stage in zip(self._starts, self._integrals, self.stages, strict=False):
            if integral <= before + stage.integral:
                return start + stage.time_at(integral - before)
        return math.inf

    def __str__(self) -> str:
        return ", ".join(
            f"{s.start:g} for {s.seconds:g} s"
            if s.start == s.end
            else f"{s.start:g} to {s.end:g} in {s.seconds:g} s"
            for s in self.stages
        )


def generate_arrivals(profile: LoadProfile, process: str, seed: int) -> Iterator[float]:
    """Yield ascending arrival times in seconds until the profile ends.

    Both processes are uniform in the integral of the rate, so a ramp needs no discretization:
    `constant` takes 0.5, 1.5, …; `poisson` takes sums of exponential gaps with mean 1.
    """
    for integral in _accumulate_gaps(seed) if process == "poisson" else itertools.count(0.5):
        at = profile.time_at(integral)
        if at == math.inf:
            return
        yield at


def _accumulate_gaps(seed: int) -> Iterator[float]:
    rng = np.random.default_rng((_ARRIVAL_STREAM, seed))
    total = 0.0
    while True:
        total += float(rng.exponential())
        yield total


@dataclass(frozen=True, slots=True)
class Plan:
    """Load and limits of a run.

    Attributes:
        open_loop: Whether arrivals ignore earlier responses.
        profile: Arrivals per second in an open loop, clients in a closed one; with the warm-up.
        warmup: Seconds at the start that are not measured.
        requests: Maximum number of requests after the warm-up.
        process: One of `PROCESSES`.
        think: Shortest and longest think time of a client, in seconds.
        timeout: Seconds until a request fails.
        max_in_flight: Maximum number of concurrent requests.
        respect_retry_after: Whether refused requests are sent again.
    """

    open_loop: bool
    profile: LoadProfile
    warmup: float
    requests: int | None
    process: str
    think: tuple[float, float]
    timeout: float
    max_in_flight: int
    respect_retry_after: bool

    @property
    def mode(self) -> str:
        """Description of the load for reports."""
        if self.open_loop:
            return f"open loop, {self.process} arrivals per second: {self.profile}"
        low, high = self.think
        pause = f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
        return f"closed loop, clients: {self.profile}; think time {pause}"


def build_plan(
    traffic: Traffic, options: Mapping[str, Any], *, timeout: float, max_in_flight: int,
    respect_retry_after: bool,
) -> Plan:  # fmt: skip
    """Merge command options with the scenario file's `load`; options take precedence.

    Args:
        traffic: Mix with the file's `load`.
        options: Values by `LOAD_KEYS`; None for an option that was not given.
        timeout: Seconds until a request fails.
        max_in_flight: Maximum number of concurrent requests.
        respect_retry_after: Whether refused requests are sent again.

    Raises:
        UsageError: A value is not accepted, or two options exclude each other.
    """
    given = {key: value for key, value in options.items() if value is not None}
    load = _merge_load(traffic, given)
    names = {
        key: f"--{key}" if key in given else f"{traffic.name}: load.{key}" for key in LOAD_KEYS
    }
    open_loop = "rate" in load
    if "think" in load and open_loop:
        raise UsageError(names["think"], "an open loop has no think time; use it with --clients")
    if "arrivals" in load and not open_loop:
        raise UsageError(names["arrivals"], "a closed loop has no arrivals; use it with --rate")
    requests = _check_requests(load.get("requests"), names["requests"])
    default = MAX_SECONDS if requests and "duration" not in load else _DEFAULT_SECONDS
    duration = parse_duration(load.get("duration", default), names["duration"])
    if duration <= 0:
        raise UsageError(names["duration"], "must be above 0")
    warmup = parse_duration(load.get("warmup", 0), names["warmup"])
    key, most = ("rate", MAX_RATE) if open_loop else ("clients", float(MAX_CLIENTS))
    profile = LoadProfile.parse(load.get(key, 1), names[key], duration, most)
    if not open_loop and profile.peak < 1:
        raise UsageError(names[key], f"{load[key]!r} is less than one client; use whole numbers")
    if open_loop and requests is None and profile.integral > MAX_REQUESTS:
        raise UsageError(names[key], f"asks for more than {MAX_REQUESTS} requests in all")
    process = load.get("arrivals", PROCESSES[0])
    if process not in PROCESSES:
        accepted = join_names(PROCESSES)
        raise UsageError(names["arrivals"], f"{process!r} is not accepted; use {accepted}")
    return Plan(
        open_loop=open_loop, profile=profile.after(warmup), warmup=warmup, requests=requests,
        process=process, think=_parse_think(load.get("think", 0), names["think"]),
        timeout=timeout, max_in_flight=max_in_flight, respect_retry_after=respect_retry_after,
    )  # fmt: skip


def _merge_load(traffic: Traffic, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's load with options over it; a given loop replaces the file's."""
    if "rate" in given and "clients" in given:
        raise UsageError("--rate", "an open loop has no clients; use --rate or --clients")
    if "rate" in traffic.load and "clients" in traffic.load:
        raise UsageError(f"{traffic.name}: load", "use rate or clients, not both")
    dropped: set[str] = set()
    if "clients" in given:
        dropped = {"rate", "arrivals"}
    elif "rate" in given:
        dropped = {"clients", "think"}
    return {k: v for k, v in traffic.load.items() if k not in dropped} | dict(given)


def _check_requests(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_REQUESTS:
        raise UsageError(where, f"{value!r} is not accepted; use a number from 1 to {MAX_REQUESTS}")
    return value


def _parse_think(value: Any, where: str) -> tuple[float, float]:
    low, _, high = str(value).partition("..")
    bounds = parse_duration(low, where), parse_duration(high or low, where)
    if bounds[0] > bounds[1] or bounds[1] > _MAX_THINK_SECONDS:
        raise UsageError(where, f"{value!r} is not accepted; use seconds (2) or a range (1..3)")
    return bounds
