"""Frames: every message survives transport, however the stream is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.framing import Unpacker, pack, unpack
from common.protocol import (
    CancelCommand,
    Cancelled,
    DepthResult,
    EstimateJob,
    JobDone,
    JobFailed,
    LoadCommand,
    LoadResult,
    Message,
    Queued,
    RunnerStatus,
    Started,
    Step,
)
from tests.support.runner.fake_runner import JOB

MESSAGES: list[Message] = [
    JOB, Queued(3), Started(), Step(1, 6, b"jpeg"), Step(2, 6),
    JobDone((b"a", b"", b"ccc"), "png", "E", {}, {"seed": 3}),
    JobFailed("overloaded", "later", 2.5), CancelCommand(session="s"), Cancelled(("a", "b")),
    EstimateJob("r", "s", "relief", bytes(range(12)), 2, 2), DepthResult(b"abcd", 0.5),
    LoadCommand("base"), LoadResult("ok", ("base",), (), 0.1), RunnerStatus("ready"),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives(message: Message) -> None:
    assert unpack(pack(message), type(message)) == message


@given(
    st.lists(st.sampled_from(MESSAGES), max_size=6),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
)
def test_a_stream_may_be_cut_anywhere(messages: list[Message], cuts: list[int]) -> None:
    stream = b"".join(pack(message) for message in messages)
    unpacker = Unpacker()
    received: list[Any] = []
    turn = 0
    while stream:
        size = cuts[turn % len(cuts)]
        received += unpacker.feed(stream[:size])
        stream = stream[size:]
        turn += 1
    assert received == messages


def test_a_frame_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="LoadCommand"):
        unpack(pack(Started()), LoadCommand)
    with pytest.raises(ValueError, match="Started"):
        unpack(pack(Started()) * 2, Started)
