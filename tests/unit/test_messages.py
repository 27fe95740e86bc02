"""Frames: every message survives the border, however the stream is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.messages import (
    Cancelled,
    CancelOrder,
    Done,
    Estimated,
    EstimateJob,
    Failed,
    LoadOrder,
    LoadOutcome,
    LoraWeight,
    Message,
    PaintJob,
    Queued,
    RunnerStatus,
    Started,
    Step,
    Unpacker,
    pack,
    unpack,
)

JOB = PaintJob(
    request_id="r", subscriber="s", model="base", controlnet="c", prompt="Hügel 🏔",
    negative_prompt=None, seed=2**63 - 1, num_images=1, steps=2, guidance_scale=1.5,
    controlnet_strength=0.8, control_guidance_start=0.0, control_guidance_end=1.0,
    scheduler="auto", use_karras_sigmas=None, width=8, height=8, output_format="png",
    quality=90, depth=bytes(range(64)), loras=(LoraWeight("drone", 0.4),), deadline=1.5,
    parameters={"blob": [1], "prompt": "x"},
)  # fmt: skip

MESSAGES: list[Message] = [
    JOB, Queued(3), Started(), Step(1, 6, b"jpeg"), Step(2, 6),
    Done((b"a", b"", b"ccc"), "png", "E", {}, {"seed": 3}),
    Failed("overloaded", "later", 2.5), CancelOrder(session="s"), Cancelled(("a", "b")),
    EstimateJob("r", "s", "relief", bytes(range(12)), 2, 2), Estimated(b"abcd", 0.5),
    LoadOrder("base"), LoadOutcome("ok", ("base",), (), 0.1), RunnerStatus("ready"),
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
    with pytest.raises(ValueError, match="LoadOrder"):
        unpack(pack(Started()), LoadOrder)
    with pytest.raises(ValueError, match="Started"):
        unpack(pack(Started()) * 2, Started)
