"""One product for query, key and value where their weights lie side by side."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.protocol import LoraWeight
from runners.networks.loading import load_component
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.memory_format import turn_to_channels_last
from runners.networks.projection_layout import adjacent_view, side_by_side
from runners.networks.static_conditioning import CrossAttentionCache
from runners.networks.weight_upload import WeightUploader
from testing.workbench import DEVICE, WEIGHTS
from tests.support.files.lora_files import layers_of, lora_file
from tests.support.runner.copy_stream import LateCopyStream
from tests.support.runner.predictions import predict

KEYS = ("attn1.to_k",)
DRONE = [LoraWeight("drone", 0.8)]


def load_unet(is_uploaded: bool = True) -> Any:
    """The demo's UNet, with weights as after a load to a GPU, or as mapped from the file."""
    stream = LateCopyStream() if is_uploaded else None
    unet = load_component("unet", WEIGHTS / "unet", DEVICE, WeightUploader(DEVICE, stream))
    CrossAttentionCache(unet)
    return unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loras")
    whole = lora_file(path / "drone.safetensors", load_unet(), "diffusers", seed=1, rank=4)
    queries = {key: each for key, each in load_file(whole).items() if ".to_q." in key}
    save_file(queries, path / "queries.safetensors")
    return path


def manager_of(unet: Any, folder: Path, copy: WorkingCopy | None) -> LoraManager:
    made = LoraManager(unet, working_copy=copy)
    for name in ("drone", "queries"):
        made.add(name, folder / f"{name}.safetensors")
    return made


def key_products(unet: Any) -> tuple[torch.Tensor, int]:
    """A prediction, and how many self-attention layers computed their keys apart."""
    called: list[str] = []
    hooks = [
        unet.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
        for name in layers_of(unet, KEYS)
    ]
    predicted = predict(unet)
    for hook in hooks:
        hook.remove()
    return predicted, len(called)


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def test_uploaded_weights_take_one_product() -> None:
    plain, separate = key_products(load_unet(is_uploaded=False))
    joined, rest = key_products(load_unet())
    assert separate == len(layers_of(load_unet(), KEYS)) > 0
    assert rest == 0
    close(joined, plain)


@pytest.mark.parametrize("is_uploaded", [False, True])
def test_a_merged_set_takes_one_product_and_leaves_no_trace(
    folder: Path, is_uploaded: bool
) -> None:
    unet = load_unet(is_uploaded)
    before, separate = key_products(unet)
    manager = manager_of(unet, folder, WorkingCopy())
    for strength in (0.8, -2.0, 0.8):
        with manager.activate([LoraWeight("drone", strength)]):
            merged, rest = key_products(unet)
            assert rest == 0
    low_rank = manager_of(load_unet(False), folder, None)
    with low_rank.activate(DRONE):
        close(merged, predict(low_rank._unet))  # noqa: SLF001
    with manager.activate([]):
        after, again = key_products(unet)
    assert torch.equal(after, before)
    assert again == separate


def test_a_set_does_not_depend_on_those_before_it(folder: Path) -> None:
    manager, other = (manager_of(load_unet(), folder, WorkingCopy()) for _ in range(2))
    for loras in ([LoraWeight("queries", 1.0)], [LoraWeight("queries", 2.0), *DRONE], DRONE):
        with manager.activate(loras):
            after_others = predict(manager._unet)  # noqa: SLF001
    with other.activate(DRONE):
        assert torch.equal(after_others, predict(other._unet))  # noqa: SLF001


def test_a_set_that_changes_queries_alone_takes_three_products(folder: Path) -> None:
    loras = [LoraWeight("queries", 1.5)]
    unet = load_unet()
    manager, low_rank = (
        manager_of(unet, folder, WorkingCopy()),
        manager_of(load_unet(False), folder, None),
    )
    with manager.activate(loras), low_rank.activate(loras):
        merged, separate = key_products(unet)
        close(merged, predict(low_rank._unet))  # noqa: SLF001
    assert separate == len(layers_of(unet, KEYS))


def test_low_rank_products_are_not_passed_by(folder: Path) -> None:
    unet = load_unet()
    low_rank = manager_of(unet, folder, None)
    merged = manager_of(load_unet(False), folder, WorkingCopy())
    with low_rank.activate(DRONE), merged.activate(DRONE):
        changed, separate = key_products(unet)
        close(changed, predict(merged._unet))  # noqa: SLF001
    assert separate == len(layers_of(unet, KEYS))


def test_turned_networks_keep_one_product_and_no_other_memory() -> None:
    unet = load_unet()
    before = predict(unet)
    turn_to_channels_last(unet)
    after, separate = key_products(unet)
    assert separate == 0
    close(after, before)
    storages = {each.untyped_storage().data_ptr(): each for each in unet.parameters()}
    total = sum(each.untyped_storage().nbytes() for each in storages.values())
    assert total == sum(each.nbytes for each in unet.parameters())


def test_an_unloaded_unet_is_freed_with_its_views(folder: Path) -> None:
    copy = WorkingCopy()
    unet = load_unet()
    manager = manager_of(unet, folder, copy)
    manager.prepare(DRONE)
    predict(unet)
    layer = weakref.ref(unet.get_submodule(layers_of(unet, KEYS)[0]))
    del unet, manager
    gc.collect()
    assert layer() is None


def test_projections_of_one_layer_become_neighbours() -> None:
    names = ["a.attn1.to_k", "a.attn1.to_out.0", "a.attn1.to_q", "a.attn1.to_v", "b.attn1.to_k"]
    assert side_by_side(names) == [
        "a.attn1.to_q", "a.attn1.to_k", "a.attn1.to_v", "a.attn1.to_out.0", "b.attn1.to_k"
    ]  # fmt: skip


def test_only_neighbours_in_order_have_a_common_view() -> None:
    buffer = torch.arange(24.0).view(6, 4)
    first, second, third = buffer.split(2)
    view = adjacent_view([first, second, third])
    assert view is not None
    assert torch.equal(view, buffer)
    assert view.data_ptr() == buffer.data_ptr()
    for others in ([second, first], [first, third], [first, second.clone()], [first.t(), second]):
        assert adjacent_view(others) is None
