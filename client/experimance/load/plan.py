"""What a run does, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experimance.load.arrivals import PROCESSES
from experimance.load.misuse import Misuse, listed
from experimance.load.scenario import LOAD_KEYS, Traffic
from experimance.load.shape import LONGEST_SECONDS, Shape, seconds_of

MOST_CLIENTS = 1000
MOST_RATE = 1000.0
MOST_REQUESTS = 1_000_000
_DURATION = 30.0
_LONGEST_THINK = 3600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: `shape` is of arrivals per second in an open loop, of clients in a closed one.

    It has the warm-up in it. `requests` bounds the requests after the warm-up; `think` is the
    shortest and longest pause of a client, in seconds.
    """

    open_loop: bool
    shape: Shape
    warmup: float
    requests: int | None
    process: str
    think: tuple[float, float]
    timeout: float
    max_in_flight: int
    respect_retry_after: bool

    @property
    def mode(self) -> str:
        """In words."""
        if self.open_loop:
            return f"open loop, {self.process} arrivals per second: {self.shape}"
        low, high = self.think
        pause = f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
        return f"closed loop, clients: {self.shape}; think time {pause}"


def plan_of(
    traffic: Traffic,
    options: Mapping[str, Any],
    *,
    timeout: float,
    max_in_flight: int,
    respect_retry_after: bool,
) -> Plan:
    """What the command's options and the scenario file's `load` come to; options go first.

    Args:
        traffic: the mix, whose `load` says what options do not.
        options: of `LOAD_KEYS`; None where the command was not told.
        timeout: seconds after which a request has failed.
        max_in_flight: the most requests under way.
        respect_retry_after: refused requests are sent again when the server said so.

    Raises:
        Misuse: an option or key that is not accepted, or two that exclude each other.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if "rate" in given and "clients" in given:
        raise Misuse("--rate", "an open loop has no clients; use --rate or --clients")
    filed = dict(traffic.load)
    if "rate" in filed and "clients" in filed:
        raise Misuse(f"{traffic.name}: load", "use rate or clients, not both")
    if "clients" in given:
        filed.pop("rate", None)
        filed.pop("arrivals", None)
    if "rate" in given:
        filed.pop("clients", None)
        filed.pop("think", None)
    said = {**filed, **given}
    names = {
        key: f"--{key}" if key in given else f"{traffic.name}: load.{key}" for key in LOAD_KEYS
    }
    open_loop = "rate" in said
    if "think" in said and open_loop:
        raise Misuse(names["think"], "an open loop has no think time; use it with --clients")
    if "arrivals" in said and not open_loop:
        raise Misuse(names["arrivals"], "a closed loop has no arrivals; use it with --rate")
    requests = _requests(said.get("requests"), names["requests"])
    unbounded = LONGEST_SECONDS if requests and "duration" not in said else _DURATION
    duration = seconds_of(said.get("duration", unbounded), names["duration"])
    if duration <= 0:
        raise Misuse(names["duration"], "must be above 0")
    warmup = seconds_of(said.get("warmup", 0), names["warmup"])
    key, most = ("rate", MOST_RATE) if open_loop else ("clients", float(MOST_CLIENTS))
    shape = Shape.parse(said.get(key, 1), names[key], duration, most)
    if not open_loop and shape.peak < 1:
        raise Misuse(names[key], f"{said[key]!r} is less than one client; use whole numbers")
    if open_loop and requests is None and shape.total > MOST_REQUESTS:
        raise Misuse(names[key], f"asks for more than {MOST_REQUESTS} requests in all")
    process = said.get("arrivals", PROCESSES[0])
    if process not in PROCESSES:
        raise Misuse(names["arrivals"], f"{process!r} is not accepted; use {listed(PROCESSES)}")
    return Plan(
        open_loop=open_loop,
        shape=shape.after(warmup),
        warmup=warmup,
        requests=requests,
        process=process,
        think=_think(said.get("think", 0), names["think"]),
        timeout=timeout,
        max_in_flight=max_in_flight,
        respect_retry_after=respect_retry_after,
    )


def _requests(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_REQUESTS:
        raise Misuse(where, f"{value!r} is not accepted; use a number from 1 to {MOST_REQUESTS}")
    return value


def _think(value: Any, where: str) -> tuple[float, float]:
    low, _, high = str(value).partition("..")
    bounds = seconds_of(low, where), seconds_of(high or low, where)
    if bounds[0] > bounds[1] or bounds[1] > _LONGEST_THINK:
        raise Misuse(where, f"{value!r} is not accepted; use seconds (2) or a range (1..3)")
    return bounds
