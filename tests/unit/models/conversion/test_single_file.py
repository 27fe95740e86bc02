"""Components in one file, in every naming: equal to the same component of a whole checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.conversion.checkpoint import split_checkpoint
from models.conversion.component import weight_name
from models.conversion.config import CONFIG_NAME
from models.conversion.safetensors_io import WeightsError
from models.conversion.sdxl_key_map import PREFIXES
from models.conversion.single_file import SINGLE_FILE_KINDS, convert_single_file
from testing.sdxl_set import write_configurations
from tests.support.files.checkpoints import original_tensors

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensors, dict[str, Path]]:
    """A checkpoint's tensors, and the folders of its components."""
    folder = tmp_path_factory.mktemp("whole")
    tensors = original_tensors()
    save_file(tensors, folder / "model.safetensors")
    configs = write_configurations(folder / "configs", small=True)
    parts = split_checkpoint(folder / "model.safetensors", folder / "parts", None, configs=configs)
    return tensors, parts


def trained(kind: str, tensors: Tensors, prefix: str) -> Tensors:
    """The component's tensors in the training code's names after another prefix."""
    own = PREFIXES[kind]
    return {prefix + key.removeprefix(own): t for key, t in tensors.items() if key.startswith(own)}


def in_library(kind: str, parts: dict[str, Path], prefix: str) -> Tensors:
    weights = load_file(parts[kind] / weight_name(kind))
    return {prefix + key: tensor for key, tensor in weights.items()}


def converted(kind: str, state: Tensors, config: Path | None, tmp_path: Path) -> Path:
    file = tmp_path / "own.SFT"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    convert_single_file(kind, file, tmp_path / "result", None, config)
    return tmp_path / "result"


CASES = [
    *[(kind, "training", PREFIXES[kind]) for kind in SINGLE_FILE_KINDS],
    ("text_encoder", "training", "clip_l.transformer."),
    ("text_encoder_2", "training", "clip_g."), ("text_encoder_2", "training", ""),
    ("unet", "training", "diffusion_model."), ("unet", "training", ""),
    ("vae", "training", ""), ("vae", "training", "vae."),
    *[(kind, "library", "") for kind in SINGLE_FILE_KINDS],
    *[(kind, "library", f"{kind}.") for kind in SINGLE_FILE_KINDS],
    ("text_encoder", "library", "clip_l."),
    *[(kind, "whole", "") for kind in SINGLE_FILE_KINDS],
]  # fmt: skip


@pytest.mark.parametrize(("kind", "naming", "prefix"), CASES)
def test_every_naming_gives_the_same_files(
    kind: str,
    naming: str,
    prefix: str,
    whole: tuple[Tensors, dict[str, Path]],
    tmp_path: Path,
) -> None:
    tensors, parts = whole
    state = {
        "training": lambda: trained(kind, tensors, prefix),
        "library": lambda: in_library(kind, parts, prefix),
        "whole": lambda: tensors,
    }[naming]()
    result = converted(kind, state, parts[kind] / CONFIG_NAME, tmp_path)
    for name in (weight_name(kind), CONFIG_NAME):
        assert (result / name).read_bytes() == (parts[kind] / name).read_bytes()


def test_text_encoder_without_its_module_name(
    whole: tuple[Tensors, dict[str, Path]], tmp_path: Path
) -> None:
    _, parts = whole
    state = in_library("text_encoder", parts, "")
    bare = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    result = converted("text_encoder", bare, parts["text_encoder"] / CONFIG_NAME, tmp_path)
    name = weight_name("text_encoder")
    assert (result / name).read_bytes() == (parts["text_encoder"] / name).read_bytes()


def test_both_spellings_of_the_text_projection(
    whole: tuple[Tensors, dict[str, Path]], tmp_path: Path
) -> None:
    tensors, parts = whole
    state = dict(tensors)
    key = f"{PREFIXES['text_encoder_2']}text_projection"
    state[f"{key}.weight"] = state.pop(key).T
    result = converted("text_encoder_2", state, parts["text_encoder_2"] / CONFIG_NAME, tmp_path)
    name = weight_name("text_encoder_2")
    assert (result / name).read_bytes() == (parts["text_encoder_2"] / name).read_bytes()


