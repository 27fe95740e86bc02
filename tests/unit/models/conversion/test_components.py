"""Selection of the source files that a component needs."""

from __future__ import annotations

import pytest

from models.catalog import load_catalog
from models.conversion.components import ComponentSpec, component_specs, select_files
from models.sources.base import SourceError

UNET = ComponentSpec("unet", "hf://owner/repo", "unet")
BASE = [
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/model.onnx",
    "unet/openvino_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
]


def test_half_precision_files_are_preferred_if_stored() -> None:
    half = select_files(UNET, BASE, "float16")
    assert half == ["unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]
    full = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    assert select_files(UNET, BASE, "bfloat16") == full
    assert select_files(UNET, BASE, None) == full
    assert select_files(UNET, half, None) == half


def test_shards_come_with_their_index() -> None:
    names = [
        "config.json",
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
    ]
    assert select_files(ComponentSpec("controlnet", "gs://b/x"), names, "float16") == names


def test_tokenizers_have_text_files_only() -> None:
    tokenizer = ComponentSpec("tokenizer", "hf://owner/repo", "tokenizer")
    assert select_files(tokenizer, BASE, None) == ["tokenizer/merges.txt", "tokenizer/vocab.json"]


@pytest.mark.parametrize(
    ("part", "names", "said"),
    [
        (UNET, ["vae/config.json"], "no folder unet"),
        (UNET, ["unet/diffusion_pytorch_model.safetensors"], "no config.json for unet"),
        (UNET, ["unet/config.json"], "no safetensors weights"),
        (UNET, ["unet/config.json", "unet/x.ckpt"], "x.ckpt: only safetensors"),
        (ComponentSpec("lora", "file:x.pt"), ["x.pt"], "x.pt is not a safetensors file"),
        (
            ComponentSpec("lora", "hf://a/b"),
            ["a.safetensors", "b.safetensors"],
            "one safetensors file",
        ),
        (
            ComponentSpec("unet", "gs://b/x.ckpt", checkpoint=True),
            ["x.ckpt"],
            "not a safetensors file",
        ),
    ],
)
def test_missing_component_files_are_reported(
    part: ComponentSpec, names: list[str], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        select_files(part, names, "float16")


def test_estimator_files_include_weights_and_processor_config() -> None:
    names = [
        "README.md",
        "config.json",
        "model.fp16.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
        "pytorch_model.bin",
    ]
    part = ComponentSpec("depth_estimator", "hf://owner/repo")
    chosen = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert select_files(part, names, "float16") == chosen
    assert select_files(part, names[:-2], None) == chosen[:-1]
    with pytest.raises(SourceError, match=r"pytorch_model.bin: only safetensors weights"):
        select_files(part, ["config.json", "pytorch_model.bin"], None)
    detector = ComponentSpec("depth_detector", "file:midas.safetensors")
    assert select_files(detector, ["midas.safetensors"], "float16") == ["midas.safetensors"]
    with pytest.raises(SourceError, match="not a safetensors file"):
        select_files(detector, ["ZoeD_M12_N.pt"], None)


def test_production_variants_share_components() -> None:
    catalog = load_catalog("experimance")
    parts = {
        name: {part.kind: part for part in component_specs(catalog, "models", name)}
        for name in catalog.models
    }
    for shared in ("vae", "tiny_decoder"):
        assert len({of[shared].source for of in parts.values()}) == 1
    assert parts["lightning"]["tokenizer"] == parts["hyper"]["tokenizer"]
    own = {kind for kind, part in parts["lightning"].items() if part.checkpoint}
    assert own == {"text_encoder", "text_encoder_2", "unet"}
    assert not any(part.checkpoint for part in parts["base"].values())
