"""NaN or infinity in the decoded image fails the request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

import runners.engine.engine
import runners.engine.output_stage
from common.protocol import JobDone, JobFailed
from models.conversion.component import weight_name
from runners.device import Device
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.preview import start_preview
from runners.diffusion.sample import Sample
from runners.diffusion.vae import PixelTransfer, decode_latents, start_decode
from runners.engine.engine import Engine
from runners.errors import NonFiniteError
from runners.networks.loading import extract_hint_embedding, load_component
from runners.networks.sdxl import SdxlModel
from testing.workbench import (
    DEVICE,
    WEIGHTS,
    Listener,
    ResidentLoader,
    component_folders,
    demo_catalog,
    demo_networks,
    make_engine,
)
from tests.support.runner.jobs import failure, finish, job, pictures

LATENTS = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(4))
HALF = Device(torch.device("cpu"), torch.float16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An autoencoder like SDXL's in small: beyond 65504 inside, about 1 at the end."""
    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, force_upcast=True,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    with torch.no_grad():
        network.decoder.conv_in.weight.mul_(60_000 / network.decoder.conv_in.weight.abs().max())
    network.half().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def variant_with(folder: Path, upcast: bool) -> SdxlModel:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "force_upcast": upcast}))
    return replace(demo_networks("base")[0], vae=load_component("vae", folder, HALF))


def test_vae_that_overflows_in_float16_is_loaded_in_float32(folder: Path) -> None:
    half = AutoencoderKL.from_pretrained(folder, use_safetensors=True, dtype=torch.float16)
    with torch.inference_mode():
        assert not half.decode(LATENTS.half()).sample.isfinite().all()
    assert (folder / weight_name("vae")).is_file()
    variant = variant_with(folder, upcast=True)
    assert variant.vae.dtype == torch.float32
    pixels = decode_latents(LATENTS, variant)
    assert pixels.std() > 1


def test_overflow_raises_instead_of_giving_a_black_image(folder: Path) -> None:
    variant = variant_with(folder, upcast=False)
    assert variant.vae.dtype == torch.float16
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        decode_latents(LATENTS, variant)


@pytest.mark.parametrize(
    ("decoder", "value"), [("full", torch.nan), ("full", -torch.inf), ("tiny", torch.nan)]
)
def test_one_nonfinite_value_raises(decoder: str, value: float) -> None:
    latents = LATENTS.clone()
    latents[0, 2, 3, 5] = value
    variant = demo_networks("base")[0]
    with pytest.raises(NonFiniteError):
        decode_latents(latents, variant, decoder)


def test_a_preview_that_overflows_has_no_pixels() -> None:
    variant, controlnet = demo_networks("base")
    made = job("preview", steps=2)
    conditioning = ConditioningBuilder(DEVICE).build(made, variant, controlnet)
    sample = Sample(made, 0, variant, controlnet, conditioning)
    transfer = start_preview(sample, torch.full_like(sample.latents, torch.nan))
    assert transfer is not None
    with pytest.raises(NonFiniteError):
        transfer.wait()


@pytest.mark.parametrize("bias", [0.0, torch.nan])
def test_a_decoder_beyond_float16_is_tried_again_in_float32(folder: Path, bias: float) -> None:
    """Where that does not help either, the request fails."""
    catalog = demo_catalog()
    parts = {k: load_component(k, p, HALF) for k, p in component_folders(catalog, "base").items()}
    vae = variant_with(folder, upcast=False).vae
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(bias)
    variant = SdxlModel.from_components(
        "base", catalog.models["base"], {**parts, "vae": vae}, text_key="half"
    )
    controlnet = extract_hint_embedding(
        "depth", load_component("controlnet", WEIGHTS / "controlnet", HALF)
    )
    loader: Any = ResidentLoader({"base": (variant, controlnet)})
    engine = Engine(loader, HALF)
    finals: list[torch.Tensor] = []

    def spy(latents: torch.Tensor, *arguments: Any, **named: Any) -> PixelTransfer:
        finals.append(latents)
        return start_decode(latents, *arguments, **named)

    listener = Listener()
    with mock.patch.object(runners.engine.output_stage, "start_decode", spy):
        engine.submit(job("half", steps=2, output_format="png"), listener)
        finish(engine)
    assert len(finals) == 2
    assert vae.dtype == torch.float16
    if bias != 0.0:
        assert failure(listener) == "internal"
        return
    (picture,) = pictures(listener)
    assert picture.std() > 1
    expected = decode_latents(finals[0], replace(variant, vae=vae.float()))
    assert np.array_equal(picture, expected)


def test_nonfinite_request_does_not_fail_others() -> None:
    def spoiled(latents: torch.Tensor, variant: SdxlModel, decoder: str) -> PixelTransfer:
        if spoil.pop() == "broken":
            latents = latents * torch.nan
        return start_decode(latents, variant, decoder)

    spoil = ["whole", "broken"]
    engine = make_engine()
    listeners = [Listener(), Listener()]
    with mock.patch.object(runners.engine.output_stage, "start_decode", spoiled):
        for number, listener in enumerate(listeners):
            engine.submit(job(str(number), steps=1), listener)
        finish(engine)
    endings = [listener.events[-1] for listener in listeners]
    (failed,) = [event for event in endings if isinstance(event, JobFailed)]
    assert failed.error == "internal"
    (done,) = [event for event in endings if isinstance(event, JobDone)]
    assert len(done.images) == 1
