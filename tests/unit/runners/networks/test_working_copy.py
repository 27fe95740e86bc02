"""Merged LoRAs: equal to the arithmetic, exact to leave, and no memory but the working copy's."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from common.protocol import LoraWeight
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.memory_format import turn_to_channels_last
from testing.weight_files.predictions import predict
from testing.weight_files.random_loras import layers_of, lora_file
from testing.workbench import WEIGHTS

_CONVOLUTION = "down_blocks.0.resnets.0.conv1"


def load_unet(dtype: torch.dtype = torch.float32) -> Any:
    return UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loras")
    unet = load_unet()
    lora_file(path / "drone.safetensors", unet, "diffusers", seed=1, rank=4)
    lora_file(path / "style.safetensors", unet, "kohya", seed=2, rank=6)
    generator = torch.Generator().manual_seed(5)
    outputs, inputs, *kernel = unet.get_submodule(_CONVOLUTION).weight.shape
    key = f"unet.{_CONVOLUTION}"
    factors = {
        f"{key}.lora_A.weight": torch.randn(2, inputs, *kernel, generator=generator) * 0.1,
        f"{key}.lora_B.weight": torch.randn(outputs, 2, 1, 1, generator=generator) * 0.1,
    }
    save_file(factors, path / "convolution.safetensors")
    return path


def manager_of(unet: Any, folder: Path, copy: WorkingCopy | None) -> LoraManager:
    made = LoraManager(unet, working_copy=copy)
    for name in ("drone", "style", "convolution"):
        made.add(name, folder / f"{name}.safetensors")
    return made


def digest(unet: torch.nn.Module) -> str:
    state = unet.state_dict()
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def expected_weight(unet: Any, folder: Path, layer: str, loras: list[LoraWeight]) -> torch.Tensor:
    """W + sum(strength * alpha / rank * up @ down), in float64."""
    weight: torch.Tensor = unet.get_submodule(layer).weight.double()
    for lora in loras:
        state = load_file(folder / f"{lora.name}.safetensors")
        kohya = "lora_unet_" + layer.replace(".", "_")
        if f"unet.{layer}.lora_A.weight" in state:
            down, up = (state[f"unet.{layer}.lora_{part}.weight"].double() for part in "AB")
            scale = 1.0
        elif f"{kohya}.alpha" in state:
            down, up = (state[f"{kohya}.lora_{part}.weight"].double() for part in ("down", "up"))
            scale = float(state[f"{kohya}.alpha"]) / down.shape[0]
        else:
            continue
        product = up.flatten(1) @ down.flatten(1)
        weight = weight + lora.strength * scale * product.view(weight.shape)
    return weight


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_merged_weights_are_those_of_the_formula(folder: Path, is_channels_last: bool) -> None:
    unet, plain = load_unet(), load_unet()
    if is_channels_last:
        turn_to_channels_last(unet)
    manager = manager_of(unet, folder, WorkingCopy())
    loras = [LoraWeight("drone", 0.8), LoraWeight("convolution", -1.5), LoraWeight("style", 4.0)]
    with manager.activate(loras):
        for layer in (*layers_of(unet), _CONVOLUTION):
            wanted = expected_weight(plain, folder, layer, loras)
            weight = unet.get_submodule(layer).weight
            torch.testing.assert_close(weight.double(), wanted, rtol=0, atol=1e-6)
            assert weight.dim() == 2 or weight.is_contiguous(
                memory_format=torch.channels_last if is_channels_last else torch.contiguous_format
            )
        changed = predict(unet)
    assert (changed - predict(plain)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_and_low_rank_agree(folder: Path, dtype: torch.dtype) -> None:
    both = [manager_of(load_unet(dtype), folder, copy) for copy in (WorkingCopy(), None)]
    results = []
    for manager in both:
        with manager.activate([LoraWeight("drone", 0.8), LoraWeight("style", 0.4)]):
            results.append(predict(manager._unet).float())  # noqa: SLF001
    bound = 1e-4 if dtype == torch.float32 else 0.05 * float(results[0].std())
    torch.testing.assert_close(*results, rtol=0, atol=bound)


def test_pristine_weights_are_bit_identical_after_a_thousand_sets(folder: Path) -> None:
    unet = load_unet()
    manager = manager_of(unet, folder, WorkingCopy())
    before, untouched = digest(unet), predict(unet)
    first = [LoraWeight("drone", 0.3), LoraWeight("convolution", 1.0)]
    with manager.activate(first):
        wanted = predict(unet)
    names = itertools.cycle(["drone", "style", "convolution"])
    for number in range(1000):
        loras = [LoraWeight(name, number / 100 - 5) for name in {next(names), next(names)}]
        assert manager.prepare(loras)
        assert not manager.prepare(loras), "it is active"
    with manager.activate(first):
        assert torch.equal(predict(unet), wanted), "a set depends on those before it"
    with manager.activate([]):
        assert digest(unet) == before
        assert torch.equal(predict(unet), untouched)


def test_variants_share_one_memory(folder: Path) -> None:
    copy = WorkingCopy()
    first, second = load_unet(), load_unet()
    managers = [manager_of(unet, folder, copy) for unet in (first, second)]
    loras = [LoraWeight("drone", 0.8), LoraWeight("convolution", 0.5)]
    assert copy.bytes == 0
    with managers[0].activate(loras):
        wanted = predict(first)
    size = copy.bytes
    assert 0 < size <= managers[0].copied_bytes + 256 * 20
    with managers[1].activate(loras):
        assert torch.equal(predict(second), wanted)
        with managers[0].activate([]):
            assert not torch.equal(predict(first), wanted), "the other's set is not this one's"
            assert torch.equal(predict(second), wanted), "and need not be left for it"
    assert copy.bytes == size
    with managers[0].activate(loras):
        assert torch.equal(predict(first), wanted)
    copy.release()
    assert copy.bytes == 0
    assert torch.equal(predict(first), predict(load_unet()))


def test_a_file_under_an_old_name_is_merged_anew(folder: Path) -> None:
    unet = load_unet()
    manager = LoraManager(unet, working_copy=WorkingCopy())
    results = []
    for name in ("drone", "style"):
        manager.add("era", folder / f"{name}.safetensors")
        with manager.activate([LoraWeight("era", 1.0)]):
            results.append(predict(unet))
        manager.remove("era")
    assert not torch.equal(*results)


def test_an_unloaded_unet_is_freed_with_its_set(folder: Path) -> None:
    copy = WorkingCopy()
    unet = load_unet()
    manager = manager_of(unet, folder, copy)
    manager.prepare([LoraWeight("drone", 1.0)])
    reference = weakref.ref(unet)
    del unet, manager
    gc.collect()
    assert reference() is None
    other = load_unet()
    with manager_of(other, folder, copy).activate([LoraWeight("drone", 1.0)]):
        assert not torch.equal(predict(other), predict(load_unet()))


@pytest.mark.parametrize("call", [0, 4, 12])
@pytest.mark.parametrize("name", ["drone", "style"])
def test_lack_of_memory_leaves_no_half_merged_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    unet = load_unet()
    manager = manager_of(unet, folder, WorkingCopy())
    loras = [LoraWeight("drone", 1.0)]
    with manager.activate(loras):
        wanted = predict(unet)
    before = torch.stack
    calls = itertools.count()

    def full(*arguments: Any, **options: Any) -> torch.Tensor:
        if next(calls) == call:
            raise torch.OutOfMemoryError
        return before(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "stack", full)
        with contextlib.suppress(torch.OutOfMemoryError):
            manager.prepare([LoraWeight(name, 0.5)])
    with manager.activate([]):
        assert torch.equal(predict(unet), predict(load_unet()))
    with manager.activate(loras):
        assert torch.equal(predict(unet), wanted)


def test_a_change_of_strengths_keeps_the_layers_weights(folder: Path) -> None:
    unet = load_unet()
    manager = manager_of(unet, folder, WorkingCopy())
    layer = unet.get_submodule(layers_of(unet)[0])
    manager.prepare([LoraWeight("drone", 1.0), LoraWeight("style", 0.5)])
    address, held = layer.weight.data_ptr(), manager.set_bytes
    manager.prepare([LoraWeight("drone", -2.0), LoraWeight("style", 1.5)])
    assert layer.weight.data_ptr() == address
    assert manager.set_bytes == held
    changed = predict(unet)
    anew = manager_of(load_unet(), folder, WorkingCopy())
    with anew.activate([LoraWeight("drone", -2.0), LoraWeight("style", 1.5)]):
        assert torch.equal(predict(anew._unet), changed)  # noqa: SLF001
