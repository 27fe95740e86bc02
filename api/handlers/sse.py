"""Serialization of server-sent events."""

from __future__ import annotations

import base64
import json

from common.protocol import Queued, Started, Step


def format_sse_event(event: object) -> str:
    """Return a progress event in the text format of server-sent events.

    Raises:
        TypeError: the event is not Queued, Started or Step.
    """
    match event:
        case Queued(position):
            return format_event("queued", json.dumps({"position": position}))
        case Started():
            return format_event("started", "{}")
        case Step(index, total, preview):
            content: dict[str, object] = {"step": index, "steps": total}
            if preview:
                content["preview_b64"] = base64.b64encode(preview).decode("ascii")
            return format_event("step", json.dumps(content))
        case _:
            raise TypeError(f"{type(event).__name__} is not a progress event")


def format_event(name: str, data: str) -> str:
    """Return an event in the text format of server-sent events; `data` is a single line."""
    return f"event: {name}\ndata: {data}\n\n"
