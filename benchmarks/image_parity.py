"""Parity of image-to-image's final latents with those of diffusers' pipeline for it.

    python -m benchmarks.image_parity [--cases N]

Works as benchmarks.parity does, against `StableDiffusionXLControlNetImg2ImgPipeline`
(arXiv:2108.01073). Every scheduler takes the strengths in turn, with and without guidance, with and
without the ControlNet; one in five has a union ControlNet.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from benchmarks.parity import judge
from common.protocol import GenerateJob
from common.scheduler_table import SCHEDULERS
from testing.workbench import CONTROLNET, UNION, make_job

_SIZES = ((256, 256), (264, 328), (320, 256))
_STRENGTHS = (0.3, 0.5, 0.8, 1.0)
_CONTROL = ((0.8, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.2, 0.7))
_GUIDANCE = (1.0, 3.0, 7.5)


def cases(sizes: Sequence[tuple[int, int]] = _SIZES) -> Iterator[GenerateJob]:
    """Yield every scheduler with three settings of everything else.

    Args:
        sizes: heights and widths in pixels.
    """
    rng = np.random.default_rng(11)
    turn = itertools.count()
    for name, _ in itertools.product(("auto", *SCHEDULERS), range(3)):
        number = next(turn)
        height, width = sizes[number // 2 % len(sizes)]
        strength, start, end = _CONTROL[number // 3 % len(_CONTROL)]
        yield make_job(
            _smooth(rng, "L", width, height),
            image=_smooth(rng, "RGB", width, height).tobytes(),
            strength=_STRENGTHS[number % len(_STRENGTHS)],
            request_id=f"{number}-{name}",
            controlnet=UNION if number % 5 == 0 else CONTROLNET,
            prompt="aerial photography, pre-industrial, 1600s, subsistence agriculture",
            negative_prompt=(None, "blurry, cartoon")[number % 2],
            seed=2000 + number,
            steps=4 + number % 4,
            guidance_scale=_GUIDANCE[number % len(_GUIDANCE)],
            guidance_end=(1.0, 0.5)[number // 2 % 2],
            controlnet_strength=strength,
            control_guidance_start=start,
            control_guidance_end=end,
            scheduler=name,
        )


def _smooth(
    rng: np.random.Generator, mode: str, width: int, height: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a random image without edges, uint8 (h, w) or (h, w, 3)."""
    channels = {"L": (), "RGB": (3,)}[mode]
    coarse = rng.integers(0, 256, (height // 16, width // 16, *channels), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=None, help="only the first N")
    judge(list(cases())[: parser.parse_args().cases])


if __name__ == "__main__":
    main()
