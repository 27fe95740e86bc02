"""Cost and robustness of marks in an image: parameters, C2PA, watermark.

    pip install --target build/marks --no-deps c2pa-python invisible-watermark PyWavelets toml
    PYTHONPATH=build/marks python -m benchmarks.marks PICTURE.png …

The service itself does not need these packages. Prints a line per mark, then JSON.
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
"""48 bits, as many as in diffusers' watermark of SDXL images."""
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
    """Return the median milliseconds of several calls."""
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        do()
        took.append(1e3 * (time.perf_counter() - start))
    return median(took)


def file_of(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    """Encode an image without any mark.

    Args:
        image: the image.
        kind: Pillow's name of the format.
        quality: from 1 to 100.
    """
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return buffer.getvalue()


def certificates() -> tuple[str, str]:
    """Return a chain of leaf and authority, and the leaf's private key, both as PEM."""
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
    """Return a function that signs a JPEG and embeds the manifest.

    Args:
        chain: certificates as PEM, the leaf first.
        key: the leaf's private key as PEM.
        thumbnail: whether the manifest contains a thumbnail.
    """
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
    """Return a validator's state of a JPEG, and the codes of its complaints."""
    with c2pa.Reader("image/jpeg", io.BytesIO(content)) as reader:
        report = json.loads(reader.json())
    codes = [item["code"] for item in report.get("validation_status", ())]
    return report["validation_state"], codes


def has_manifest(content: bytes) -> bool:
    """Return whether a JPEG still carries a manifest."""
    try:
        c2pa_findings(content)
    except c2pa.C2paError:
        return False
    return True


def embed(image: Image.Image) -> Image.Image:
    """Return the image with the watermark, by the method that diffusers uses."""
    encoder = WatermarkEncoder()
    encoder.set_watermark("bits", BITS)
    bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    return Image.fromarray(encoder.encode(bgr, "dwtDct")[..., ::-1])


def read_bits(image: Image.Image) -> float:
    """Return the share of the watermark's bits read correctly; 0.5 is chance."""
    bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    found = np.asarray(WatermarkDecoder("bits", len(BITS)).decode(bgr, "dwtDct")).astype(int)
    return float((found == BITS).mean())


def again(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """Encode an image and decode it again.

    Args:
        image: the image.
        kind: Pillow's name of the format.
        quality: from 1 to 100.
    """
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
    """Return the peak signal-to-noise ratio in dB."""
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def encoding_cost(image: Image.Image) -> dict[str, float]:
    """Return milliseconds and bytes of the JPEG itself, for comparison."""
    return {"milliseconds": clocked(lambda: file_of(image)), "bytes": len(file_of(image))}


def parameters_cost(image: Image.Image, parameters: dict[str, Any]) -> dict[str, float]:
    """Return milliseconds and bytes added by the service's parameters in a JPEG."""
    pixels = np.asarray(image)

    def encode(written: dict[str, Any] | None) -> bytes:
        return encode_picture(pixels, "jpeg", 90, written)

    return {
        "milliseconds": clocked(lambda: encode(parameters)) - clocked(lambda: encode(None)),
        "bytes": len(encode(parameters)) - len(encode(None)),
    }


def c2pa_cost(image: Image.Image) -> dict[str, Any]:
    """Return the cost of a signature without a time stamp in a JPEG, and a validator's findings."""
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
    """Return the cost of the watermark, and the share of its bits that survives each change."""
    marked = embed(image)
    return {
        "milliseconds": clocked(lambda: embed(image)),
        "milliseconds to read": clocked(lambda: read_bits(marked)),
        "psnr": psnr(image, marked),
        "read right": {name: read_bits(fate(marked)) for name, fate in FATES.items()},
        "read right in an unmarked picture": read_bits(image),
    }


def mean(findings: Sequence[Any]) -> Any:
    """Return the mean of numbers, or of dicts by name; equal values of other types stay as one."""
    if isinstance(findings[0], dict):
        return {name: mean([finding[name] for finding in findings]) for name in findings[0]}
    if isinstance(findings[0], int | float) and not isinstance(findings[0], bool):
        return round(float(np.mean(findings)), 3)
    return findings[0] if all(finding == findings[0] for finding in findings) else list(findings)


def main() -> None:
    """Measure every mark on every image, and print the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, help="PNG files from this service")
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
    # Only the parameters have a bar, because the service writes them into every image.
    cost = means.pop("parameters")
    passed = cost["milliseconds"] < BAR["milliseconds"] and cost["bytes"] < BAR["bytes"]
    finish(cost, BAR, passed, pictures=len(findings), others=means)


if __name__ == "__main__":
    main()
