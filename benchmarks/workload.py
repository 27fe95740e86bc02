"""Error of the serverless worker's cost model, deploy/vast/request_cost.py.

    python -m benchmarks.workload [--write]

Compares the model with the engine's own count of operations. `--write` counts the coefficients of
costs.toml anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.report import finish
from common.prompt_syntax import parse_prompt
from common.protocol import GenerateJob, LoraWeight
from deploy.vast.request_cost import COSTS, Workload
from models.catalog import load_catalog
from models.sources.base import parse_source
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.dummy_inputs import dummy_samples
from runners.diffusion.prompt_encoding import count_chunks, embed_prompt
from runners.networks.sdxl import ControlNet, SdxlModel
from testing.flop_count import ControlNetSize, counted, demo, operations, sdxl
from testing.workbench import make_job

BAR = 0.10
_TERA = 1e12
# Three sides, in pixels, determine the three coefficients.
_SIDES = (256, 512, 1024)
Networks = tuple[SdxlModel, ControlNet, Device]

_HEADER = """\
# Operations of the networks in TFLOP: counted, not edited. python -m benchmarks.workload --write
# Three numbers are a polynomial in megapixels of the image: constant, linear, quadratic.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A body of /generate, and the catalog whose networks it is counted on."""

    catalog: str
    body: dict[str, Any]
    controlnet: ControlNetSize = "small"

    @property
    def networks(self) -> Networks:
        """Variant, ControlNet and device of the request."""
        model = self.body.get("model", "lightning")
        if self.catalog != "demo":
            return sdxl(model, self.controlnet)
        variant, controlnet, device = demo(model)
        catalog = load_catalog("demo")
        for lora in self.body.get("loras", ()):
            source = catalog.loras[lora["name"]].source
            variant.loras.add(lora["name"], Path(parse_source(source, catalog.folder).path))
        return variant, controlnet, device

    @property
    def job(self) -> GenerateJob:
        """The engine's job for the request."""
        spec = load_catalog(self.catalog).models[self.body.get("model", "lightning")]
        height, width = (self.body.get(side, spec.native_size) for side in ("height", "width"))
        fields = {"steps": spec.steps, "cfg": spec.cfg, **self.body}
        fields["guidance_scale"] = fields.pop("cfg")
        fields["loras"] = tuple(LoraWeight(**lora) for lora in fields.pop("loras", ()))
        if fields.pop("image_b64", None):
            fields["image"] = bytes(3 * height * width)
            if not fields.pop("mock_depth", False):
                fields["controlnet_strength"] = 0.0
        for name in ("width", "height", "controlnet"):
            fields.pop(name, None)
        return make_job(np.zeros((height, width), np.uint8), **fields)

    def error(self) -> tuple[float, float]:
        """Return the engine's TFLOP, and the relative error of the worker's cost model."""
        body = self.body
        if self.controlnet == "full":
            body = {**body, "controlnet": "depth"}
        engine = operations(self.job, *self.networks) / _TERA
        return engine, Workload.of_catalog(self.catalog).tflop(body) / engine - 1


_PROMPT = "aerial photography, untouched wilderness, late afternoon sunlight"
_LONG = ", ".join(["a river between hills, vibrant and detailed"] * 20)
_LORAS = [{"name": "drone", "strength": 0.8}, {"name": "experimance", "strength": 0.4}]
CASES = (
    Case("experimance", {"prompt": _PROMPT, "cfg": 2.0, "control_guidance_end": 0.8}),
    Case("experimance", {"prompt": _PROMPT}),
    Case("experimance", {"prompt": _PROMPT, "model": "base", "negative_prompt": "blurry"}),
    Case("experimance", {"prompt": _PROMPT, "cfg": 1.0, "width": 1344, "height": 760}),
    Case("experimance", {"prompt": _PROMPT, "cfg": 1.0, "width": 2048, "height": 2048, "steps": 2}),
    Case("experimance", {"prompt": _PROMPT, "steps": 1, "cfg": 1.0, "width": 256, "height": 256}),
    Case("experimance", {"prompt": _LONG, "steps": 1, "width": 256, "height": 256}),
    Case("experimance", {"prompt": _PROMPT, "decoder": "tiny", "num_images": 4, "cfg": 1.0}),
    Case("experimance", {"prompt": _PROMPT, "control_guidance_start": 0.3, "steps": 4}, "full"),
    Case("experimance", {"prompt": _PROMPT, "controlnet_strength": 0.0, "steps": 2}),
    Case("experimance", {"prompt": _PROMPT, "cfg": 1.0, "steps": 2, "enable_deepcache": True}),
    Case("experimance", {"prompt": _PROMPT, "enable_deepcache": True, "width": 512}),
    Case("experimance", {"prompt": _PROMPT, "steps": 3, "strength": 0.7, "image_b64": "…"}),
    Case("demo", {"prompt": _PROMPT}),
    Case("demo", {"prompt": _PROMPT, "strength": 0.5, "image_b64": "…", "mock_depth": True}),
    Case("demo", {"prompt": _PROMPT, "steps": 5, "cfg": 2.0, "enable_deepcache": True}),
    Case("demo", {"prompt": _PROMPT, "model": "base", "steps": 3, "width": 512}),
    Case("demo", {"prompt": _PROMPT, "cfg": 3.0, "decoder": "tiny", "num_images": 2}),
    Case("demo", {"prompt": _PROMPT, "loras": _LORAS}),
    Case("demo", {"prompt": _PROMPT, "cfg": 2.0, "guidance_start": 0.2, "guidance_end": 0.7}),
    Case("demo", {"prompt": _LONG, "steps": 2, "control_guidance_end": 0.4}),
)


