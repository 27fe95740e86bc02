"""The pictures of the documentation, painted by the service.

    python -m docs_build.images.contact_sheet [--url URL] [--folder docs/img]

Writes `eras.png` (ten eras, each with its LoRAs, of three landscapes by three variants),
`variants.png` (few steps against many, without LoRAs) and `loras.png` (LoRAs by strength).
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw, ImageFont

from benchmarks.support.lora_response import STRENGTHS
from models.demo.training.data.eras import ERAS
from testing.heldout import HeldOut, heldout
from testing.server import running_service
from testing.workbench import demo_catalog

Row = tuple[str, list[Image.Image]]

TILE = 128
_MARGIN, _HEADING = 104, 22
_TERRAINS = (1, 8, 5)
"""Of the held-out maps: a spiral, a river, and mounds as the training data has them."""
_VARIANT_ROWS = (("base", 20), ("base", 6), ("lightning", 6), ("hyper", 6))


class Painter:
    """Asks a service for pictures."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.painted = 0

    def paint(self, terrain: HeldOut, era: str, /, **fields: Any) -> Image.Image:
        """One landscape in one era; `fields` go into the request."""
        buffer = io.BytesIO()
        Image.fromarray(terrain.depth).save(buffer, "PNG")
        body = {
            "prompt": demo_catalog().eras[era].prompt,
            "depth_map_b64": base64.b64encode(buffer.getvalue()).decode(),
            "seed": 11,
            "output_format": "png",
            **fields,
        }
        answer = self._client.post("/generate", json=body)
        answer.raise_for_status()
        self.painted += 1
        picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["image_b64"])))
        return picture.resize((TILE, TILE), Image.Resampling.LANCZOS)


def depth_tile(terrain: HeldOut) -> Image.Image:
    """The depth map, as a tile."""
    return Image.fromarray(terrain.depth).resize((TILE, TILE)).convert("RGB")


def eras_rows(painter: Painter, terrains: Sequence[HeldOut]) -> list[Row]:
    """Each landscape by each variant, all eras with their LoRAs."""
    return [
        (
            model,
            [
                depth_tile(terrain),
                *(painter.paint(terrain, era, model=model, era=era) for era in ERAS),
            ],
        )
        for terrain in terrains
        for model in demo_catalog().models
    ]


def variants_rows(painter: Painter, terrains: Sequence[HeldOut]) -> list[Row]:
    """The base in many and in few steps, and the few-step variants, without LoRAs."""
    return [
        (
            f"{model}, {steps} steps",
            [
                depth_tile(terrain),
                *(painter.paint(terrain, era, model=model, steps=steps) for era in ERAS),
            ],
        )
        for terrain in terrains
        for model, steps in _VARIANT_ROWS
    ]


def loras_rows(painter: Painter, terrain: HeldOut, eras: Sequence[str]) -> list[Row]:
    """Each LoRA at rising strength in some eras."""
    return [
        (
            lora,
            [
                painter.paint(terrain, era, loras=[{"name": lora, "strength": strength}])
                for strength in STRENGTHS
            ],
        )
        for lora in demo_catalog().loras
        for era in eras
    ]


def sheet(headings: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Rows of square tiles with a heading per column and a label per row."""
    size = (_MARGIN + TILE * len(headings), _HEADING + TILE * len(rows))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    for column, heading in enumerate(headings):
        draw.text((_MARGIN + TILE * column + 4, 3), heading, fill="black", font=font)
    for number, (label, tiles) in enumerate(rows):
        draw.text((4, _HEADING + TILE * number + TILE // 2 - 8), label, fill="black", font=font)
        for column, tile in enumerate(tiles):
            canvas.paste(tile, (_MARGIN + TILE * column, _HEADING + TILE * number))
    return canvas


def main() -> None:
    """Paint all sheets and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=None)
    parser.add_argument("--folder", type=Path, default=Path("docs/img"))
    options = parser.parse_args()
    maps = heldout()
    terrains = [maps[number] for number in _TERRAINS]
    with running_service(options.url) as url, httpx.Client(base_url=url, timeout=600) as client:
        painter = Painter(client)
        eras = ["depth map", *(era.replace("_", " ") for era in ERAS)]
        strengths = [f"strength {strength:g}" for strength in STRENGTHS]
        sheets = {
            "eras": sheet(eras, eras_rows(painter, terrains)),
            "variants": sheet(eras, variants_rows(painter, terrains[:2])),
            "loras": sheet(strengths, loras_rows(painter, terrains[1], ("wilderness", "modern"))),
        }
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, picture in sheets.items():
        picture.save(options.folder / f"{name}.png", optimize=True)
        print(f"{options.folder / name}.png", picture.size)


if __name__ == "__main__":
    main()
