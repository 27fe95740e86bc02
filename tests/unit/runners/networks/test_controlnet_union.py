"""Union ControlNets in depth mode against diffusers' network, and the separation of hints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel

from models.conversion.controlnet_config import DEPTH_MODE
from runners.networks.loading import extract_hint_embedding, load_component
from runners.networks.sdxl import ControlNet
from testing.random_networks import demo_union
from testing.workbench import DEVICE, WEIGHTS


def inputs(rows: int) -> dict[str, Any]:
    """Arguments that plain and union networks share, with the demo set's shapes."""
    generator = torch.Generator().manual_seed(5)
    return {
        "sample": torch.randn(rows, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([500.0] * rows),
        "encoder_hidden_states": torch.randn(rows, 77, 160, generator=generator),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, 96, generator=generator),
            "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * rows),
        },
        "return_dict": False,
    }


def depth_maps(count: int) -> torch.Tensor:
    grey = torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(6))
    return grey.expand(-1, 3, -1, -1)


@torch.inference_mode()
def residuals(controlnet: ControlNet, rows: dict[str, Any], depth: torch.Tensor) -> Any:
    down, middle = controlnet.network(
        **rows, controlnet_cond=controlnet.hint(depth), conditioning_scale=0.7
    )
    return [*down, middle]


def test_depth_mode_equals_diffusers_union_network() -> None:
    rows, depth = inputs(1), depth_maps(1)
    union = demo_union()
    types = torch.zeros(1, union.config.num_control_type)
    types[:, DEPTH_MODE] = 1.0
    with torch.inference_mode():
        down, middle = union(
            **rows,
            controlnet_cond=[depth],
            control_type=types,
            control_type_idx=[DEPTH_MODE],
            conditioning_scale=[0.7],
        )
    ours = residuals(extract_hint_embedding("union", demo_union()), rows, depth)
    for own, reference in zip(ours, [*down, middle], strict=True):
        torch.testing.assert_close(own, reference, atol=1e-5, rtol=1e-5)


def test_maps_of_one_batch_do_not_mix() -> None:
    controlnet = extract_hint_embedding("union", demo_union())
    depth = depth_maps(2)
    with torch.inference_mode():
        together = controlnet.hint(depth)
        for row in range(2):
            torch.testing.assert_close(together[row : row + 1], controlnet.hint(depth[row, None]))


@pytest.mark.parametrize("kind", ["plain", "union"])
def test_entries_that_share_a_network_are_equal(kind: str) -> None:
    network = demo_union()
    if kind == "plain":
        network = load_component("controlnet", WEIGHTS / "controlnet", DEVICE)
    rows, depth = inputs(1), depth_maps(1)
    first = extract_hint_embedding("first", network)
    expected = residuals(first, rows, depth)
    second = extract_hint_embedding("second", network)
    for controlnet in (second, first):
        for own, reference in zip(residuals(controlnet, rows, depth), expected, strict=True):
            torch.testing.assert_close(own, reference, atol=0.0, rtol=0.0)


def test_a_union_network_is_evaluated_as_a_plain_one() -> None:
    union = demo_union()
    controlnet = extract_hint_embedding("union", union)
    assert type(controlnet.network) is ControlNetModel
    assert {id(p) for p in controlnet.network.parameters()} == {id(p) for p in union.parameters()}
