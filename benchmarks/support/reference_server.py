"""Simple reference server, for comparison with the service.

    python -m benchmarks.support.reference_server --port PORT

FastAPI around diffusers' own pipeline, on the demo set's files. It processes one request at a time
and holds one variant in memory: changing it drops the old one and reads the new one from disk. The
ControlNet stays. A LoRA is read once per pipeline and switched by name. Disconnects are not
detected.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import uvicorn
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from fastapi import FastAPI, HTTPException
from PIL import Image
from pydantic import BaseModel

from api.images.decoding import mock_depth
from common.protocol import LoraWeight
from models.sources.base import parse_source
from runners.device import Device
from runners.diffusion.schedulers import build_scheduler
from testing.fused_loras import fuse_loras
from testing.workbench import CONTROLNET, component_folders, demo_catalog


class Request(BaseModel):
    """The supported fields of the service's `/generate`; others are ignored."""

    prompt: str
    negative_prompt: str | None = None
    depth_map_b64: str | None = None
    mock_depth: bool = False
    model: str | None = None
    era: str | None = None
    steps: int | None = None
    cfg: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    controlnet_strength: float = 0.8
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    output_format: Literal["jpeg", "png", "webp"] = "jpeg"
    quality: int = 90


class Answer(BaseModel):
    """An image as base64; `generation_time` in seconds."""

    success: Literal[True] = True
    image_b64: str
    error_message: None = None
    generation_time: float
    seed_used: int
    model_used: str


class Painter:
    """A diffusers pipeline with one variant at a time, for use from one thread."""

    def __init__(self) -> None:
        self._catalog = demo_catalog()
        self._device = Device.best()
        source = parse_source(self._catalog.controlnets[CONTROLNET].source, self._catalog.folder)
        self._controlnet = ControlNetModel.from_pretrained(source.path, dtype=self._device.dtype)
        self._model = ""
        self._pipeline: Any = None
        self._adapters: set[str] = set()
        self._fused: dict[str, float] = {}
        self._load(self._catalog.default_model)

    def paint(self, request: Request) -> Answer:
        """Generate one image.

        Raises:
            KeyError: the catalog lacks the model or the era.
        """
        started = time.perf_counter()
        model = request.model or self._catalog.default_model
        spec = self._catalog.models[model]
        loras = {} if request.era is None else self._catalog.eras[request.era].loras
        if model != self._model:
            self._load(model)
        self._set_loras(loras)
        seed = secrets.randbelow(2**63) if request.seed is None else request.seed
        size = (request.width or spec.native_size, request.height or spec.native_size)
        with torch.inference_mode():
            picture = self._pipeline(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt,
                image=depth_picture(request, size),
                width=size[0],
                height=size[1],
                num_inference_steps=request.steps or spec.steps,
                guidance_scale=spec.cfg if request.cfg is None else request.cfg,
                controlnet_conditioning_scale=request.controlnet_strength,
                control_guidance_start=request.control_guidance_start,
                control_guidance_end=request.control_guidance_end,
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images[0]
        buffer = io.BytesIO()
        picture.save(buffer, request.output_format.upper(), quality=request.quality)
        return Answer(
            image_b64=base64.b64encode(buffer.getvalue()).decode("ascii"),
            generation_time=time.perf_counter() - started,
            seed_used=seed,
            model_used=model,
        )

    def _load(self, model: str) -> None:
        spec = self._catalog.models[model]
        # Drop the old variant first: two of real size would not fit in memory.
        self._pipeline, self._model = None, ""
        self._adapters.clear()
        self._fused = {}
        folders = component_folders(self._catalog, model)
        unet = UNet2DConditionModel.from_pretrained(folders["unet"], dtype=self._device.dtype)
        self._pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
            folders["vae"].parent,
            unet=unet,
            controlnet=self._controlnet,
            scheduler=build_scheduler(spec.scheduler, "auto", None),
            dtype=self._device.dtype,
            add_watermarker=False,
        ).to(self._device.torch_device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._model = model

    def _set_loras(self, loras: dict[str, float]) -> None:
        """Fuse exactly these LoRAs, as diffusers' documentation recommends for speed."""
        for name in loras.keys() - self._adapters:
            file = Path(parse_source(self._catalog.loras[name].source, self._catalog.folder).path)
            self._pipeline.load_lora_weights(
                file.parent, weight_name=file.name, adapter_name=name, local_files_only=True
            )
            self._adapters.add(name)
        if loras == self._fused:
            return
        if self._adapters:
            fuse_loras(self._pipeline, [LoraWeight(*lora) for lora in loras.items()])
        self._fused = dict(loras)


def depth_picture(request: Request, size: tuple[int, int]) -> Image.Image:
    """Return the pipeline's depth image, RGB of size (width, height) in pixels."""
    if request.mock_depth:
        grey = np.frombuffer(mock_depth(*size).pixels, np.uint8).reshape(size[1], size[0])
        return Image.fromarray(grey).convert("RGB")
    content = io.BytesIO(base64.b64decode(request.depth_map_b64 or ""))
    return Image.open(content).convert("L").resize(size).convert("RGB")


def make_app() -> FastAPI:
    """Return the application; startup loads the default variant."""
    # One thread serialises requests, and torch's own threads belong to the thread that starts them.
    worker = ThreadPoolExecutor(1, "paint")
    painters: list[Painter] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        painters.append(await asyncio.get_running_loop().run_in_executor(worker, Painter))
        yield
        worker.shutdown(cancel_futures=True)

    app = FastAPI(lifespan=lifespan)

    @app.get("/readyz")
    async def ready() -> str:
        return "ok"

    @app.post("/generate")
    async def generate(request: Request) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(worker, painters[0].paint, request)
        except KeyError as error:
            raise HTTPException(400, f"unknown: {error}") from error

    return app


def main() -> None:
    """Serve on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    uvicorn.run(make_app(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
