"""What it costs to mark a picture, and what a mark survives: parameters, C2PA, watermark.

    pip install --target build/marks --no-deps c2pa-python invisible-watermark PyWavelets toml
    PYTHONPATH=build/marks python -m benchmarks.marks PICTURE.png …

The two packages belong to the question, not to the service. Prints a line per mark, then JSON.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import c2pa  # type: ignore[import-not-found]
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from imwatermark import WatermarkDecoder, WatermarkEncoder  # type: ignore[import-not-found]
from PIL import Image

from benchmarks.support.report import finish
from runners.engine.image_encoding import encode_picture

ROUNDS = 5
BAR = {"milliseconds": 5, "bytes": 2048}
BITS = [int(bit) for bit in f"{0xB3EC907BB19E:048b}"]
"""48 bits, as many as the watermark that diffusers puts into SDXL's pictures."""
_ACTIONS = {
    "label": "c2pa.actions",
    "data": {
        "actions": [
            {
                "action": "c2pa.created",
                "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/"
                "trainedAlgorithmicMedia",
            }
        ]
    },
}


def clocked(do: Callable[[], Any]) -> float:
    """Milliseconds, the median of some calls."""
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        do()
        took.append(1e3 * (time.perf_counter() - start))
    return median(took)


def file_of(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    """A picture file without any mark."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return buffer.getvalue()


def certificates() -> tuple[str, str]:
    """A leaf under an authority of its own, as PEM: the chain, the leaf's key."""
    today = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sand"),
             x509.NameAttribute(NameOID.COMMON_NAME, name)]
        )
        for name in ("authority", "signer")
    ]  # fmt: skip
    chain = []
    for number, (name, key) in enumerate(zip(names, keys, strict=True)):
        is_authority = number == 0
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        built = (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(names[0]).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=90))
            .add_extension(x509.BasicConstraints(is_authority, None), True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not is_authority, key_cert_sign=is_authority,
                    crl_sign=is_authority, **usage,
                ), True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), False
            )
        )  # fmt: skip
        if not is_authority:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            built = built.add_extension(purpose, True)
        signed = built.sign(keys[0], hashes.SHA256())
        chain.append(signed.public_bytes(Encoding.PEM).decode())
    secret = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return chain[1] + chain[0], secret.decode()


def signed_by(chain: str, key: str, *, thumbnail: bool) -> Callable[[bytes], bytes]:
    """Signs a JPEG and puts the manifest into it, with a small picture of its own or without."""
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": thumbnail}}})

    def sign(content: bytes) -> bytes:
        info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain.encode(), key.encode(), None)
        manifest = {
            "claim_generator_info": [{"name": "experimance-controlnet"}],
            "assertions": [_ACTIONS],
        }
        target = io.BytesIO()
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest, context) as builder:
            builder.sign(signer, "image/jpeg", io.BytesIO(content), target)
        return target.getvalue()

    return sign


def c2pa_findings(content: bytes) -> tuple[str, list[str]]:
    """What a validator says of a file: its state, and what it complains of."""
    with c2pa.Reader("image/jpeg", io.BytesIO(content)) as reader:
        told = json.loads(reader.json())
    return told["validation_state"], [item["code"] for item in told.get("validation_status", ())]


def has_manifest(content: bytes) -> bool:
    """Whether a JPEG still carries a manifest."""
    try:
        c2pa_findings(content)
    except c2pa.C2paError:
        return False
    return True


def embed(image: Image.Image) -> Image.Image:
    """The picture with the watermark, by the method that diffusers uses."""
    encoder = WatermarkEncoder()
    encoder.set_watermark("bits", BITS)
    bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    return Image.fromarray(encoder.encode(bgr, "dwtDct")[..., ::-1])


def read_bits(image: Image.Image) -> float:
    """The share of the watermark's bits that are read right; 0.5 is chance."""
    bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    found = np.asarray(WatermarkDecoder("bits", len(BITS)).decode(bgr, "dwtDct")).astype(int)
    return float((found == BITS).mean())


