"""Low-rank LoRAs compared with peft, and unchanged predictions after deactivation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from common.protocol import LoraWeight
from runners.errors import AdapterError
from runners.networks.lora.adapter_file import read_adapter
from runners.networks.lora.combination import LayerCombination, LoraCombination
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.weight_change import LowRank, factors_of
from testing.weight_files.predictions import predict
from testing.weight_files.random_loras import layers_of, lora_file
from testing.workbench import WEIGHTS, demo_networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loras")
    unet = demo_networks("base")[0].unet
    lora_file(path / "drone.safetensors", unet, "diffusers", seed=1, rank=4)
    lora_file(path / "style.safetensors", unet, "kohya", seed=2, rank=6)
    return path


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=torch.float32)


@pytest.fixture
def bank(unet: UNet2DConditionModel, folder: Path) -> LoraManager:
    made = LoraManager(unet)
    made.add("drone", folder / "drone.safetensors")
    made.add("style", folder / "style.safetensors")
    return made


def reference(folder: Path, strengths: dict[str, float]) -> torch.Tensor:
    """The same by diffusers and peft, on a UNet of their own."""
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as Mixin

    unet = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=torch.float32)
    for name in strengths:
        state, alphas = Mixin.lora_state_dict(
            str(folder / f"{name}.safetensors"), unet_config=unet.config
        )
        unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas, adapter_name=name)
    unet.set_adapters(list(strengths), list(strengths.values()))
    return predict(unet)


@pytest.mark.parametrize(
    "strengths",
    [{"drone": 0.8}, {"style": 0.5}, {"drone": 0.8, "style": 0.4}, {"drone": 2.0, "style": 1.1}],
)
def test_lora_predictions_equal_peft(
    unet: UNet2DConditionModel, bank: LoraManager, folder: Path, strengths: dict[str, float]
) -> None:
    loras = [LoraWeight(name, strength) for name, strength in strengths.items()]
    with bank.activate(loras):
        ours = predict(unet)
    expected = reference(folder, strengths)
    assert (expected - predict(unet)).abs().max() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_deactivated_loras_leave_no_trace(unet: UNet2DConditionModel, bank: LoraManager) -> None:
    fresh = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=torch.float32)
    untouched = predict(fresh)
    with bank.activate([LoraWeight("drone", 1.0)]):
        changed = predict(unet)
    assert not torch.equal(changed, untouched)
    assert torch.equal(predict(unet), untouched)
    with pytest.raises(RuntimeError), bank.activate([LoraWeight("style", 1.0)]):
        raise RuntimeError
    assert torch.equal(predict(unet), untouched)


def test_a_set_is_the_same_whatever_was_active_before(
    unet: UNet2DConditionModel, bank: LoraManager
) -> None:
    wanted = [LoraWeight("drone", 0.3)]
    with bank.activate(wanted):
        first = predict(unet)
    for number in range(20):
        with bank.activate([LoraWeight("style", number / 10)]):
            assert bank.active_layers
    with bank.activate(wanted):
        assert torch.equal(predict(unet), first)


def products(layer: LayerCombination) -> LowRank:
    """The factors of a layer of plain LoRAs."""
    assert layer.low_rank is not None
    assert not layer.others
    return layer.low_rank


@pytest.mark.parametrize(("drone", "style"), [(1.0, None), (0.5, None), (1.0, 0.5)])
def test_every_set_is_of_one_kind_of_tensors(
    bank: LoraManager, drone: float, style: float | None
) -> None:
    loras = [LoraWeight("drone", drone)]
    if style is not None:
        loras.append(LoraWeight("style", style))
    with torch.inference_mode(), bank.activate(loras):
        parts = [products(layer) for layer in bank.active_layers.values()]
    assert all(part.down.is_inference() and part.up.is_inference() for part in parts)
    assert all(part.down.is_contiguous() and part.up.is_contiguous() for part in parts)


def test_lora_sets_share_tensors(bank: LoraManager) -> None:
    drone, half = LoraWeight("drone", 1.0), LoraWeight("drone", 0.5)
    with bank.activate([drone]):
        adapter = {name: products(layer) for name, layer in bank.active_layers.items()}
    assert bank.set_bytes == 0
    bank.release_sets()
    with bank.activate([drone]):
        # No cached set is left, so they are the adapter's own.
        for name, layer in bank.active_layers.items():
            assert products(layer).down is adapter[name].down
            assert products(layer).up is adapter[name].up
    ups = sum(part.up.nbytes for part in adapter.values())
    with bank.activate([half]):
        for name, layer in bank.active_layers.items():
            assert products(layer).down is adapter[name].down
        assert bank.set_bytes == ups
    with bank.activate([LoraWeight("style", 1.0)]):
        both = [*adapter.values(), *map(products, bank.active_layers.values())]
    with bank.activate([drone, LoraWeight("style", 1.0)]):
        whole = sum(part.down.nbytes + part.up.nbytes for part in both)
        assert bank.set_bytes == whole + ups
    assert bank.size == whole
    bank.release_sets()
    assert bank.set_bytes == 0


@pytest.mark.parametrize(("room", "kept"), [(3.5, 3), (100, 16)])
def test_a_slider_keeps_no_more_than_the_bounds(
    unet: UNet2DConditionModel, folder: Path, room: float, kept: int
) -> None:
    layers = LoraCombination.from_layers(
        [(read_adapter(folder / "drone.safetensors", unet).unet, 1.0)]
    ).layers
    one = sum(products(layer).up.nbytes for layer in layers.values())
    slid = LoraManager(unet, max_set_bytes=int(room * one))
    slid.add("drone", folder / "drone.safetensors")
    for number in range(20):
        with slid.activate([LoraWeight("drone", 0.01 + number / 20)]):
            assert slid.set_bytes <= room * one
    assert slid.set_bytes == kept * one


def test_one_product_per_layer(unet: UNet2DConditionModel, bank: LoraManager) -> None:
    both = [LoraWeight("drone", 1.0), LoraWeight("style", 1.0)]
    with bank.activate(both):
        ranks = {products(layer).down.shape[0] for layer in bank.active_layers.values()}
        assert len(bank.active_layers) == len(layers_of(unet))
    assert ranks == {10}


def test_convolutions_too(tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=torch.float32)
    layer = "down_blocks.0.resnets.0.conv1"
    outputs, inputs, *kernel = unet.get_submodule(layer).weight.shape
    down, up = torch.randn(2, inputs, *kernel) * 0.1, torch.randn(outputs, 2, 1, 1) * 0.1
    save_file(
        {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up},
        tmp_path / "conv.safetensors",
    )
    bank = LoraManager(unet)
    bank.add("conv", tmp_path / "conv.safetensors")
    with bank.activate([LoraWeight("conv", 0.7)]):
        ours = predict(unet)
    with torch.no_grad():
        unet.get_submodule(layer).weight += 0.7 * torch.einsum("rikl,or->oikl", down, up[..., 0, 0])
    torch.testing.assert_close(ours, predict(unet), rtol=0, atol=1e-4)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    unet = demo_networks("base")[0].unet
    path = tmp_path / "lora.safetensors"
    layer = layers_of(unet)[0]
    for state, message in (
        ({"unet.no.such.lora_A.weight": torch.ones(2, 3)}, "this model has no such layer"),
        ({f"unet.{layer}.lora_A.weight": torch.ones(2, 3),
          f"unet.{layer}.lora_B.weight": torch.ones(5, 2)}, "factors do not fit|shape"),
        ({"text_encoder.x.lora_A.weight": torch.ones(2, 3)}, "no such layer"),
    ):  # fmt: skip
        save_file(state, path)
        with pytest.raises(AdapterError, match=message):
            read_adapter(path, unet)


def test_half_precision_weights_are_cast(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=torch.float16)
    file = read_adapter(folder / "drone.safetensors", unet)
    factors = [factor for layer in file.unet.values() for factor in factors_of(layer.weight)]
    assert {factor.dtype for factor in factors} == {torch.float16}
    assert file.warning is None
    assert np.isfinite([factor.abs().max().item() for factor in factors]).all()
