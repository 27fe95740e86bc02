"""Components in single files: every spelling gives the folder's bytes, others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.conversion.component import canonicalize_component, convert_file, weight_name
from models.conversion.safetensors_io import WeightsError
from models.importer import ImportingError, import_catalog
from models.sources.fetcher import FetchOptions
from models.store.store import get_entry
from testing.imports import store_at
from tests.support.files.single_files import (
    WEIGHTS,
    Tensors,
    catalog_of,
    demo_checkpoint,
    demo_tensors,
    ldm_tensors,
    open_clip_tensors,
    taesd_tensors,
    with_prefix,
    write,
)

_LDM_UNET = "model.diffusion_model."
_SECOND = "conditioner.embedders.1."


def projection_as(name: str, tensors: Tensors) -> Tensors:
    """The same text encoder with the other spelling of its projection."""
    (key,) = (key for key in tensors if "text_projection" in key)
    prefix = key.removesuffix(".weight").removesuffix("text_projection")
    rest = {k: v for k, v in tensors.items() if k != key}
    return {**rest, prefix + name: tensors[key].T}


def old_attention() -> Tensors:
    pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = demo_tensors("vae")
    for new, old in pairs.items():
        tensors = {k.replace(f".{new}.", f".{old}."): v for k, v in tensors.items()}
    return tensors


SPELLINGS: dict[str, tuple[str, Callable[[], Tensors]]] = {
    "unet of a checkpoint": ("unet", demo_checkpoint),
    "unet ldm": ("unet", lambda: ldm_tensors("unet")),
    "unet diffusion_model": ("unet", lambda: ldm_tensors("unet", "diffusion_model.")),
    "unet bare": ("unet", lambda: ldm_tensors("unet", "")),
    "unet diffusers": ("unet", lambda: demo_tensors("unet")),
    "unet diffusers, prefixed": ("unet", lambda: with_prefix("unet.", demo_tensors("unet"))),
    "vae of a checkpoint": ("vae", demo_checkpoint),
    "vae ldm": ("vae", lambda: ldm_tensors("vae")),
    "vae bare": ("vae", lambda: ldm_tensors("vae", "")),
    "vae diffusers": ("vae", lambda: demo_tensors("vae")),
    "vae of older diffusers": ("vae", old_attention),
    "first of a checkpoint": ("text_encoder", demo_checkpoint),
    "first bare": ("text_encoder", lambda: demo_tensors("text_encoder")),
    "first without text_model": (
        "text_encoder",
        lambda: {k.removeprefix("text_model."): v for k, v in demo_tensors("text_encoder").items()},
    ),
    "clip_l of ComfyUI": (
        "text_encoder",
        lambda: {
            **with_prefix("clip_l.transformer.", demo_tensors("text_encoder")),
            "clip_l.logit_scale": torch.tensor(4.6),
            "clip_l.transformer.text_projection.weight": torch.eye(64),
        },
    ),
    "first in OpenCLIP's names": ("text_encoder", lambda: open_clip_tensors("text_encoder")),
    "second of a checkpoint": ("text_encoder_2", demo_checkpoint),
    "second in OpenCLIP's names": ("text_encoder_2", lambda: open_clip_tensors("text_encoder_2")),
    "second bare": ("text_encoder_2", lambda: demo_tensors("text_encoder_2")),
    "second, projection as a parameter": (
        "text_encoder_2",
        lambda: projection_as("text_projection", demo_tensors("text_encoder_2")),
    ),
    "second in OpenCLIP's names, projection as a layer": (
        "text_encoder_2",
        lambda: projection_as(
            "text_projection.weight", ldm_tensors("text_encoder_2", f"{_SECOND}model.")
        ),
    ),
    "clip_g of ComfyUI": (
        "text_encoder_2",
        lambda: {
            ("clip_g." if "projection" in k else "clip_g.transformer.") + k: v
            for k, v in demo_tensors("text_encoder_2").items()
        },
    ),
    "tiny decoder of its author": ("tiny_decoder", taesd_tensors),
    "tiny decoder of ComfyUI": ("tiny_decoder", lambda: taesd_tensors("taesd_decoder.")),
    "tiny decoder diffusers": ("tiny_decoder", lambda: demo_tensors("tiny_decoder")),
}


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_every_spelling_gives_the_folders_bytes(tmp_path: Path, spelling: str) -> None:
    kind, make = SPELLINGS[spelling]
    canonicalize_component(kind, WEIGHTS / kind, tmp_path / "folder", None)
    file = write(tmp_path / "part.safetensors", make())
    convert_file(kind, file, tmp_path / "file", None, WEIGHTS / kind / "config.json")
    for name in ("config.json", weight_name(kind)):
        expected = (tmp_path / "folder" / name).read_bytes()
        assert (tmp_path / "file" / name).read_bytes() == expected, name


def test_a_tiny_decoder_needs_no_configuration(tmp_path: Path) -> None:
    canonicalize_component("tiny_decoder", WEIGHTS / "tiny_decoder", tmp_path / "folder", None)
    file = write(tmp_path / "taesdxl_decoder.safetensors", taesd_tensors())
    convert_file("tiny_decoder", file, tmp_path / "file", None)
    for path in (tmp_path / "folder").iterdir():
        assert (tmp_path / "file" / path.name).read_bytes() == path.read_bytes()


def sd15_unet() -> Tensors:
    tensors = {k: v for k, v in ldm_tensors("unet", "").items() if not k.startswith("label_emb")}
    return {
        k: torch.zeros(v.shape[0], 768) if "attn2.to_k" in k or "attn2.to_v" in k else v
        for k, v in tensors.items()
    }


def resized(kind: str, width: int) -> Tensors:
    """A text encoder with another width of its token embeddings, as OpenCLIP names it."""
    return {**demo_tensors(kind), "text_model.embeddings.token_embedding.weight":
            torch.zeros(8, width)}  # fmt: skip


OTHERS: dict[str, tuple[str, Callable[[], Tensors], str]] = {
    "SD 1.5 UNet": ("unet", sd15_unet, "a UNet of Stable Diffusion 1.5 .*give a UNet of SDXL"),
    "inpainting": (
        "unet",
        lambda: {**ldm_tensors("unet", ""), "input_blocks.0.0.weight": torch.zeros(48, 9, 3, 3)},
        "inpainting model .*9 channels",
    ),
    "autoencoder as UNet": ("unet", lambda: ldm_tensors("vae", ""), "give it as vae ="),
    "UNet as autoencoder": ("vae", lambda: demo_tensors("unet"), "give it as unet ="),
    "tiny decoder as autoencoder": ("vae", taesd_tensors, "give it as tiny_decoder ="),
    "LoRA as UNet": (
        "unet",
        lambda: {"lora_unet_x.lora_down.weight": torch.zeros(4, 4)},
        "not a UNet but a LoRA",
    ),
    "Flux autoencoder": (
        "vae",
        lambda: {**ldm_tensors("vae", ""), "decoder.conv_in.weight": torch.zeros(96, 16, 3, 3)},
        "autoencoder of Flux.*16 latent channels",
    ),
    "autoencoder of SD 1": (
        "vae",
        lambda: {**ldm_tensors("vae"), "cond_stage_model.transformer.x": torch.zeros(2)},
        "a Stable Diffusion 1 checkpoint",
    ),
    "second as first": (
        "text_encoder",
        lambda: resized("text_encoder", 1280),
        r"second text encoder .*give it as text_encoder_2 =",
    ),
    "first as second": (
        "text_encoder_2",
        lambda: resized("text_encoder_2", 768),
        r"first text encoder .*give it as text_encoder =",
    ),
    "encoder of a tiny autoencoder": (
        "tiny_decoder",
        lambda: {
            "0.weight": torch.zeros(8, 3, 3, 3),
            "1.conv.0.weight": torch.zeros(8, 8, 3, 3),
            "3.conv.0.weight": torch.zeros(8, 8, 3, 3),
            "4.weight": torch.zeros(4, 8, 3, 3),
        },
        "encoder of a tiny autoencoder; give its decoder",
    ),
    "incomplete": (
        "unet",
        lambda: {k: v for k, v in ldm_tensors("unet").items() if not k.endswith("out.2.bias")},
        "incomplete, without model.diffusion_model.out.2.bias",
    ),
    "unknown tensor": (
        "unet",
        lambda: {**ldm_tensors("unet", ""), "guidance_in.weight": torch.zeros(2)},
        "has no guidance_in.weight",
    ),
    "integers": (
        "vae",
        lambda: {k: v.to(torch.int8) for k, v in ldm_tensors("vae", "").items()},
        "quantized weights, of which only 8-bit floats are read",
    ),
    "nothing known": ("unet", lambda: {"x": torch.zeros(2)}, "no tensor has one of its names"),
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_other_files_are_refused_with_what_they_are(tmp_path: Path, what: str) -> None:
    kind, make, message = OTHERS[what]
    file = write(tmp_path / "part.safetensors", make())
    with pytest.raises(WeightsError, match=message) as caught:
        convert_file(kind, file, tmp_path / "file", None, WEIGHTS / kind / "config.json")
    assert str(caught.value).startswith("part.safetensors: ")
    assert str(tmp_path) not in str(caught.value)


def test_sizes_without_a_configuration_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "unet.safetensors", ldm_tensors("unet"))
    with pytest.raises(WeightsError, match=r"where SDXL has .*config\.json"):
        convert_file("unet", file, tmp_path / "file", None)


def test_metadata_of_another_model_refuses_an_autoencoder(tmp_path: Path) -> None:
    metadata = {"modelspec.architecture": "stable-diffusion-v1/vae"}
    file = write(tmp_path / "vae.safetensors", ldm_tensors("vae"), **metadata)
    with pytest.raises(WeightsError, match="an autoencoder of stable-diffusion-v1/vae"):
        convert_file("vae", file, tmp_path / "file", None, WEIGHTS / "vae" / "config.json")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", None])
def test_values_that_are_not_finite_are_found(tmp_path: Path, value: float, dtype: Any) -> None:
    tensors = ldm_tensors("vae")
    tensors["first_stage_model.decoder.conv_out.bias"][1] = value
    file = write(tmp_path / "vae.safetensors", tensors)
    with pytest.raises(WeightsError, match=r"decoder\.conv_out\.bias: NaN or infinity"):
        convert_file("vae", file, tmp_path / "file", dtype, WEIGHTS / "vae" / "config.json")


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Callable[..., dict[str, str]]]:
    """A function that imports a catalog with parts of its own and returns the components' tags."""

    def run(**parts: Any) -> dict[str, str]:
        catalog = catalog_of(tmp_path / "catalog", **parts)
        import_catalog(catalog, FetchOptions(tmp_path / "downloads"))
        entry = get_entry(catalog, "models", "base")
        assert entry is not None
        return {kind: component.tag for kind, component in entry.components.items()}

    with store_at(tmp_path / "store"):
        yield run


