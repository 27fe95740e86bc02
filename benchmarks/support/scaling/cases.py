"""Policies tried in each scenario, and the recommended one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from benchmarks.support.scaling.policies import Policy

_TARGET = 0.7
_QUEUE_SECONDS = 2.0
_EXPECTED_PER_SECOND = 10.0
"""Expected peak of `burst`, in requests per second."""

RECOMMENDED: Mapping[str, str] = {
    "installation": "opening hours, 1 stopped",
    "site": "utilisation, 1 kept, 2 stopped",
    "burst": "announced, then utilisation",
}
"""The name of the recommended policy by scenario."""


def cases(service_seconds: float) -> Mapping[str, tuple[Policy, ...]]:
    """Return policies by scenario, without the fixed fleets, which are tried by size.

    `service_seconds`, the time of one image, determines the number of workers for the expected
    burst.
    """
    crowd = math.ceil(_EXPECTED_PER_SECOND * service_seconds / _TARGET)
    load = partial(Policy, signal="utilisation", target=_TARGET)
    queue = partial(Policy, signal="queue", target=_QUEUE_SECONDS)
    return {
        "installation": (
            load("utilisation, from zero, slim", image="slim"),
            load("utilisation, from zero, full"),
            load("utilisation, from zero, 1 stopped", stopped=1),
            queue("queue seconds, 1 kept", floor=1),
            Policy("opening hours, 1 stopped", hours=((9.75, 22.25, 1),), stopped=1),
        ),
        "site": (
            load("utilisation, 1 kept, slim", floor=1, image="slim"),
            load("utilisation, 1 kept, full", floor=1),
            load("utilisation, 1 kept, 2 stopped", floor=1, stopped=2),
            queue("queue seconds, 1 kept, 2 stopped", floor=1, stopped=2),
        ),
        "burst": (
            load("utilisation, 1 kept, slim", floor=1, image="slim"),
            load("utilisation, 1 kept, full", floor=1),
            load(f"utilisation, 1 kept, {crowd} stopped", floor=1, stopped=crowd),
            queue(f"queue seconds, 1 kept, {crowd} stopped", floor=1, stopped=crowd),
            load("announced, then utilisation", floor=1, hours=((19.75, 20.25, crowd),)),
        ),
    }
