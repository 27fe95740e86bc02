"""Adapters of all families, merged and at run time, against the formulae of their authors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from common.protocol import LoraMode, LoraWeight
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.memory_format import turn_to_channels_last
from testing.weight_files import families as files
from testing.weight_files.adapter_case import (
    CONVOLUTIONS,
    KERNELS,
    LINEAR,
    NORMS,
    AdapterFileCase,
    Random,
    Write,
    add,
    apply_expected,
    kohya,
    make_case,
)
from testing.weight_files.predictions import predict
from testing.weight_files.random_loras import layers_of
from testing.weight_files.spellings import (
    DIFFUSERS_20,
    KOHYA,
    LINEAR_LAYER,
    PEFT,
    PEFT_NAMED,
    Rename,
    Suffixes,
    dotted,
    flattened,
    respell,
)
from testing.workbench import WEIGHTS

CASES: dict[str, tuple[Write, tuple[str, ...]]] = {
    "lora": (files.write_lora, LINEAR),
    "locon": (files.write_lora, CONVOLUTIONS),
    "locon tucker": (files.write_tucker, KERNELS),
    "loha": (files.write_loha, LINEAR),
    "loha of convolutions": (files.write_loha, CONVOLUTIONS),
    "loha tucker": (files.write_loha_tucker, KERNELS),
    "lokr": (files.write_lokr, LINEAR),
    "lokr of convolutions": (files.write_lokr, KERNELS),
    "lokr factored": (files.write_lokr_factored, LINEAR),
    "lokr factored convolutions": (files.write_lokr_factored, KERNELS),
    "lokr both factored": (files.write_lokr_both, LINEAR),
    "lokr tucker": (files.write_lokr_tucker, KERNELS),
    "full": (files.write_difference, (*LINEAR, *CONVOLUTIONS)),
    "norms": (files.write_norm, NORMS),
    "biases of factors": (files.write_up_bias, LINEAR),
    "dora per output": (files.dora(files.write_lora, True), LINEAR),
    "dora per input": (files.dora(files.write_lora, False), LINEAR),
    "dora of peft": (files.dora(files.write_lora, True, peft=True), LINEAR),
    "dora of convolutions": (files.dora(files.write_lora, True), KERNELS),
    "dora of convolutions per input": (files.dora(files.write_lora, False), KERNELS),
    "dora on loha": (files.dora(files.write_loha, True), LINEAR),
    "dora on lokr": (files.dora(files.write_lokr, False), LINEAR),
}


def load_unet(dtype: torch.dtype = torch.float32) -> Any:
    return UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", dtype=dtype)


def manager_of(unet: Any, mode: LoraMode, **named: Path) -> LoraManager:
    made = LoraManager(unet, working_copy=WorkingCopy() if mode == "merged" else None)
    for name, path in named.items():
        made.add(name, path)
    return made


def changed_unet(*sets: tuple[AdapterFileCase, float]) -> Any:
    """A UNet with W + sum(strength * (W' - W)) of the cases' expected weights W'."""
    unet = load_unet()
    apply_expected(unet, "unet", sets)
    return unet


def check(manager: LoraManager, unet: Any, wanted: Any, *loras: LoraWeight) -> None:
    assert not manager.warnings
    with manager.activate(loras):
        got = predict(unet)
    right, untouched = predict(wanted), predict(load_unet())
    effect = float((right - untouched).abs().max())
    assert effect > 1e-2, "the case changes nothing"
    assert float((got - right).abs().max()) <= 1e-3 * effect
    with manager.activate([]):
        assert torch.equal(predict(unet), untouched)


@pytest.mark.parametrize("mode", ["merged", "low_rank"])
@pytest.mark.parametrize("name", CASES)
def test_family_has_the_authors_arithmetic(name: str, mode: LoraMode, tmp_path: Path) -> None:
    unet = load_unet()
    case = make_case(unet, *CASES[name])
    manager = manager_of(unet, mode, one=case.save(tmp_path / "a.safetensors"))
    check(manager, unet, changed_unet((case, 1.0)), LoraWeight("one", 1.0))


@pytest.mark.parametrize("mode", ["merged", "low_rank"])
@pytest.mark.parametrize(("first", "second"), [
    ("lora", "dora per output"), ("loha", "lokr factored"), ("norms", "full"),
    ("dora per input", "biases of factors"), ("locon", "lokr of convolutions"),
])  # fmt: skip
def test_sets_of_several_families(first: str, second: str, mode: LoraMode, tmp_path: Path) -> None:
    unet = load_unet()
    cases = [make_case(unet, *CASES[name]) for name in (first, second)]
    paths = [case.save(tmp_path / f"{n}.safetensors") for n, case in enumerate(cases)]
    manager = manager_of(unet, mode, one=paths[0], two=paths[1])
    for strengths in ((0.8, -0.5), (-2.0, 1.0)):
        loras = [
            LoraWeight(name, each) for name, each in zip(("one", "two"), strengths, strict=True)
        ]
        check(manager, unet, changed_unet(*zip(cases, strengths, strict=True)), *loras)


def test_channels_last_convolutions_keep_their_format(tmp_path: Path) -> None:
    unet = load_unet()
    case = make_case(unet, files.dora(files.write_lora, True), KERNELS)
    turn_to_channels_last(unet)
    manager = manager_of(unet, "merged", one=case.save(tmp_path / "a.safetensors"))
    with manager.activate([LoraWeight("one", 1.0)]):
        for layer, (wanted, _) in case.expected.items():
            weight = unet.get_submodule(layer).weight
            torch.testing.assert_close(weight.double(), wanted, rtol=0, atol=1e-6)
            assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_each_weight_once(dtype: torch.dtype, tmp_path: Path) -> None:
    unet = load_unet(dtype)
    case = make_case(unet, files.dora(files.write_lora, True))
    manager = manager_of(unet, "merged", one=case.save(tmp_path / "a.safetensors"))
    bound = 2 * torch.finfo(dtype).eps
    with manager.activate([LoraWeight("one", 1.0)]):
        for layer, (wanted, _) in case.expected.items():
            weight = unet.get_submodule(layer).weight
            assert weight.dtype == dtype
            error = (weight.double() - wanted).abs().max() / wanted.abs().max()
            assert float(error) <= bound


def test_changes_of_text_encoders_act_in_all_families(tmp_path: Path) -> None:
    from testing.workbench import demo_networks

    encoder = demo_networks("base")[0].text_encoders[0]
    layer = layers_of(encoder, ("fc1",))[0]
    module = encoder.get_submodule(layer)
    key = "lora_te1_text_model_" + layer.removeprefix("text_model.").replace(".", "_")
    case, random = AdapterFileCase(), Random(5)
    files.dora(files.write_loha, True)(case, layer, module, random)
    state = {name.replace(kohya(layer), key): tensor for name, tensor in case.state.items()}
    norm = layer.replace("mlp.fc1", "layer_norm1")
    state[key.replace("mlp_fc1", "layer_norm1") + ".w_norm"] = random(
        *encoder.get_submodule(norm).weight.shape, scale=0.2
    )
    state[key.replace("mlp_fc1", "layer_norm1") + ".b_norm"] = random(
        *encoder.get_submodule(norm).weight.shape, scale=0.2
    )
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "a")
    manager = LoraManager(load_unet(), [encoder])
    manager.add("one", tmp_path / "a")
    assert not manager.warnings
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad():
        with manager.activate_text([LoraWeight("one", 0.7)]):
            got = encoder(tokens, output_hidden_states=True).hidden_states[-1]
        before = encoder(tokens, output_hidden_states=True).hidden_states[-1]
        norms = encoder.get_submodule(norm)
        saved = [parameter.clone() for parameter in (module.weight, norms.weight, norms.bias)]
        module.weight.add_(0.7 * (case.expected[layer][0] - module.weight.double()).float())
        norms.weight.add_(0.7 * state[key.replace("mlp_fc1", "layer_norm1") + ".w_norm"])
        norms.bias.add_(0.7 * state[key.replace("mlp_fc1", "layer_norm1") + ".b_norm"])
        right = encoder(tokens, output_hidden_states=True).hidden_states[-1]
        for parameter, value in zip((module.weight, norms.weight, norms.bias), saved, strict=True):
            parameter.copy_(value)
    assert float((right - before).abs().max()) > 1e-2
    torch.testing.assert_close(got, right, rtol=0, atol=1e-4)


SPELLINGS: dict[str, tuple[Rename, Suffixes | None]] = {
    "diffusers": (dotted(unet="unet."), PEFT),
    "no prefix": (dotted(), PEFT),
    "peft": (dotted(unet="base_model.model."), PEFT),
    "peft with an adapter's name": (dotted(unet="base_model.model.unet."), PEFT_NAMED),
    "diffusers 0.20": (dotted(unet="unet."), DIFFUSERS_20),
    "kohya dotted": (dotted(unet="unet."), KOHYA),
    "lora_linear_layer": (dotted(unet="unet."), LINEAR_LAYER),
    "lycoris": (flattened("lycoris_"), None),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_layers(spelling: str, tmp_path: Path) -> None:
    unet = load_unet()
    case = respell(make_case(unet, files.write_lora), *SPELLINGS[spelling])
    manager = manager_of(unet, "merged", one=case.save(tmp_path / "a.safetensors"))
    check(manager, unet, changed_unet((case, 1.0)), LoraWeight("one", 1.0))


def test_layers_outside_the_blocks_keep_their_numbers(tmp_path: Path) -> None:
    unet = load_unet()
    layers = ("add_embedding.linear_1", "add_embedding.linear_2", "time_embedding.linear_2")
    case = make_case(unet, files.write_lora, layers)
    assert len(case.expected) == 3
    manager = manager_of(unet, "merged", one=case.save(tmp_path / "a.safetensors"))
    check(manager, unet, changed_unet((case, 1.0)), LoraWeight("one", 1.0))


@pytest.mark.parametrize("dtype", [
    torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2
])  # fmt: skip
def test_dtypes_of_files(dtype: torch.dtype, tmp_path: Path) -> None:
    unet = load_unet()
    case = AdapterFileCase()
    random = Random(4)
    for layer in layers_of(unet, LINEAR):
        module = unet.get_submodule(layer)
        outputs, inputs = module.weight.shape
        down, up = random(4, inputs, scale=0.3).to(dtype), random(outputs, 4, scale=0.1).to(dtype)
        case.state |= {
            f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up
        }  # fmt: skip
        add(case, layer, module, up.double() @ down.double())
    manager = manager_of(unet, "merged", one=case.save(tmp_path / "a.safetensors"))
    check(manager, unet, changed_unet((case, 1.0)), LoraWeight("one", 1.0))


@pytest.mark.parametrize(("settings", "scale"), [
    ({"unet.r": 4, "unet.lora_alpha": 32}, 8.0),
    ({"unet.r": 4, "unet.lora_alpha": 2}, 0.5),
    ({"unet.r": 4, "unet.lora_alpha": 4, "unet.use_rslora": True}, 2.0),
    ({"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {"attn1.to_q": 4}}, 1.0),
    ({"r": 4, "lora_alpha": 2}, 0.5),
    ({"unet.lora_alpha": "many", "unet.alpha_pattern": ["x"]}, 1.0),
    ("not an object", 1.0),
])  # fmt: skip
def test_scale_of_the_metadata(settings: Any, scale: float, tmp_path: Path) -> None:
    unet = load_unet()
    case = AdapterFileCase(metadata={"lora_adapter_metadata": json.dumps(settings)})
    random = Random(4)
    for layer in layers_of(unet, ("to_q", "to_k")):
        module = unet.get_submodule(layer)
        down, up = random(4, module.weight.shape[1]), random(module.weight.shape[0], 4, scale=0.05)
        case.state |= {
            f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up
        }  # fmt: skip
        add(case, layer, module, up @ down * scale)
    manager = manager_of(unet, "merged", one=case.save(tmp_path / "a.safetensors"))
    check(manager, unet, changed_unet((case, 1.0)), LoraWeight("one", 1.0))


@pytest.mark.parametrize(("alpha", "scale"), [
    (torch.tensor(2.0), 0.5), (torch.tensor([2.0]), 0.5), (torch.tensor(2), 0.5),
    (torch.tensor(0.0), 0.0), (torch.tensor(8, dtype=torch.int64), 2.0), (None, 1.0),
    (torch.tensor(2.0, dtype=torch.bfloat16), 0.5),
])  # fmt: skip
def test_alpha_of_any_form(alpha: torch.Tensor | None, scale: float, tmp_path: Path) -> None:
    unet = load_unet()
    layer = layers_of(unet, ("to_q",))[0]
    module = unet.get_submodule(layer)
    down, up = torch.ones(4, module.weight.shape[1]), torch.full((module.weight.shape[0], 4), 0.01)
    state = {f"{kohya(layer)}.lora_down.weight": down, f"{kohya(layer)}.lora_up.weight": up}
    if alpha is not None:
        state[f"{kohya(layer)}.alpha"] = alpha
    before = module.weight.detach().clone()
    manager = manager_of(unet, "merged", one=AdapterFileCase(state).save(tmp_path / "a"))
    with manager.activate([LoraWeight("one", 1.0)]):
        difference = module.weight.detach() - before
    torch.testing.assert_close(difference, up @ down * scale, rtol=0, atol=1e-6)
