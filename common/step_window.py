"""Windows of steps, as shares of all steps of a request.

The module needs only the standard library, because the serverless worker imports it too.
"""

from __future__ import annotations


def is_in_window(index: int, steps: int, start: float, end: float) -> bool:
    """Return whether a step lies completely within a window.

    Args:
        index: number of the step, from 0.
        steps: number of steps.
        start: share of the steps before the window, 0 to 1.
        end: share of the steps after which the window ends, 0 to 1.
    """
    return start <= index / steps and (index + 1) / steps <= end


def resolve_window(
    start: float | None, end: float | None, default: tuple[float, float]
) -> tuple[float, float]:
    """Return both bounds of a window; a bound that is left out gives way to the one that is named.

    Args:
        start: requested share of the steps before the window; None if left out.
        end: requested share of the steps after which it ends; None if left out.
        default: both shares where nothing is requested.
    """
    if end is None:
        end = default[1] if start is None else max(start, default[1])
    if start is None:
        start = min(default[0], end)
    return start, end
