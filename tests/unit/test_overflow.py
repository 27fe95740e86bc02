"""Pixels that are no numbers never become a picture."""

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

import runners.engine
import runners.finisher
from benchmarks.workbench import (
    DEVICE,
    WEIGHTS,
    Listener,
    ResidentLoader,
    component_folders,
    demo_catalog,
    demo_networks,
    make_engine,
)
from models.convert import weight_name
from runners.conditioning import Conditioner
from runners.decode import NotFiniteError, Pixels, decode_latents, preview
from runners.denoise import predict_noise
from runners.device import Device
from runners.engine import Engine
from runners.messages import Done, Failed, Step
from runners.networks import ControlNet, Variant, load_component, split_hint
from runners.sample import Sample
from tests.unit.jobs import failure, finish, job, pictures

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


def variant_with(folder: Path, upcast: bool) -> Variant:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "force_upcast": upcast}))
    return replace(demo_networks("base")[0], vae=load_component("vae", folder, HALF))


def test_an_autoencoder_that_overflows_in_half_precision_is_loaded_in_single(folder: Path) -> None:
    half = AutoencoderKL.from_pretrained(folder, use_safetensors=True, dtype=torch.float16)
    with torch.inference_mode():
        assert not half.decode(LATENTS.half()).sample.isfinite().all()
    assert (folder / weight_name("vae")).is_file()
    variant = variant_with(folder, upcast=True)
    assert variant.vae.dtype == torch.float32
    pixels = decode_latents(LATENTS, variant)
    assert pixels.std() > 1


def test_an_overflow_raises_and_is_not_a_black_picture(folder: Path) -> None:
    variant = variant_with(folder, upcast=False)
    assert variant.vae.dtype == torch.float16
    with pytest.raises(NotFiniteError, match="no numbers"):
        decode_latents(LATENTS, variant)


@pytest.mark.parametrize(
    ("decoder", "value"), [("full", torch.nan), ("full", -torch.inf), ("tiny", torch.nan)]
)
def test_one_value_that_is_no_number_suffices(decoder: str, value: float) -> None:
    latents = LATENTS.clone()
    latents[0, 2, 3, 5] = value
    variant = demo_networks("base")[0]
    with pytest.raises(NotFiniteError):
        decode_latents(latents, variant, decoder)


def test_a_preview_that_overflows_is_left_out() -> None:
    variant, controlnet = demo_networks("base")
    made = job("preview", steps=2)
    conditioning = Conditioner(DEVICE).condition(made, variant, controlnet)
    sample = Sample(made, 0, variant, controlnet, conditioning, DEVICE)
    assert preview(sample, torch.full_like(sample.latents, torch.nan)) is None


def half_networks(folder: Path) -> tuple[Variant, ControlNet]:
    """The demo's in float16, with the autoencoder that overflows in it."""
    catalog = demo_catalog()
    paths = {**component_folders(catalog, "base"), "vae": folder}
    (folder / "config.json").write_text(
        json.dumps({**json.loads((folder / "config.json").read_text()), "force_upcast": False})
    )
    parts = {kind: load_component(kind, path, HALF) for kind, path in paths.items()}
    variant = Variant.of("base", catalog.models["base"], parts, text_key="half")
    return variant, split_hint("depth", load_component("controlnet", WEIGHTS / "controlnet", HALF))


def test_a_picture_beyond_float16_is_painted_again_in_bfloat16(folder: Path) -> None:
    networks = half_networks(folder)
    loader: Any = ResidentLoader({"base": networks})
    engine = Engine(loader, HALF)
    listener = Listener()
    engine.submit(job("wide", steps=2, guidance_scale=2.0, output_format="png"), listener)
    finish(engine)
    (picture,) = pictures(listener)
    assert picture.std() > 1
    steps = [event.index for event in listener.events if isinstance(event, Step)]
    assert steps == [1, 2, 1, 2]
    # As if nothing had been in half precision but the weights.
    variant, controlnet = networks
    made = job("wide", steps=2, guidance_scale=2.0)
    conditioning = Conditioner(HALF).condition(made, variant, controlnet)
    sample = Sample(made, 0, variant, controlnet, conditioning, HALF, wide=True)
    for _ in range(2):
        (prediction,) = predict_noise([sample], HALF)
        assert prediction.isfinite().all()
        sample.advance(prediction)
    variant.vae.float()
    expected = decode_latents(sample.latents, variant).astype(int)
    assert np.abs(picture - expected).mean() < 6


def test_what_is_no_number_in_bfloat16_either_is_an_error(folder: Path) -> None:
    variant, controlnet = half_networks(folder)
    with torch.no_grad():
        variant.vae.decoder.conv_out.bias.fill_(torch.nan)
    loader: Any = ResidentLoader({"base": (variant, controlnet)})
    engine = Engine(loader, HALF)
    listener = Listener()
    engine.submit(job("hopeless", steps=1), listener)
    finish(engine)
    assert failure(listener) == "internal"
    assert sum(isinstance(event, Step) for event in listener.events) == 2


def test_the_request_fails_alone() -> None:
    def spoiled(latents: torch.Tensor, variant: Variant, decoder: str) -> Pixels:
        if spoil.pop() == "broken":
            latents = latents * torch.nan
        return decode_latents(latents, variant, decoder)

    spoil = ["whole", "broken"]
    engine = make_engine()
    listeners = [Listener(), Listener()]
    with mock.patch.object(runners.finisher, "decode_latents", spoiled):
        for number, listener in enumerate(listeners):
            engine.submit(job(str(number), steps=1), listener)
        finish(engine)
    endings = [listener.events[-1] for listener in listeners]
    (failed,) = [event for event in endings if isinstance(event, Failed)]
    assert failed.error == "internal"
    (done,) = [event for event in endings if isinstance(event, Done)]
    assert len(done.images) == 1
