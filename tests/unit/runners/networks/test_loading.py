"""Loading: the same networks as diffusers' and transformers' own, mapped, in the right dtype."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from models.conversion.component import canonicalize_component
from runners.device import Device
from runners.networks.loading import load_network
from testing.workbench import DEVICE, WEIGHTS

REFERENCE: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "tiny_decoder": AutoencoderTiny,
    "controlnet": ControlNetModel,
}
HALF = Device(torch.device("cpu"), torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("canonical", [False, True], ids=["published", "canonical"])
@pytest.mark.parametrize("kind", list(REFERENCE))
def test_networks_equal_those_of_the_libraries(
    tmp_path: Path, kind: str, canonical: bool, dtype: torch.dtype
) -> None:
    folder = WEIGHTS / kind
    expected = REFERENCE[kind].from_pretrained(folder, use_safetensors=True, dtype=dtype)
    if canonical:
        canonicalize_component(kind, folder, folder := tmp_path / kind, None)
    network = load_network(kind, folder, Device(torch.device("cpu"), dtype))
    if kind == "tiny_decoder":
        # Nothing encodes with it.
        expected.encoder = torch.nn.Identity()
    ours, theirs = network.state_dict(), expected.state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == dtype
        assert torch.equal(ours[name], tensor), name
    assert dict(network.named_buffers()).keys() == dict(expected.named_buffers()).keys()
    for name, buffer in expected.named_buffers():
        assert torch.equal(network.get_buffer(name), buffer)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    attention = "_attn_implementation"
    assert getattr(network.config, attention, None) == getattr(expected.config, attention, None)


def test_weights_in_the_devices_dtype_are_the_files_own_pages(tmp_path: Path) -> None:
    canonicalize_component("unet", WEIGHTS / "unet", tmp_path / "unet", "float16")
    network = load_network("unet", tmp_path / "unet", HALF)
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    mapped = [
        range(*(int(end, 16) for end in line.split()[0].split("-")))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(file))
    ]
    assert all(any(p.data_ptr() in pages for pages in mapped) for p in network.parameters())


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: str) -> None:
    shutil.copytree(WEIGHTS / "unet", tmp_path / "unet")
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    weights = load_file(file)
    if change == "missing":
        del weights["conv_out.bias"]
    elif change == "surplus":
        weights["more.bias"] = torch.zeros(2)
    else:
        weights["conv_out.bias"] = torch.zeros(2)
    save_file(weights, file)
    with pytest.raises(RuntimeError, match=r"conv_out\.bias|more\.bias"):
        load_network("unet", tmp_path / "unet", DEVICE)


def test_vae_keeps_float16_unless_upcast_is_required(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    for upcast, dtype in ((True, torch.float32), (False, torch.float16)):
        (tmp_path / "vae" / "config.json").write_text(
            json.dumps({**config, "force_upcast": upcast})
        )
        assert load_network("vae", tmp_path / "vae", HALF).dtype == dtype
    brain = Device(torch.device("cpu"), torch.bfloat16)
    assert load_network("vae", tmp_path / "vae", brain).dtype == torch.bfloat16
