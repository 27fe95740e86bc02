"""Requests that cost the service more than their senders, for `benchmarks.abuse`."""

from __future__ import annotations

import base64
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image

from testing.hostile_pictures import (
    HOSTILE,
    app1,
    exif_of,
    jpeg_with,
    png,
    png_chunk,
    progressive,
    saved,
    tiff,
    webp_with,
)

MIB = 2**20
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an attacker; `has_token` sets whether it authenticates."""

    path: str = "/generate"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    method: str = "POST"
    has_token: bool = True


@dataclass(frozen=True, slots=True)
class Attack:
    """Calls, of which `at_once` are in flight."""

    calls: Callable[[], Iterator[Call]]
    at_once: int = 4


def _repeated(body: Callable[[], bytes], times: int = 4, path: str = "/generate") -> Attack:
    """Send the same body several times."""

    def calls() -> Iterator[Call]:
        content = body()
        return (Call(path, content) for _ in range(times))

    return Attack(calls)


def _object(inner: bytes) -> bytes:
    return b'{"prompt": "hills", "mock_depth": true, ' + inner + b"}"


def _depth(text: bytes) -> bytes:
    return b'{"prompt": "hills", "depth_map_b64": "' + text + b'"}'


def _form(parts: int, size: int) -> Attack:
    def calls() -> Iterator[Call]:
        head = b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n'
        body = b"".join(head % n + b"[" * size + b"\r\n" for n in range(parts)) + b"--x--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        return (Call(body=body, headers=headers) for _ in range(4))

    return Attack(calls)


def _paths(prefix: str, length: int, has_token: bool) -> Attack:
    def calls() -> Iterator[Call]:
        for number in range(100):
            path = f"{prefix}{number}" + "%0a" * (length // 3)
            yield Call(path, b"", {}, "GET", has_token)

    return Attack(calls)


def _headers(has_token: bool) -> Attack:
    def calls() -> Iterator[Call]:
        for number in range(100):
            headers = {f"X-{number}-{index}": "\\x1b" * 150 for index in range(90)}
            yield Call("/models", b"", headers, "GET", has_token)

    return Attack(calls)


BODIES: dict[str, Attack] = {
    "24 MB of unknown keys": _repeated(
        lambda: _object(b", ".join(b'"k%d": 1' % n for n in range(1_800_000)))
    ),
    "30 MB of []": _repeated(lambda: _object(b'"loras": [' + b"[]," * 10_000_000 + b"[]]")),
    "unknown keys with long values": _repeated(
        lambda: _object(b", ".join(b'"k%d": "%s"' % (n, b"x" * 3000) for n in range(9_000)))
    ),
    "50 bodies of 31 MiB": Attack(
        lambda: iter([Call(body=_depth(b"A" * (31 * MIB)))] * 50), 50
    ),
    "a megabyte of problems": _repeated(
        lambda: _object(b'"loras": [' + b'{"name": 1},' * 5_000 + b"1]"), 20
    ),
    "prompts made to be slow": _repeated(
        lambda: json.dumps({"prompt": "(" + "a" * 1000 + ":" + "1" * 990, "mock_depth": True,
                            "deadline_ms": 1}).encode(), 100
    ),
    "refused paths of 60 kB": _paths("/", 60_000, has_token=False),
    "nested 2 million deep": _repeated(lambda: b'{"a":' * 2_000_000),
    "one unclosed string": _repeated(lambda: b'{"prompt": "' + b"\\\\" * (15 * MIB)),
    "escapes alone": _repeated(lambda: _depth(b"\\u0041" * (5 * MIB))),
    "a number of 30 million digits": _repeated(lambda: _object(b'"seed": ' + b"9" * (30 * MIB))),
    "white space": _repeated(lambda: b" " * (31 * MIB)),
    "base64 in single characters": _repeated(lambda: _depth(b"A " * (15 * MIB))),
    "not base64": _repeated(lambda: _depth(b"%" * (31 * MIB))),
    "surrogates": _repeated(lambda: _depth(b"\\ud800" * (MIB // 7)), 20),
    "forms of 64 parts of brackets": _form(64, 480_000),
    "forms of a million parts": _form(500_000, 1),
    "paths of a caller": _paths("/models/", 8_000, has_token=True),
    "headers": _headers(has_token=False),
    "cancels of long names": _repeated(
        lambda: json.dumps({"session": "x" * (20 * MIB)}).encode(), 4, "/cancel"
    ),
}  # fmt: skip


def _noise(width: int, height: int, kind: str, **options: object) -> bytes:
    picture = Image.frombytes("L", (width, height), random.Random(1).randbytes(width * height))
    return saved(picture, kind, **options)


def _tiff_in_pieces() -> bytes:
    """Return a TIFF of one strip per row, each compressed separately."""
    buffer = io.BytesIO()
    Image.new("L", (4000, 4000)).save(buffer, "TIFF", compression="tiff_lzw", tiffinfo={278: 1})
    return buffer.getvalue()


_OWN_PICTURES: dict[str, Callable[[], bytes]] = {
    "noise, PNG of 24 megapixels": lambda: _noise(4900, 4900, "PNG"),
    "noise, progressive JPEG": lambda: _noise(4000, 4000, "JPEG", progressive=True),
    "noise, lossless WebP": lambda: _noise(3000, 3000, "WEBP", lossless=True, method=0),
    "JPEG of as many scans as are accepted": lambda: progressive(3000, 3000, 58),
    "JPEG of ten scans, 60 megapixels": lambda: progressive(7700, 7700, 4),
    "TIFF of a strip per row": _tiff_in_pieces,
    "TIFF of four gigabytes, it says": lambda: tiff(
        [(256, 4, 1, 65_000), (257, 4, 1, 65_000), (273, 4, 1, 8), (279, 4, 1, 8)], bytes(64)
    ),
    "PNG of texts that unpack": lambda: png(
        256, 256, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000), 9)) * 2000
    ),
    "JPEG of 16,000 comments": lambda: jpeg_with(b"\xff\xfe\0\2" * 16_000),
    "JPEG of EXIF in pieces": lambda: jpeg_with(app1(bytes(60_000)) * 300),
    "WebP of 16,000 chunks": lambda: webp_with(b"ABCD", b"", 16_000),
    "WebP with EXIF of many entries": lambda: webp_with(b"EXIF", exif_of(1000, 4)),
    "PNG of many small IDATs": lambda: _small_idats(),
}  # fmt: skip


def _small_idats() -> bytes:
    whole = png(2000, 2000)
    start = whole.index(b"IDAT") + 4
    data = whole[start : whole.index(b"IEND") - 8]
    pieces = b"".join(png_chunk(b"IDAT", data[n : n + 1]) for n in range(len(data)))
    return whole[: start - 8] + pieces + png_chunk(b"IEND", b"")


def _picture(make: Callable[[], bytes]) -> Attack:
    def calls() -> Iterator[Call]:
        text = base64.b64encode(make()).decode()
        # A deadline of 1 ms stops after decoding, because any caller may ask for generation.
        size = {"width": 256, "height": 256}
        depth = {"prompt": "hills", "depth_map_b64": text, "deadline_ms": 1, **size}
        bodies = [("/generate", depth), ("/estimate_depth", {"image_b64": text, **size})]
        encoded = [(path, json.dumps(body).encode()) for path, body in bodies]
        return (Call(path, body) for _ in range(2) for path, body in encoded)

    return Attack(calls)


PICTURES: dict[str, Attack] = {
    name: _picture(make) for name, make in (HOSTILE | _OWN_PICTURES).items()
}
ATTACKS: dict[str, Attack] = BODIES | PICTURES
