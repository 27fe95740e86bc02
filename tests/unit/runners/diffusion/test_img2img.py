"""Image-to-image: from a picture to the latents it starts from, and against diffusers."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks.image_parity import cases
from benchmarks.parity import compare
from common.framing import pack, unpack
from common.protocol import GenerateJob
from runners.diffusion import vae as tiling
from runners.diffusion.img2img import encode_init_image
from testing.workbench import demo_networks, make_job
from tests.support.images.pictures import hill
from tests.support.runner.jobs import paint

DEPTH = hill(64, 64)
PICTURE = np.dstack([DEPTH, 255 - DEPTH, DEPTH // 2]).tobytes()


def job(**changes: object) -> GenerateJob:
    fields = {"image": PICTURE, "strength": 0.5, "steps": 4, "guidance_scale": 1.0, **changes}
    return make_job(DEPTH, **fields)


@pytest.mark.slow
def test_img2img_equals_diffusers_with_every_scheduler() -> None:
    jobs = list(cases([(64, 64), (72, 88), (96, 64)]))[1::3]
    assert len({each.scheduler for each in jobs}) == 9
    outcomes = compare(jobs)
    assert {name: outcome for name, outcome in outcomes.items() if not outcome.passed} == {}


def test_lower_strength_stays_closer_to_the_init_image() -> None:
    depth = hill(128, 128)
    (start,) = paint(make_job(depth, prompt="aerial photography, modern city", steps=8))
    jobs = [
        make_job(
            depth, image=start.tobytes(), strength=share, steps=8, seed=3, request_id=f"{share}"
        )
        for share in (0.2, 0.6, 1.0)
    ]
    distances = [np.abs(picture.astype(float) - start).mean() for picture in paint(*jobs)]
    assert distances == sorted(distances)
    assert distances[0] < 0.6 * distances[2]


def test_batching_does_not_change_img2img() -> None:
    together = paint(job(seed=1, request_id="a"), job(seed=2, request_id="b", strength=0.9))
    alone = paint(job(seed=1, request_id="a"))
    assert np.abs(together[0].astype(int) - alone[0]).max() <= 1


def test_two_pictures_of_one_request_are_encoded_once() -> None:
    variant, _ = demo_networks("base")
    with mock.patch.object(variant.vae, "encode", wraps=variant.vae.encode) as encode:
        paint(job(num_images=2))
    assert encode.call_count == 1


def test_a_picture_too_large_for_memory_is_encoded_in_tiles() -> None:
    variant, _ = demo_networks("base")
    side = 2 * variant.vae.tile_sample_min_size
    large = torch.zeros(side, side, 3, dtype=torch.uint8)
    whole = encode_init_image(large, variant.vae)
    with mock.patch.object(tiling, "free_bytes", return_value=0):
        tiled = encode_init_image(large, variant.vae)
    assert tiled.mean.shape == whole.mean.shape == (1, 4, side // 8, side // 8)
    assert (tiled.mean - whole.mean).abs().mean() < 0.1


def test_out_of_memory_is_tried_in_tiles() -> None:
    variant, _ = demo_networks("base")
    side = 2 * variant.vae.tile_sample_min_size
    large, small = (torch.zeros(n, n, 3, dtype=torch.uint8) for n in (side, 64))
    with mock.patch.object(variant.vae, "encode", side_effect=torch.OutOfMemoryError):
        assert encode_init_image(large, variant.vae).std.min() > 0
        with pytest.raises(torch.OutOfMemoryError):
            encode_init_image(small, variant.vae)


def test_the_picture_crosses_the_border() -> None:
    sent = job()
    assert unpack(pack(sent), GenerateJob) == sent