def main() -> None:
    """Print one line per case, and finish with the largest error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workload", description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="count the coefficients of costs.toml anew"
    )
    if parser.parse_args().write:
        COSTS.write_text(_HEADER + "".join(_tables()), encoding="utf-8")
    errors = {}
    for case in CASES:
        tflop, error = case.error()
        shown = {key: value for key, value in case.body.items() if key != "prompt"}
        shown["prompt"] = f"{len(case.body['prompt'])} characters"
        print(f"{error:+.2%} of {tflop:.4g} TFLOP  {case.catalog}, {case.controlnet}: {shown}")
        errors[f"{case.catalog} {shown}"] = error
    worst = max(errors, key=lambda name: abs(errors[name]))
    largest = abs(errors[worst])
    finish(round(largest, 4), BAR, largest <= BAR, unit="share of the engine's count", worst=worst)


def _tables() -> Iterator[str]:
    yield _table("sdxl", {size: sdxl("lightning", size) for size in ("small", "full")})
    yield _table("demo", dict.fromkeys(("small", "full"), demo("lightning")))


def _table(name: str, controlnets: dict[Any, Networks]) -> str:
    variant, controlnet, device = controlnets["small"]
    lines = [
        f"\n[{name}]",
        f"unet = {_fit(_step, variant, controlnet, device)}",
        f"shallow = {_fit(_shallow, variant, controlnet, device)}",
        f"context = {_fit(_context, variant, controlnet, device)}",
        f"hint = {_fit(_hint, controlnet, device)}",
        f"encoder = {_fit(_encode, variant.vae, device)}",
        f"text = {_text(controlnets['small']) / _TERA:.6g}",
        f"\n[{name}.controlnets]",
        *(f"{size} = {_fit(_control, *networks)}" for size, networks in controlnets.items()),
        f"\n[{name}.decoders]",
        f"full = {_fit(_decode, variant.vae, device)}",
        f"tiny = {_fit(_decode, variant.tiny_decoder, device)}",
    ]
    return "\n".join(lines) + "\n"


def _fit(count: Callable[..., int], *networks: Any) -> str:
    """Return the polynomial through the counts, with rounding errors of zero terms set to zero."""
    megapixels = np.array([side * side / 1e6 for side in _SIDES])
    counts = np.array([count(side, *networks) / _TERA for side in _SIDES])
    solved = np.linalg.solve(np.vander(megapixels, increasing=True), counts)
    terms = (0.0 if abs(term) < 1e-9 * max(counts) else term for term in solved)
    return "[" + ", ".join(f"{term:.6g}" for term in terms) + "]"


def _steps(
    side: int,
    variant: SdxlModel,
    controlnet: ControlNet,
    device: Device,
    strength: float = 0.0,
    prompt: str = "",
) -> tuple[int, int]:
    """Count the operations of one row: the first step, which reads the text, and a later step."""
    job = make_job(
        np.zeros((side, side), np.uint8),
        prompt=prompt,
        guidance_scale=1.0,
        steps=1,
        controlnet_strength=strength,
    )
    with torch.inference_mode():
        (sample,) = dummy_samples(job, variant, controlnet, device, 1)
    batches = BatchCache(device)
    first = counted(lambda: predict_noise([sample], device, batches))
    return first, counted(lambda: predict_noise([sample], device, batches))


def _step(side: int, variant: SdxlModel, controlnet: ControlNet, device: Device) -> int:
    return _steps(side, variant, controlnet, device)[1]


def _shallow(side: int, variant: SdxlModel, controlnet: ControlNet, device: Device) -> int:
    """Count a step that reuses deep features (arXiv:2312.00858): the second of three."""
    job = make_job(
        np.zeros((side, side), np.uint8), guidance_scale=1.0, steps=3, enable_deepcache=True,
        controlnet_strength=0.0,
    )  # fmt: skip
    with torch.inference_mode():
        (sample,) = dummy_samples(job, variant, controlnet, device, 1)
        (prediction,) = predict_noise([sample], device)
        sample.advance(prediction)
    return counted(lambda: predict_noise([sample], device))


def _context(side: int, variant: SdxlModel, controlnet: ControlNet, device: Device) -> int:
    """Count the operations that each further text chunk adds to a step of the UNet."""
    _, long = _steps(side, variant, controlnet, device, prompt=_LONG)
    chunks = count_chunks(variant, parse_prompt(_LONG))
    return (long - _step(side, variant, controlnet, device)) // (chunks - 1)


def _text(networks: Networks) -> int:
    """Count the one-time operations of a text chunk: encoders, and the UNet's keys and values."""
    variant, _, _ = networks
    first, further = _steps(_SIDES[0], *networks)
    encoders = counted(lambda: embed_prompt(variant, "", None, guided=False))
    return encoders + first - further


def _control(side: int, variant: SdxlModel, controlnet: ControlNet, device: Device) -> int:
    _, with_control = _steps(side, variant, controlnet, device, 1.0)
    return with_control - _step(side, variant, controlnet, device)


def _hint(side: int, controlnet: ControlNet, device: Device) -> int:
    picture = torch.zeros(1, 3, side, side, dtype=device.dtype, device=device.torch_device)
    return counted(lambda: controlnet.hint(picture))


def _encode(side: int, autoencoder: Any, device: Device) -> int:
    picture = torch.zeros(1, 3, side, side, dtype=autoencoder.dtype, device=device.torch_device)
    return counted(lambda: autoencoder.encode(picture))


def _decode(side: int, decoder: Any, device: Device) -> int:
    latents = torch.zeros(
        1, 4, side // 8, side // 8, dtype=decoder.dtype, device=device.torch_device
    )
    return counted(lambda: decoder.decode(latents))


if __name__ == "__main__":
    main()
