"""What an inspection says of files of every kind, and that their entries are valid catalogs."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.catalog import SHIPPED, load_catalog
from models.inspection.inspect_file import inspect_file
from models.inspection.report import FileReport
from models.inspection.target import PUBLISHED, Target

WEIGHTS = SHIPPED.parent / "demo" / "weights"
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
DEMO = Target(
    "model base",
    {part: WEIGHTS / part / "config.json" for part in PARTS},
    f"file:{WEIGHTS}",
    256,
)
Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te1_text_model_encoder_layers_0_mlp_fc1"


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float16)


def lora(key: str, down: tuple[int, ...], up: tuple[int, ...], alpha: float = 1.0) -> Any:
    return {
        f"{key}.lora_down.weight": zeros(*down),
        f"{key}.lora_up.weight": zeros(*up),
        f"{key}.alpha": np.array(alpha, np.float32),
    }


PLAIN = lora(Q, (4, 640), (640, 4), 2.0)


def inspect(
    tmp_path: Path, state: dict[str, Any], metadata: Any = None, name: str = "own.safetensors"
) -> FileReport:
    save_file(state, tmp_path / name, metadata)
    return inspect_file(tmp_path / name)


def catalog_with(entry: str, folder: Path) -> Any:
    """The demo's catalog with an entry, as the catalog's loader reads it."""
    text = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    path = folder / "mine.toml"
    path.write_text(f"{text}\n{entry}\n", encoding="utf-8")
    return load_catalog(str(path))


def test_a_lora(tmp_path: Path) -> None:
    state = PLAIN | lora(CONV, (2, 320, 3, 3), (320, 2, 1, 1)) | lora(TEXT, (4, 768), (3072, 4))
    state |= {"bundle_emb.word.string_to_param.*": zeros(1, 768)}
    metadata = {
        "modelspec.title": "Morning\x1b[31m mist",
        "modelspec.trigger_phrase": "mistveil",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_tag_frequency": json.dumps({"10_x": {"mistveil": 30, "hill": 4}}),
    }
    found = inspect(tmp_path, state, metadata, "Morning Mist v2.safetensors")
    assert found.is_usable
    assert (found.kind, found.fits) == ("a LoRA", ("SDXL",))
    assert found.parts == {"unet": 2, "text_encoder": 1}
    assert found.details == {"families": "LoRA, LoCon", "ranks": "2, 4", "alphas": "1, 2"}
    assert found.left_out == {"bundle_emb.word": "an embedding"}
    assert found.training["trigger phrase"] == "mistveil"
    assert found.training["frequent tags"] == "mistveil, hill"
    assert found.entry is not None
    spec = catalog_with(found.entry, tmp_path).loras["morning_mist_v2"]
    assert spec.source == f"file:{(tmp_path / 'Morning Mist v2.safetensors').resolve()}"
    assert spec.description == "Morning [31m mist; mistveil"
    text = found.as_text()
    assert text.startswith("Morning Mist v2.safetensors: a LoRA for SDXL, ")
    assert "\x1b" not in text
    assert found.entry in text


def test_dora_and_other_families_are_named(tmp_path: Path) -> None:
    state = PLAIN | {f"{Q}.dora_scale": zeros(1, 640)}
    norm = "lora_unet_down_blocks_0_resnets_0_norm1"
    state |= {f"{norm}.w_norm": zeros(320), f"{norm}.b_norm": zeros(320)}
    assert inspect(tmp_path, state).details["families"] == "DoRA with LoRA, full differences"


@pytest.mark.parametrize(("state", "kind", "problem"), [
    (lora(Q.replace("attn1_to_q", "attn2_to_k"), (4, 768), (640, 4)), "a LoRA",
     "a LoRA for Stable Diffusion 1.5; this service needs one that was trained for SDXL"),
    (lora("lora_unet_double_blocks_0_img_attn_qkv", (4, 3072), (9216, 4)), "a LoRA",
     "a LoRA for Flux;"),
    ({f"{Q}.a1.weight": zeros(2, 4), f"{Q}.b1.weight": zeros(2, 4)}, "a LoRA",
     "GLoRA is not applied"),
    ({f"{Q}.lora_down.weight": np.full((4, 640), np.nan, np.float16),
      f"{Q}.lora_up.weight": zeros(640, 4)}, "a LoRA", "has NaN or infinity"),
    ({"lora_controlnet": zeros(1)}, "a control-LoRA", "does not apply such files"),
    ({"lllite_unet_x.down.0.weight": zeros(1)}, "a ControlNet-LLLite", "does not apply"),
    ({"ip_adapter.1.to_k_ip.weight": zeros(1)}, "an IP-Adapter", "does not apply"),
    ({"clip_l": zeros(1, 768), "clip_g": zeros(1, 1280)}, "a textual inversion", "not apply"),
    ({"double_blocks.0.img_attn.qkv.weight": zeros(1)}, "a Flux checkpoint", "not apply"),
    ({"joint_blocks.0.x_block.attn.qkv.weight": zeros(1)},
     "a Stable Diffusion 3 checkpoint", "not apply"),
    ({"cond_stage_model.transformer.x": zeros(1)}, "a Stable Diffusion 1 checkpoint", "not apply"),
    ({"cond_stage_model.model.x": zeros(1)}, "a Stable Diffusion 2 checkpoint", "not apply"),
    ({"conditioner.embedders.0.model.x": zeros(1)}, "an SDXL refiner checkpoint", "not apply"),
    ({"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": zeros(320, 768)},
     "a UNet for Stable Diffusion 1.5", "not apply"),
    ({"model.diffusion_model.input_blocks.0.0.weight": zeros(320, 9, 3, 3)},
     "an inpainting model (its UNet takes 9 channels)", "not apply"),
    ({"decoder.conv_in.weight": zeros(512, 16, 3, 3)},
     "an autoencoder of another model, with 16 channels", "not apply"),
    ({"1.weight": zeros(64, 4, 3, 3), "3.conv.0.weight": zeros(64, 64, 3, 3)},
     "a tiny decoder", "hf://madebyollin/taesdxl"),
    ({"model.diffusion_model.input_blocks.0.0.weight": zeros(320, 4, 3, 3),
      "first_stage_model.quant_conv.bias": zeros(8)}, "a checkpoint", "incomplete"),
    ({"something": zeros(1)}, "a file of an unknown kind", "none of its tensors has a name"),
])  # fmt: skip
def test_files_that_cannot_be_used(
    state: dict[str, Any], kind: str, problem: str, tmp_path: Path
) -> None:
    found = inspect(tmp_path, state)
    assert found.kind == kind
    assert found.problem is not None
    assert problem in found.problem
    assert str(tmp_path) not in found.problem
    assert found.entry is None
    assert not found.as_json()["usable"]


@pytest.mark.parametrize("name", ["x.ckpt", "x.PT", "x.bin"])
def test_pickles_are_not_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02")
    found = inspect_file(tmp_path / name)
    assert (found.kind, found.is_usable) == ("a pickle", False)


def test_a_pickle_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    found = inspect_file(tmp_path / "x.safetensors")
    assert found.problem is not None
    assert "looks like a zip archive" in found.problem


def test_a_shard_asks_for_its_folder(tmp_path: Path) -> None:
    found = inspect(tmp_path, PLAIN, name="model-00001-of-00002.safetensors")
    assert found.problem is not None
    assert "name the folder" in found.problem


@pytest.mark.parametrize("part", PARTS)
def test_a_component_alone(part: str, tmp_path: Path) -> None:
    (file,) = (WEIGHTS / part).glob("*.safetensors")
    found = inspect_file(file, [PUBLISHED, DEMO])
    assert found.problem is None
    assert found.fits == ("model base",)
    assert list(found.parts) == [part]
    assert found.entry is not None
    spec = catalog_with(found.entry, tmp_path).models[part]
    assert getattr(spec, part) == f"file:{file}"
    assert (spec.source, spec.native_size) == (DEMO.source, 256)


def test_a_controlnet(tmp_path: Path) -> None:
    (file,) = (WEIGHTS / "controlnet").glob("*.safetensors")
    found = inspect_file(file, [DEMO])
    assert (found.kind, found.fits) == ("a ControlNet", ("model base",))
    assert found.details == {"type": "full", "blocks by level": "0, 1, 1"}
    assert found.entry is not None
    assert "controlnet" in catalog_with(found.entry, tmp_path).controlnets
    refused = inspect_file(file)
    assert refused.problem is not None
    assert re.search(r"where SDXL has .*; name a ControlNet for SDXL", refused.problem)


def velocity(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "v_pred": zeros(1), "ztsnr": zeros(1)}


@pytest.mark.parametrize(("change", "metadata", "prediction", "is_zero_snr"), [
    (dict, None, "epsilon", False),
    (velocity, None, "v_prediction", True),
    (dict, {"modelspec.prediction_type": "v"}, "v_prediction", False),
])  # fmt: skip
def test_what_a_unet_predicts_is_in_its_entry(
    change: Callable[[Any], Any],
    metadata: Any,
    prediction: str,
    is_zero_snr: bool,
    tmp_path: Path,
) -> None:
    (file,) = (WEIGHTS / "unet").glob("*.safetensors")
    save_file(change(load_file(file)), tmp_path / "own.safetensors", metadata)
    found = inspect_file(tmp_path / "own.safetensors", [DEMO])
    assert found.entry is not None
    scheduler = catalog_with(found.entry, tmp_path).models["own"].scheduler
    assert scheduler.prediction_type == prediction
    assert scheduler.options.get("rescale_betas_zero_snr", False) is is_zero_snr


def test_other_noise_levels_are_refused(tmp_path: Path) -> None:
    (file,) = (WEIGHTS / "unet").glob("*.safetensors")
    save_file(load_file(file) | {"edm_mean": zeros(4)}, tmp_path / "own.safetensors")
    found = inspect_file(tmp_path / "own.safetensors", [DEMO])
    assert found.problem is not None
    assert "EDM" in found.problem


def test_scaled_float8_is_named(tmp_path: Path) -> None:
    entries = {"x.weight": ("F8_E4M3", [4]), "x.scale_weight": ("F32", [1])}
    header, offset = {}, 0
    for name, (dtype, shape) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + 4]}
        offset += 4
    text = json.dumps(header).encode()
    path = tmp_path / "own.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))
    assert inspect_file(path).dtypes == {"scaled float8 (e4m3)": 1, "float32": 1}


@pytest.mark.parametrize("name", ['a"b\\c.safetensors', "Größe №1.safetensors", "---.sft"])
def test_entries_of_odd_file_names(name: str, tmp_path: Path) -> None:
    found = inspect(tmp_path, PLAIN, name=name)
    assert found.entry is not None
    (spec,) = tomllib.loads(found.entry)["loras"].values()
    assert spec["source"] == f"file:{(tmp_path / name).resolve()}"
    assert len(catalog_with(found.entry, tmp_path).loras) == 3


def test_a_path_that_no_catalog_can_name(tmp_path: Path) -> None:
    found = inspect(tmp_path, PLAIN, name="a\nb.safetensors")
    assert found.file == "a b.safetensors"
    assert found.problem is not None
    assert "rename it" in found.problem
