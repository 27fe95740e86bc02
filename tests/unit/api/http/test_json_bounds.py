"""Expensive JSON bodies, rejected before parsing."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import FieldError, InvalidRequest
from api.http.json_bounds import MAX_BYTES, MAX_FIELDS, JsonReader, check_json

PICTURE = "iVBORw0KGgo" * 300_000


@pytest.mark.parametrize(
    "body",
    [
        {
            "prompt": "hills",
            "depth_map_b64": PICTURE,
            "image_b64": f"data:image/png;base64,{PICTURE}",
        },
        {"prompt": 'a "quoted" \\ hill\n' * 100, "depth_map_b64": PICTURE},
        {"prompt": "山" * 2000, "negative_prompt": "ü" * 2000},
        {"depth_map_b64": "\n".join([PICTURE[:76]] * 10_000)},
        [],
        "text",
        3,
    ],
    ids=range(7),
)
def test_ordinary_request_bodies_pass(body: Any) -> None:
    check_json(json.dumps(body).encode())
    check_json(json.dumps(body, ensure_ascii=False).encode())
    check_json(json.dumps(body).replace("/", "\\/").encode())


BUSY: dict[str, tuple[Callable[[], bytes], str]] = {
    "brackets": (lambda: b"[" + b"[]," * 10_000_000 + b"[]]", "more than 64 kB"),
    "keys": (lambda: b"{" + b'"k":1,' * 4_000_000 + b'"k":1}', "more than 64 kB"),
    "spaces": (lambda: b'{"a":' + b" " * 30_000_000 + b"1}", "more than 64 kB"),
    "digits": (lambda: b'{"a":' + b"1" * 30_000_000 + b"}", "more than 64 kB"),
    "escapes": (lambda: b'"' + b"\\n" * 15_000_000, "more than 64 kB"),
    "strings": (lambda: b'{"k":"' + b'","k":"'.join([b"x" * 3000] * 10_000) + b'"}', "64 kB"),
    "texts": (lambda: json.dumps({f"k{n}": "[" * 480_000 for n in range(64)}).encode(), "64 kB"),
    "a key": (lambda: b'{"' + b"k" * 100_000 + b'": 1}', "more than 64 kB"),
    "inner text": (lambda: b'{"loras": [{"image_b64": "' + b"x" * 100_000 + b'"}]}', "64 kB"),
    "quotes": (lambda: b'{"a":"' + (b"x" * 400 + b'\\"') * 60_000, "not valid JSON"),
    "open string": (lambda: b'{"a":"' + b"x" * 30_000_000 + b"\\", "not valid JSON"),
    "nesting": (lambda: b"[" * 60_000, "the body is not valid JSON"),
    "open object": (lambda: b'{"prompt": "hills"', "the body is not valid JSON"),
    "no text": (lambda: b"\xff\xfe", "the body is not valid JSON"),
    "fields": (
        lambda: json.dumps({f"k{number}": 1 for number in range(MAX_FIELDS + 1)}).encode(),
        f"body: {MAX_FIELDS + 1} fields, {MAX_FIELDS} are accepted",
    ),
}
"""Made where they are needed: together they are 200 MB."""


@pytest.mark.parametrize("kind", BUSY)
def test_expensive_json_is_rejected(kind: str) -> None:
    make, said = BUSY[kind]
    with pytest.raises(InvalidRequest, match=said):
        check_json(make())


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)
    ),
    st.text(min_size=3000, max_size=3100, alphabet=st.characters(codec="utf-8")),
)
def test_a_small_body_with_long_strings_passes(content: Any, long: str) -> None:
    """Whatever the strings hold: quotes, backslashes, other writing."""
    body = json.dumps({"depth_map_b64": long, "a": content, "b": [{"c": long[:1000]}]}).encode()
    if len(json.dumps(content)) < MAX_BYTES // 2:
        check_json(body)


async def test_a_body_is_given_once_more_in_one_piece() -> None:
    parts: list[Any] = [
        {"type": "http.request", "body": b'{"a"', "more_body": True},
        {"type": "http.request", "body": b": 1}", "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return parts.pop(0)

    again = await JsonReader().bounded(receive)
    assert await again() == {"type": "http.request", "body": b'{"a": 1}', "more_body": False}
    assert await again() == {"type": "http.disconnect"}


async def test_event_loop_runs_between_large_bodies() -> None:
    """An application that holds the loop while it parses holds it for one body at a time."""
    body = json.dumps({"depth_map_b64": PICTURE}).encode()
    reader, order = JsonReader(), list[str]()

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def parse() -> None:
        again = await reader.bounded(receive)
        assert (await again())["body"] == body
        order.append("body")

    async def tick() -> None:
        while order.count("body") < 4:
            await asyncio.sleep(0)
            order.append("other")

    await asyncio.gather(tick(), *(parse() for _ in range(4)))
    assert not [pair for pair in itertools.pairwise(order) if pair == ("body", "body")]


async def test_disconnect_during_body_is_forwarded() -> None:
    parts: list[Any] = [
        {"type": "http.request", "body": b'{"a"', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return parts.pop(0)

    again = await JsonReader().bounded(receive)
    assert await again() == {"type": "http.disconnect"}


def test_validation_error_lists_only_first_problems() -> None:
    error = InvalidRequest.from_problems(
        [FieldError(f"k{number}", "unknown") for number in range(90)]
    )
    assert len(error.detail) == 20
    assert str(error).endswith("k19: unknown; and 70 more")
