"""Where every picture of the documents comes from, and making them anew.

    python -m docs_build.make_images [NAME …]

Those of a tutorial are what its own blocks paint: the page is followed, and its files are taken.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from docs_build.run_code_blocks import CodeBlockRunner
from testing.heldout import heldout
from testing.server import ROOT, import_demo, started_service

FOLDER = ROOT / "docs" / "img"
LARGEST_BYTES = 200_000
"""Of what a page paints; sheets of many pictures are larger."""
_QUALITY = 88


@dataclass(frozen=True, slots=True)
class FromTutorial:
    """Files that a page's blocks leave behind, side by side."""

    page: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FromModule:
    """A module that makes it: `python -m MODULE`."""

    module: str


_TERRAIN, _CAMERA = "docs/tutorials/first-terrain.md", "docs/tutorials/depth-camera.md"
PICTURES: Mapping[str, FromTutorial | FromModule | None] = {
    "depth.png": None,
    "logo.svg": None,
    "eras.png": FromModule("docs_build.images.contact_sheet"),
    "loras.png": FromModule("docs_build.images.contact_sheet"),
    "variants.png": FromModule("docs_build.images.contact_sheet"),
    "playground.jpg": FromModule("docs_build.images.playground_shots"),
    "playground-kiosk.jpg": FromModule("docs_build.images.playground_shots"),
    "load-report.jpg": FromModule("docs_build.images.load_report_shot"),
    "terrain.jpg": FromTutorial(_TERRAIN, ("terrain.png", "wilderness.jpg")),
    "eras-before.jpg": FromTutorial(_TERRAIN, ("eras-before.jpg",)),
    "eras-after.jpg": FromTutorial(_TERRAIN, ("eras-after.jpg",)),
    "strictness.jpg": FromTutorial(_TERRAIN, ("strictness.jpg",)),
    "depth-camera.jpg": FromTutorial(_CAMERA, ("sand.png", "wall.png")),
    "lora-strength.jpg": FromTutorial("docs/tutorials/your-own-lora.md", ("mist.jpg",)),
}
"""By name; None: see `draw_depth`, or drawn by hand."""


def side_by_side(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures of one height in a row, white between them."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def draw_depth(path: Path) -> None:
    """The depth map of the examples: one that the demo set's training never saw."""
    Image.fromarray(heldout()[24].depth).save(path)


def paint(names: Sequence[str]) -> None:
    """Follow the pages of these pictures and take what they painted."""
    by_page: dict[str, list[str]] = {}
    for name in names:
        match PICTURES[name]:
            case FromTutorial(page):
                by_page.setdefault(page, []).append(name)
    if not by_page:
        return
    with tempfile.TemporaryDirectory(prefix="experimance-") as scratch:
        home = Path(scratch, "bentoml")
        import_demo(home)
        with started_service(home, Path(scratch, "log")) as url:
            for number, (page, wanted) in enumerate(by_page.items()):
                folder = Path(scratch, str(number))
                folder.mkdir()
                with CodeBlockRunner(url, home, folder) as reader:
                    reader.read(ROOT / page)
                    for name in wanted:
                        _take(reader.folder, name)


def _take(folder: Path, name: str) -> None:
    source = PICTURES[name]
    if not isinstance(source, FromTutorial):
        raise TypeError(name)
    if len(source.files) == 1:
        shutil.copyfile(folder / source.files[0], FOLDER / name)
        return
    pictures = [Image.open(folder / file).convert("RGB") for file in source.files]
    side_by_side(pictures).save(FOLDER / name, quality=_QUALITY)


def main() -> None:
    """Make the named pictures, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    names = parser.parse_args().names or list(PICTURES)
    if unknown := sorted(set(names) - set(PICTURES)):
        parser.error(f"{', '.join(unknown)}: none of {', '.join(PICTURES)}")
    if "depth.png" in names:
        draw_depth(FOLDER / "depth.png")
    for module in {made.module for name in names if isinstance(made := PICTURES[name], FromModule)}:
        subprocess.run([sys.executable, "-m", module], cwd=ROOT, check=True)
    paint(names)


if __name__ == "__main__":
    main()
