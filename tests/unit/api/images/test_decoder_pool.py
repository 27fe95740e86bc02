"""Decoder processes: results, limits and replacement."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import psutil
import pytest
from PIL import Image

from api.errors import InvalidDepthMap, InvalidImage, Overloaded, TooLarge
from api.images.decoder_pool import LABORIOUS, ORDINARY, DecoderPool, Limits
from common.framing import Frame, next_frame
from testing.hostile_pictures import progressive
from tests.support.images.pictures import encoded, hill
from tests.support.waiting import eventually

HILL = hill()
SMALL = encoded(Image.fromarray(HILL))


# A busy machine gives a process of low priority hardly any of its time.
PATIENT = {
    "ordinary": replace(ORDINARY, seconds=60, niceness=0),
    "laborious": replace(LABORIOUS, seconds=60, niceness=0),
}


@contextlib.asynccontextmanager
async def open_pool(most: int = 8, **limits: Limits) -> AsyncIterator[DecoderPool]:
    pool = DecoderPool(most, **(PATIENT | limits))
    try:
        yield pool
    finally:
        await pool.close()


@pytest.fixture
async def pool() -> AsyncIterator[DecoderPool]:
    async with open_pool() as pool:
        yield pool


def decoders() -> list[psutil.Process]:
    """The living processes that decode for this one."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            # What has ended has no command line any more.
            if "api.images.decoder_process" in child.cmdline():
                found.append(child)
    return found


def laborious() -> str:
    """A dozen passes over 49 megapixels."""
    return base64.b64encode(progressive(7000, 7000, scans=7)).decode()


async def test_decoded_pixels_equal_those_sent(pool: DecoderPool) -> None:
    depth = await pool.decode_depth(SMALL, 64, 48)
    assert depth.pixels == HILL.tobytes()
    inverted = await pool.decode_depth(SMALL, 64, 48, invert=True)
    assert inverted.pixels == (255 - HILL).tobytes()
    assert len(inverted.warnings) == 1
    photograph = await pool.decode_image(encoded(Image.new("RGB", (640, 480), "red")), 320, None)
    assert (photograph.width, photograph.height) == (320, 256)
    assert photograph.pixels[:3] == b"\xff\0\0"


async def test_invalid_image_error_lists_accepted_formats(pool: DecoderPool) -> None:
    for text in ("", "AAAA", "Ω" * 9, "\ud800", encoded(Image.fromarray(HILL), "GIF")):
        with pytest.raises(InvalidDepthMap, match="PNG, JPEG, WebP or TIFF") as depth:
            await pool.decode_depth(text, 256, 256)
        assert depth.value.detail[0].field == "depth_map_b64"
        with pytest.raises(InvalidImage, match="PNG, JPEG, WebP or TIFF") as image:
            await pool.decode_image(text, 256, 256)
        assert image.value.detail[0].field == "image_b64"


@pytest.mark.slow
async def test_large_pictures_are_decoded_too(pool: DecoderPool) -> None:
    depth = await pool.decode_depth(encoded(Image.new("L", (4000, 4000), 99)), 256, 256)
    assert set(depth.pixels) == {99}


async def test_a_long_upload_is_left_to_the_decoder_of_large_images() -> None:
    short = replace(PATIENT["ordinary"], max_characters=len(SMALL) - 1)
    async with open_pool(ordinary=short) as pool:
        *ordinary, last = sorted(decoders(), key=lambda decoder: decoder.create_time())
        for decoder in ordinary:
            decoder.kill()
            decoder.wait()
        assert (await pool.decode_depth(SMALL, 64, 48)).pixels == HILL.tobytes()
        # A dead decoder is replaced when an image comes to it.
        assert decoders() == [last]


async def test_image_over_time_limit_is_rejected_and_next_decoded() -> None:
    hasty = replace(PATIENT["laborious"], seconds=0.2)
    async with open_pool(laborious=hasty) as pool:
        with pytest.raises(TooLarge, match=r"depth_map_b64: .* more time or memory"):
            await pool.decode_depth(laborious(), 256, 256)
        assert (await pool.decode_depth(SMALL, 64, 48)).digest


@pytest.mark.slow
async def test_image_over_memory_limit_is_rejected_and_next_decoded() -> None:
    tight = replace(PATIENT["laborious"], megabytes=100)
    async with open_pool(laborious=tight) as pool:
        with pytest.raises(TooLarge, match=r"more time or memory"):
            await pool.decode_depth(encoded(Image.new("RGB", (7000, 7000))), 256, 256)
        assert (await pool.decode_depth(encoded(Image.new("L", (3000, 3000))), 64, 48)).digest


async def test_cancelled_decode_frees_the_decoder(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def answer(reader: asyncio.StreamReader) -> Frame:
        asked.set()
        return await next_frame(reader)

    monkeypatch.setattr("api.images.decoder_pool.next_frame", answer)
    before = {decoder.pid for decoder in decoders()}
    for decoder in decoders():
        decoder.suspend()
    work = asyncio.ensure_future(pool.decode_depth(SMALL, 64, 48))
    await asked.wait()
    assert pool.waiting == 1
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert pool.waiting == 0

    def is_replaced() -> bool:
        after = {decoder.pid for decoder in decoders()}
        return len(after) == len(before) and len(before - after) == 1

    # The killed one takes a moment to end, and its successor to start.
    await eventually(is_replaced)


async def test_pictures_wait_in_a_bounded_number() -> None:
    async with open_pool(most=3) as pool:
        outcomes = await asyncio.gather(
            *(pool.decode_depth(SMALL, 64, 48) for _ in range(5)), return_exceptions=True
        )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert len(refused) == 2
    assert all(error.retry_after for error in refused)


async def test_decoder_environment_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    async with open_pool() as pool:
        await pool.decode_depth(SMALL, 64, 48)
        assert decoders()
        for decoder in decoders():
            assert "API_TOKEN" not in decoder.environ()
            assert os.getpgid(decoder.pid) != os.getpgid(0)


async def test_a_decoder_that_the_system_ended_is_replaced(pool: DecoderPool) -> None:
    for decoder in decoders():
        decoder.kill()
        decoder.wait()
    assert (await pool.decode_depth(SMALL, 64, 48)).digest
