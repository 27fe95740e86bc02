"""Networks and rows that a denoising step evaluates or skips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

from testing.workbench import Listener, demo_networks, make_engine, make_job

DEPTH = np.full((64, 64), 99, np.uint8)


@pytest.fixture
def calls() -> Iterator[dict[str, list[int]]]:
    """Rows per evaluation of the UNet, the ControlNet, its hint and the text encoders."""
    variant, controlnet = demo_networks("base")
    rows: dict[str, list[int]] = {"unet": [], "control": [], "hint": [], "text": []}

    def counting(name: str, module: Any) -> Any:
        forward = module.forward

        def counted(*arguments: Any, **options: Any) -> Any:
            rows[name].append(len(arguments[0]))
            return forward(*arguments, **options)

        return mock.patch.object(module, "forward", counted)

    with (
        counting("unet", variant.unet),
        counting("control", controlnet.network),
        counting("hint", controlnet.hint),
        counting("text", variant.text_encoders[0]),
    ):
        yield rows


def run(*changes: dict[str, Any]) -> None:
    engine = make_engine()
    for number, change in enumerate(changes):
        settings = {"steps": 4, "scheduler": "euler", "guidance_scale": 1.0, **change}
        engine.submit(make_job(DEPTH, request_id=str(number), **settings), Listener())
    while engine.tick():
        pass
    engine.close()


def test_unguided_sample_takes_one_row(calls: dict[str, list[int]]) -> None:
    run({"guidance_scale": 1.0})
    assert calls["unet"] == [1, 1, 1, 1]


def test_only_guided_samples_take_a_second_row(calls: dict[str, list[int]]) -> None:
    run({"guidance_scale": 5.0}, {"guidance_scale": 0.0})
    assert calls["unet"] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("window", "rows"),
    [
        ((0.0, 0.5), [2, 2, 1, 1]),
        ((0.5, 1.0), [1, 1, 2, 2]),
        ((0.25, 0.75), [1, 2, 2, 1]),
        ((0.3, 0.3), [1, 1, 1, 1]),
    ],
)
def test_steps_outside_the_guidance_window_take_one_row(
    calls: dict[str, list[int]], window: tuple[float, float], rows: list[int]
) -> None:
    start, end = window
    run({"guidance_scale": 3.0, "guidance_start": start, "guidance_end": end})
    assert calls["unet"] == rows


def test_windows_differ_within_a_batch(calls: dict[str, list[int]]) -> None:
    run(
        {"guidance_scale": 3.0, "guidance_end": 0.5},
        {"guidance_scale": 2.0, "guidance_start": 0.25},
        {},
    )
    assert calls["unet"] == [4, 5, 4, 4]


def test_the_controlnet_runs_only_inside_its_window(calls: dict[str, list[int]]) -> None:
    run({"control_guidance_start": 0.25, "control_guidance_end": 0.75})
    assert calls["control"] == [1, 1]
    assert len(calls["unet"]) == 4


def test_controlnet_of_zero_strength_never_runs(calls: dict[str, list[int]]) -> None:
    run({"controlnet_strength": 0.0})
    assert calls["control"] == []


def test_controlnet_gets_only_its_rows_of_a_mixed_batch(calls: dict[str, list[int]]) -> None:
    run({"control_guidance_end": 0.5, "guidance_scale": 3.0}, {}, {"controlnet_strength": 0.0})
    assert calls["unet"] == [4, 4, 4, 4]
    assert calls["control"] == [3, 3, 1, 1]


def test_prompt_and_hint_are_embedded_once(calls: dict[str, list[int]]) -> None:
    run({"num_images": 3})
    assert calls["hint"] == [1]
    assert calls["text"] == [1]
