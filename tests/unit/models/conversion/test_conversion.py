"""Conversion: equal to diffusers' own bit for bit, canonical, and clear about what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from models.conversion.checkpoint import CHECKPOINT_PARTS, split_checkpoint
from models.conversion.component import Dtype, canonicalize_component, weight_name
from models.conversion.config import SDXL, canonicalize_config
from models.conversion.safetensors_io import WeightsError, read_header
from models.conversion.sdxl_key_map import PREFIXES
from models.conversion.tensor_copy import SAFETENSORS_NAME, cast
from testing.sdxl_set import write_configurations
from testing.server import ROOT
from tests.support.files.checkpoints import (
    CONFIGS,
    converted,
    original_tensors,
    write_checkpoint,
)

WEIGHTS = ROOT / "models" / "demo" / "weights"
CLASSES: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}
Tensors = dict[str, torch.Tensor]


def split(tmp_path: Path, tensors: Tensors, dtype: Dtype | None = None, **more: Any) -> Any:
    checkpoint = write_checkpoint(tmp_path / "model.safetensors", tensors)
    configs = write_configurations(tmp_path / "configs", small=True)
    return split_checkpoint(checkpoint, tmp_path / "parts", dtype, configs=configs, **more)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_every_part_equals_the_reference_conversion(
    tmp_path: Path, stored: torch.dtype, dtype: Dtype | None
) -> None:
    tensors = original_tensors(stored)
    written: list[int] = []
    folders = split(tmp_path, tensors, dtype, advance=written.append)
    assert set(folders) == set(CHECKPOINT_PARTS)
    target = getattr(torch, dtype) if dtype else stored
    total = 0
    for part, folder in folders.items():
        expected = converted(part, CONFIGS[part], tensors)
        expected.pop("text_model.embeddings.position_ids", None)
        ours = load_file(folder / weight_name(part))
        assert set(ours) == set(expected)
        for name, tensor in ours.items():
            assert tensor.dtype == target
            assert torch.equal(tensor, expected[name].to(target)), name
            total += tensor.nbytes
    assert sum(written) == total


def test_converted_parts_load_through_the_libraries(tmp_path: Path) -> None:
    folders = split(tmp_path, original_tensors(torch.float16))
    for part, cls in CLASSES.items():
        network, report = cls.from_pretrained(
            folders[part], use_safetensors=True, output_loading_info=True
        )
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys")), report
        assert sum(p.numel() for p in network.parameters()) == sum(
            p.numel() for p in load_file(folders[part] / weight_name(part)).values()
        )


def test_parts_not_wanted_may_be_missing(tmp_path: Path) -> None:
    tensors = {k: v for k, v in original_tensors().items() if k.startswith("model.")}
    assert list(split(tmp_path, tensors, parts=["unet"])) == ["unet"]
    with pytest.raises(WeightsError, match=r"but a UNet alone: name it as unet of"):
        split(tmp_path, tensors)


def test_tensor_order_does_not_change_converted_bytes(tmp_path: Path) -> None:
    tensors = original_tensors(torch.float16)
    backwards = dict(reversed(tensors.items()))
    made = [split(tmp_path / "a", tensors), split(tmp_path / "b", backwards)]
    for part in CHECKPOINT_PARTS:
        for name in ("config.json", weight_name(part)):
            assert (made[0][part] / name).read_bytes() == (made[1][part] / name).read_bytes()


def lora(_: Tensors) -> Tensors:
    return {"lora_unet_down_blocks_1.lora_down.weight": torch.zeros(4, 4)}


def sd15(tensors: Tensors) -> Tensors:
    kept = {k: v for k, v in tensors.items() if k.startswith("model.")}
    kept["cond_stage_model.transformer.text_model.final_layer_norm.bias"] = torch.zeros(4)
    del kept["model.diffusion_model.label_emb.0.0.weight"]
    return kept


def inpainting(tensors: Tensors) -> Tensors:
    return {**tensors, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}


def refiner(_: Tensors) -> Tensors:
    return {"conditioner.embedders.0.model.positional_embedding": torch.zeros(77, 32)}


def cut(tensors: Tensors) -> Tensors:
    return {k: v for k, v in tensors.items() if k != "model.diffusion_model.out.2.bias"}


def wider(tensors: Tensors) -> Tensors:
    return {**tensors, "model.diffusion_model.out.2.bias": torch.zeros(5)}


def grown(tensors: Tensors) -> Tensors:
    return {**tensors, "model.diffusion_model.extra.weight": torch.zeros(5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lora, "not an SDXL checkpoint but a LoRA"),
        (sd15, "but a Stable Diffusion 1 checkpoint"),
        (inpainting, "inpainting"),
        (refiner, "refiner"),
        (lambda _: {"down_blocks.0.resnets.0.norm1.bias": torch.zeros(4)}, "a UNet alone"),
        (lambda _: {"encoder.conv_in.weight": torch.zeros(4)}, "an autoencoder alone"),
        (lambda _: {"control_model.time_embed.0.bias": torch.zeros(4)}, "a ControlNet"),
        (lambda _: {"something": torch.zeros(4)}, "has no text_encoder "),
        (cut, r"incomplete, without model.diffusion_model.out.2.bias$"),
        (wider, r"out.2.bias has the shape \[5\] where SDXL has \[4\]"),
        (grown, "has no model.diffusion_model.extra.weight"),
    ],
)
def test_other_architectures_are_rejected_by_name(
    tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        split(tmp_path, change(original_tensors()))
    assert str(caught.value).startswith("model.safetensors: ")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "diffusion_pytorch_model.bin"])
def test_pickles_are_refused_unread(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=f"{name}: a pickle"):
        split_checkpoint(tmp_path / name, tmp_path / "parts", None)


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    tensors = original_tensors()
    tensors["model.diffusion_model.out.2.bias"][0] = 70_000.0
    with pytest.raises(WeightsError, match=r"conv_out.bias: a value is too large for F16"):
        split(tmp_path, tensors, "float16")
    assert split(tmp_path, tensors, "bfloat16")


@pytest.mark.parametrize("target", ["float16", "bfloat16"])
@pytest.mark.parametrize("source", ["float64", "float32", "float16", "bfloat16"])
def test_casting_rounds_as_torch_does(source: str, target: Dtype) -> None:
    bits = torch.randint(-(2**31), 2**31, (1 << 16,), generator=torch.Generator().manual_seed(0))
    values = bits.to(torch.int32).view(torch.float32)
    ties = torch.arange(1 << 16, dtype=torch.int32).mul(1 << 15).view(torch.float32)
    values = torch.cat([values, ties, torch.tensor([0.0, -0.0, 5.9e-8, 2.9e-8, torch.inf])])
    values = values.to(getattr(torch, source))
    values = values[values.isinf() | (values.float().abs() <= 65_504)]
    content = memoryview(values.view(torch.uint8).numpy()).cast("B")
    name = {"float64": "F64", "float32": "F32"}.get(source) or SAFETENSORS_NAME[source]  # type: ignore[index]
    halves = torch.frombuffer(
        bytearray(cast(content, name, SAFETENSORS_NAME[target])), dtype=getattr(torch, target)
    )
    assert torch.equal(
        halves.view(torch.int16), values.to(getattr(torch, target)).view(torch.int16)
    )


def test_nan_survives_casting() -> None:
    for source, values in (("F32", torch.float32), ("BF16", torch.bfloat16)):
        nan = torch.full((4,), torch.nan, dtype=values)
        for target, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16)):
            content = memoryview(nan.view(torch.uint8).numpy())
            assert (
                torch.frombuffer(bytearray(cast(content, source, target)), dtype=dtype)
                .isnan()
                .all()
            )


def exports(tmp_path: Path, part: str, tensors: Tensors) -> dict[str, Path]:
    """The same component as several publishers would export it."""
    folders = split(tmp_path / "split", tensors)
    network = CLASSES[part].from_pretrained(folders[part], dtype=torch.float16)
    made = {"split": folders[part], "saved": tmp_path / "saved", "sharded": tmp_path / "sharded"}
    network.save_pretrained(made["saved"])
    network.save_pretrained(made["sharded"], max_shard_size="100KB")
    made["named"] = tmp_path / "named"
    shutil.copytree(made["split"], made["named"])
    plain = made["named"] / weight_name(part)
    plain.rename(plain.with_suffix(".fp16.safetensors"))
    config = json.loads((made["named"] / "config.json").read_text())
    config |= {"_name_or_path": "somewhere", "_diffusers_version": "0.19.0", "torch_dtype": "x"}
    (made["named"] / "config.json").write_text(json.dumps(config))
    made["old"] = tmp_path / "old"
    shutil.copytree(made["split"], made["old"])
    weights = load_file(made["old"] / weight_name(part))
    if part == "text_encoder":
        weights = {k.removeprefix("text_model."): v for k, v in weights.items()}
        weights["embeddings.position_ids"] = torch.arange(77)[None]
    if part == "vae":
        pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, old in pairs.items():
            weights = {k.replace(f".{new}.", f".{old}."): v for k, v in weights.items()}
    save_file({k: v.float() if v.is_floating_point() else v for k, v in weights.items()},
              made["old"] / weight_name(part))  # fmt: skip
    return made


@pytest.mark.parametrize("part", CHECKPOINT_PARTS)
def test_equal_components_of_any_origin_get_equal_bytes(tmp_path: Path, part: str) -> None:
    origins = exports(tmp_path, part, original_tensors(torch.float16))
    results = {}
    for origin, folder in origins.items():
        target = tmp_path / "canonical" / origin
        canonicalize_component(part, folder, target, "float16")
        assert sorted(p.name for p in target.iterdir()) == ["config.json", weight_name(part)]
        results[origin] = [path.read_bytes() for path in sorted(target.iterdir())]
    for origin, content in results.items():
        assert content[0] == results["split"][0], origin
        assert content[1] == results["split"][1], origin
    assert results["split"] == [p.read_bytes() for p in sorted(origins["split"].iterdir())]


@pytest.mark.parametrize("kind", ["unet", "vae", "controlnet", "tiny_decoder", "text_encoder"])
def test_the_demo_set_keeps_its_values(tmp_path: Path, kind: str) -> None:
    canonicalize_component(kind, WEIGHTS / kind, tmp_path / kind, None)
    ours = load_file(tmp_path / kind / weight_name(kind))
    prefix = "text_model." if kind == "text_encoder" else ""
    for name, tensor in load_file(WEIGHTS / kind / weight_name(kind)).items():
        assert torch.equal(ours[prefix + name], tensor)
    header = read_header(tmp_path / kind / weight_name(kind))
    assert all(span.start % 64 == 0 for span in header.values() if span.size % 64 == 0)


def test_tokenizers_are_copied_as_they_are(tmp_path: Path) -> None:
    canonicalize_component("tokenizer", WEIGHTS / "tokenizer", tmp_path / "made", "float16")
    for path in (WEIGHTS / "tokenizer").iterdir():
        assert (tmp_path / "made" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="tokenizer: neither"):
        canonicalize_component("tokenizer", tmp_path / "empty", tmp_path / "made", None)


def folder_with(tmp_path: Path, config: dict[str, Any], *files: str) -> Path:
    folder = tmp_path / "component"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        save_file({"a": torch.zeros(2)}, folder / name)
    return folder


@pytest.mark.parametrize(
    ("kind", "config", "files", "message"),
    [
        ("unet", {"_class_name": "AutoencoderKL"}, [], "is for AutoencoderKL"),
        ("unet", {"in_channels": 9}, [], "9 channels"),
        ("unet", {"in_channels": 4}, [], "not SDXL's"),
        ("vae", {}, [], "no safetensors file"),
        ("vae", {}, ["pytorch_model.bin"], "pytorch_model.bin: a pickle"),
        ("vae", {}, ["a.safetensors", "b.safetensors"], "several"),
        ("text_encoder", {"model_type": "t5"}, [], "is for t5"),
        ("depth_estimator", {"model_type": "vit"}, [], "is for vit; accepted: depth_anything"),
        ("depth_estimator", {}, [], "is for None; accepted"),
        ("depth_estimator", {"model_type": "dpt", "auto_map": {}}, [], "custom code"),
        ("depth_estimator", {"model_type": "dpt"}, [], "no safetensors file"),
    ],
)
def test_invalid_components_are_rejected(
    tmp_path: Path, kind: str, config: dict[str, Any], files: list[str], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        canonicalize_component(kind, folder_with(tmp_path, config, *files), tmp_path / "t", None)


def test_shards_outside_their_folder_are_rejected(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {})
    index = folder / f"{weight_name('vae')}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(WeightsError, match="outside its folder"):
        canonicalize_component("vae", folder, tmp_path / "t", None)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(WeightsError, match=r"gone.safetensors missing"):
        canonicalize_component("vae", folder, tmp_path / "t", None)


def test_estimator_config_keeps_only_network_settings(tmp_path: Path) -> None:
    config = {
        "model_type": "dpt",
        "architectures": ["DPTForDepthEstimation"],
        "torch_dtype": "float32",
        "use_pretrained_backbone": True,
        "attn_implementation": "somebody/kernels",
        "quantization_config": {"quant_method": "x"},
        "backbone_config": {
            "model_type": "dinov2",
            "hidden_size": 32,
            "attn_implementation": "a/b",
            "new": {"x": 1},
        },
    }
    folder = folder_with(tmp_path, config, "model.safetensors")
    (folder / "preprocessor_config.json").write_text('{"size": 64,  "do_pad": true}')
    canonicalize_component("depth_estimator", folder, tmp_path / "t", None)
    files = {path.name for path in (tmp_path / "t").iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json"}
    made = json.loads((tmp_path / "t" / "config.json").read_text())
    assert made == {
        "model_type": "dpt",
        "backbone_config": {"model_type": "dinov2", "hidden_size": 32},
    }
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"preprocessor_config.json is not an object"):
        canonicalize_component("depth_estimator", folder, tmp_path / "u", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "somebody/network"}, "names an external backbone"),
        ({"backbone_config": {"model_type": "timm_backbone"}}, "backbone_config is for"),
        ({"backbone_config": {}}, "backbone_config is for None"),
        ({"backbone_config": {"model_type": "swin", "depths": {"a": 1}}}, "depths is no number"),
        ({"neck_hidden_sizes": [1] * 1000}, "more than 256 values"),
        ({"readout_type": "x" * 1000}, "readout_type is no number"),
        ({"auto_map": {"AutoConfig": "x.Y"}}, "auto_map"),
    ],
)
def test_unsafe_estimator_configurations_are_rejected(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = folder_with(tmp_path, {"model_type": "dpt", **changes}, "model.safetensors")
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(WeightsError, match=message):
        canonicalize_component("depth_estimator", folder, tmp_path / "t", None)


def test_unknown_network_settings_are_dropped() -> None:
    config = {"attn_implementation": "a/b", "use_kernels": True, "new": {"code": "x"}}
    made = canonicalize_config("vae", {**config, "latent_channels": 4})
    assert not made.keys() & config.keys()
    assert made["latent_channels"] == 4
    with pytest.raises(WeightsError, match="act_fn is no number"):
        canonicalize_config("vae", {"act_fn": {"import": "os"}})


def test_embedded_configurations_are_where_conversion_looks() -> None:
    assert {path.stem for path in SDXL.glob("*.json")} == {*PREFIXES, "defaults"}
