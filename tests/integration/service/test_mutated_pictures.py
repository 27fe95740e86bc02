"""Pictures that were damaged at random: decoded or refused, within the decoders' limits.

FUZZ_EXAMPLES says how many of each format; `make fuzz` takes 200.
"""

from __future__ import annotations

import base64
import contextlib
import random
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from api.images.decoder_pool import LABORIOUS
from testing.hostile_pictures import saved
from testing.process_state import processes_of
from tests.support.attack_helpers import EXAMPLES, check_form
from tests.support.images.pictures import hill

PICTURES = {
    "PNG": ("L", {}), "PNG of 16 bit": ("I;16", {}), "PNG with a palette": ("P", {}),
    "JPEG": ("RGB", {}), "JPEG, progressive": ("RGB", {"progressive": True}), "WEBP": ("RGBA", {}),
    "WEBP, lossless": ("RGB", {"lossless": True}), "TIFF": ("L", {}),
    "TIFF, packed": ("RGB", {"compression": "tiff_lzw"}), "TIFF of floats": ("F", {}),
}  # fmt: skip


def mutate(content: bytes, chance: random.Random) -> bytes:
    """A file with bytes changed, put in, left out, repeated or moved, near its beginning mostly."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = int(len(changed) * chance.random() ** 3)
        length = chance.choice([1, 2, 4, 8, 64])
        piece = changed[at : at + length]
        match chance.randrange(6):
            case 0:
                changed[at : at + length] = chance.randbytes(len(piece))
            case 1:
                changed[at:at] = chance.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = piece * chance.choice([2, 100, 10_000])
            case 4:
                changed[at : at + length] = chance.choice([b"\0", b"\xff", b"\x7f"]) * len(piece)
            case 5:
                del changed[at + length :]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


@pytest.mark.parametrize("name", PICTURES)
def test_mutated_pictures(client: httpx.Client, service_log: Path, name: str) -> None:
    """Each is decoded or refused, and no decoder goes beyond what it may take."""
    mode, options = PICTURES[name]
    kind = name.replace(",", " ").split()[0]
    deep = mode == "I;16"
    grey = hill(256, 256)
    picture = Image.fromarray(grey.astype("uint16") * 257 if deep else grey)
    content = saved(picture if deep else picture.convert(mode), kind, **options)
    chance = random.Random(name)
    before = service_log.stat().st_size
    memory = LABORIOUS.megabytes * 1e6 + 200e6
    for _ in range(EXAMPLES):
        text = base64.b64encode(mutate(content, chance)).decode()
        # It has to be decoded before anybody can say that it comes too late.
        body = {"prompt": "x", "steps": 1, "cfg": 1, "width": 256, "height": 256, "deadline_ms": 1}
        field = chance.choice(["depth_map_b64", "image_b64"])
        strength = {"strength": 0.5} if field == "image_b64" else {}
        answer = client.post("/generate", json={**body, field: text, **strength})
        assert answer.status_code in {200, 400, 413, 504}, answer.text[:300]
        check_form(answer.status_code, answer.text, answer.headers)
        for decoder in decoders(client):
            with contextlib.suppress(psutil.Error):
                assert decoder.memory_info().rss < memory
    said = service_log.read_bytes()[before:].decode(errors="replace")
    assert "decoder failed" not in said
    assert "request failed" not in said


def decoders(client: httpx.Client) -> list[psutil.Process]:
    """The processes in which the service decodes pictures."""
    api = processes_of(client.base_url.port or 0)["api"]
    found = []
    for child in api.children():
        # One that has been killed is a zombie until the service has waited for it.
        with contextlib.suppress(psutil.Error):
            if "decoder_process" in " ".join(child.cmdline()):
                found.append(child)
    return found