def test_older_names_of_the_autoencoders_attention(
    whole: tuple[Tensors, dict[str, Path]], tmp_path: Path
) -> None:
    _, parts = whole
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, tensor in in_library("vae", parts, "").items():
        for new, old in older.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        state[key] = tensor
    result = converted("vae", state, parts["vae"] / CONFIG_NAME, tmp_path)
    assert (result / weight_name("vae")).read_bytes() == (
        parts["vae"] / weight_name("vae")
    ).read_bytes()


def without(state: Tensors, end: str) -> Tensors:
    return {key: tensor for key, tensor in state.items() if not key.endswith(end)}


@pytest.mark.parametrize(("kind", "change", "message"), [
    ("unet", lambda t: without(t, "out.2.weight"), "no complete unet, without .*out.2.weight"),
    ("unet", lambda t: {"model.diffusion_model.time_embed_cond.weight": torch.ones(4)} | t,
     "which has no .*time_embed_cond"),
    ("unet", lambda t: {**t, "model.diffusion_model.input_blocks.0.0.weight":
                        torch.ones(32, 9, 3, 3)}, r"has the shape \[32, 9, 3, 3\]"),
    ("vae", lambda t: trained("unet", t, "model.diffusion_model."), "no vae but"),
    ("unet", lambda t: {"lora_unet_x.lora_down.weight": torch.ones(2, 2)}, "no unet but a LoRA"),
    ("vae", lambda t: {**t, "first_stage_model.quant_conv.bias":
                       torch.full_like(t["first_stage_model.quant_conv.bias"], torch.nan)},
     "quant_conv.bias: NaN or infinity"),
])  # fmt: skip
def test_other_files_are_refused_by_what_they_are(
    kind: str,
    change: Any,
    message: str,
    whole: tuple[Tensors, dict[str, Path]],
    tmp_path: Path,
) -> None:
    tensors, parts = whole
    with pytest.raises(WeightsError, match=message):
        converted(kind, change(tensors), parts[kind] / CONFIG_NAME, tmp_path)


def test_narrow_networks_need_a_configuration(
    whole: tuple[Tensors, dict[str, Path]], tmp_path: Path
) -> None:
    tensors, _ = whole
    with pytest.raises(WeightsError, match=r"belongs to another model|no complete"):
        converted("unet", tensors, None, tmp_path)


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale", None])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_widened_with_its_scale(
    dtype: torch.dtype,
    scale_name: str | None,
    whole: tuple[Tensors, dict[str, Path]],
    tmp_path: Path,
) -> None:
    _, parts = whole
    state: Tensors = {"scaled_fp8": torch.zeros(0, dtype=dtype)}
    expected = {}
    factor = 0.03125 if scale_name else 1.0
    for key, tensor in in_library("unet", parts, "").items():
        expected[key] = tensor
        if tensor.dim() >= 2:
            small = (tensor / factor).clamp(-400, 400).to(dtype)
            state[key] = small
            expected[key] = (small.float() * factor).half()
            if scale_name:
                layer = key.removesuffix(".weight")
                state[f"{layer}.{scale_name}"] = torch.tensor(factor)
        else:
            state[key] = tensor
    result = converted("unet", state, parts["unet"] / CONFIG_NAME, tmp_path)
    for key, tensor in load_file(result / weight_name("unet")).items():
        assert torch.equal(tensor, expected[key]), key


def test_configuration_of_the_result_is_the_variants_own(
    whole: tuple[Tensors, dict[str, Path]], tmp_path: Path
) -> None:
    tensors, parts = whole
    own = json.loads((parts["vae"] / CONFIG_NAME).read_text(encoding="utf-8"))
    own["scaling_factor"] = 0.5
    (tmp_path / "base.json").write_text(json.dumps(own), encoding="utf-8")
    result = converted("vae", tensors, tmp_path / "base.json", tmp_path)
    assert json.loads((result / CONFIG_NAME).read_text())["scaling_factor"] == 0.5