def again(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """Saved and opened."""
    return Image.open(io.BytesIO(file_of(image, kind, quality)))


FATES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "png": lambda image: image,
    "jpeg 90": lambda image: again(image, "JPEG", 90),
    "jpeg 75": lambda image: again(image, "JPEG", 75),
    "webp 90": lambda image: again(image, "WEBP", 90),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "a rim of 16 cut": lambda image: image.crop(
        (16, 16, image.width - 16, image.height - 16)
    ),
}  # fmt: skip


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal to noise in dB."""
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def encoding_cost(image: Image.Image) -> dict[str, float]:
    """Of the JPEG itself, for comparison."""
    return {"milliseconds": clocked(lambda: file_of(image)), "bytes": len(file_of(image))}


def parameters_cost(image: Image.Image, parameters: dict[str, Any]) -> dict[str, float]:
    """Of the parameters that this service writes into every picture, in a JPEG."""
    pixels = np.asarray(image)

    def encoded(told: dict[str, Any] | None) -> bytes:
        return encode_picture(pixels, "jpeg", 90, told)

    return {
        "milliseconds": clocked(lambda: encoded(parameters)) - clocked(lambda: encoded(None)),
        "bytes": len(encoded(parameters)) - len(encoded(None)),
    }


def c2pa_cost(image: Image.Image) -> dict[str, Any]:
    """Of a signature without a time stamp, in a JPEG; what a validator says of it."""
    chain, key = certificates()
    plain = file_of(image)
    small, whole = (signed_by(chain, key, thumbnail=wanted) for wanted in (False, True))
    signed = small(plain)
    state, complaints = c2pa_findings(signed)
    return {
        "milliseconds": clocked(lambda: small(plain)),
        "bytes": len(signed) - len(plain),
        "bytes with a thumbnail": len(whole(plain)) - len(plain),
        "state": state,
        "complaints": complaints,
        "survives saving again": has_manifest(file_of(Image.open(io.BytesIO(signed)))),
    }


def watermark_cost(image: Image.Image) -> dict[str, Any]:
    """Of the watermark in the pixels, and how much of it can be read afterwards."""
    marked = embed(image)
    return {
        "milliseconds": clocked(lambda: embed(image)),
        "milliseconds to read": clocked(lambda: read_bits(marked)),
        "psnr": psnr(image, marked),
        "read right": {name: read_bits(fate(marked)) for name, fate in FATES.items()},
        "read right in an unmarked picture": read_bits(image),
    }


def mean(findings: Sequence[Any]) -> Any:
    """The mean of numbers, of tables of them name by name; anything else must be equal."""
    if isinstance(findings[0], dict):
        return {name: mean([finding[name] for finding in findings]) for name in findings[0]}
    if isinstance(findings[0], int | float) and not isinstance(findings[0], bool):
        return round(float(np.mean(findings)), 3)
    return findings[0] if all(finding == findings[0] for finding in findings) else list(findings)


def main() -> None:
    """Measure every mark on every picture; print the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, help="PNG files of this service")
    findings = []
    for path in parser.parse_args().pictures:
        with Image.open(path) as opened:
            parameters = json.loads(opened.info["parameters"])
            image = opened.convert("RGB")
        findings.append(
            {
                "encoding": encoding_cost(image),
                "parameters": parameters_cost(image, parameters),
                "c2pa": c2pa_cost(image),
                "watermark": watermark_cost(image),
            }
        )
    means = mean(findings)
    for name, found in means.items():
        print(name, json.dumps(found))
    # The decision rests on it: what is in every picture must cost next to nothing.
    cost = means.pop("parameters")
    passed = cost["milliseconds"] < BAR["milliseconds"] and cost["bytes"] < BAR["bytes"]
    finish(cost, BAR, passed, pictures=len(findings), others=means)


if __name__ == "__main__":
    main()
