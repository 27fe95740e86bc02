"""A software bill of materials (SBOM) of an image: its packages and its weights.

    python -m deploy.supply.sbom [--catalog NAME] [--output FILE]

CycloneDX 1.6 in JSON. Packages have the hashes of requirements.lock, weights those of the catalog's
lock file; both have their licences.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from common import __version__
from deploy.setup.lockfile import SERVING, entries, pinned
from models.catalog import Catalog, load_catalog
from models.catalog.schema import SECTIONS, Section
from models.conversion.components import ComponentSpec, component_specs, select_files
from models.sources.base import SourceError
from models.sources.lockfile import Lockfile


def build_sbom(catalog: Catalog) -> str:
    """Return the CycloneDX document; it is deterministic for a given lock and catalog.

    Raises:
        PinError: The catalog's lock file is unreadable.
    """
    service = Component(
        type=ComponentType.APPLICATION,
        bom_ref="experimance-controlnet",
        name="experimance-controlnet",
        version=__version__,
        description=f"With the weights of catalog {catalog.name}",
        licenses=_licences(["Apache-2.0"]),
    )
    lock = SERVING.read_text(encoding="utf-8")
    packages = [_package(name, lines) for name, lines in entries(lock)]
    pins = Lockfile.for_catalog(catalog.file)
    weights = [
        _weights(catalog, pins, section, name)
        for section in SECTIONS
        for name in getattr(catalog, section)
    ]
    bom = Bom(
        serial_number=uuid.UUID(int=0),
        metadata=BomMetaData(component=service),
        components=[*packages, *weights],
    )
    # The library cannot be told to omit the time of day.
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.register_dependency(service, bom.components)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, JsonV1Dot6(bom).output_as_string())
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _package(name: str, lines: str) -> Component:
    version, hashes = pinned(lines)
    purl = PackageURL("pypi", name=name, version=version)
    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        name=name,
        version=version,
        purl=purl,
        licenses=_licences(_declared_licences(name)),
        external_references=[_distribution(str(purl), hashes)],
    )


def _declared_licences(package: str) -> list[str]:
    """Return the licences of an installed package; none if it is not installed or has none."""
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return []
    # PEP 639: an expression replaces the older fields. Some packages put a whole text in License.
    stated = [
        text.strip()
        for field in ("License-Expression", "License")
        for text in about.get_all(field, [])
        if len(text.splitlines()) == 1
    ]
    classifiers = about.get_all("Classifier", [])
    return stated[:1] or [
        text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")
    ]


def _weights(catalog: Catalog, pins: Lockfile, section: Section, name: str) -> Component:
    spec = getattr(catalog, section)[name]
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    for part in component_specs(catalog, section, name):
        hashes[part.source].update(_pinned_hashes(part, pins, catalog.dtype))
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"{section}/{name}",
        name=name,
        description=spec.description,
        licenses=_licences([spec.licence]),
        external_references=[_distribution(source, hashes[source]) for source in hashes],
    )


def _pinned_hashes(part: ComponentSpec, pins: Lockfile, dtype: str | None) -> Iterator[str]:
    files = pins.digests(part.source)
    try:
        names = select_files(part, files, dtype)
    except SourceError:
        # The source was not imported yet, or not completely.
        return
    for name in names:
        yield files[name].sha256


def _licences(texts: Iterable[str]) -> list[License]:
    factory = LicenseFactory()
    declared = LicenseAcknowledgement.DECLARED
    return [factory.make_from_string(text, license_acknowledgement=declared) for text in texts]


def _distribution(address: str, sha256s: Iterable[str]) -> ExternalReference:
    """Return a reference to files' origin with the hash of each, as cyclonedx-py writes it."""
    return ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(address),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in sha256s],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.supply.sbom", description=__doc__)
    parser.add_argument("--catalog", default="demo")
    parser.add_argument("--output", type=Path, default=None, help="a file; else stdout")
    options = parser.parse_args(arguments)
    text = build_sbom(load_catalog(options.catalog))
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