def test_a_catalog_takes_single_files_and_folders_alike(
    tmp_path: Path, imported: Callable[..., dict[str, str]]
) -> None:
    folders = imported(tiny_decoder=WEIGHTS / "tiny_decoder")
    parts = tmp_path / "parts"
    files = {
        "unet": write(parts / "unet.SAFETENSORS", ldm_tensors("unet")),
        "vae": write(parts / "vae.sft", ldm_tensors("vae")),
        "text_encoder": write(parts / "clip_l.safetensors", demo_tensors("text_encoder")),
        "text_encoder_2": write(parts / "g.Sft", open_clip_tensors("text_encoder_2")),
        "tiny_decoder": write(parts / "taesdxl_decoder.safetensors", taesd_tensors()),
    }
    assert imported(**files) == folders
    one = write(parts / "all.safetensors", demo_checkpoint())
    assert imported(**dict.fromkeys(("unet", "vae", "text_encoder", "text_encoder_2"), one),
                    tiny_decoder=parts) == folders  # fmt: skip


def test_networks_that_do_not_fit_together_are_refused(
    tmp_path: Path, imported: Callable[..., dict[str, str]]
) -> None:
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    config = json.loads((WEIGHTS / "text_encoder_2" / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps(config))
    write(narrow / "model.safetensors", demo_tensors("text_encoder_2"))
    with pytest.raises(ImportingError, match=r"models\.base: the UNet takes text of width 160"):
        imported(text_encoder=narrow)
