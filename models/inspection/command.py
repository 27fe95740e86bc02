"""The command `python -m models inspect`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from models.catalog.schema import FILE_SUFFIXES, Catalog
from models.inspection.inspect_file import inspect_file
from models.inspection.target import PUBLISHED, Target

_REMOTE = ("hf:", "gs:", "https:", "http:")
UNUSABLE, USAGE_ERROR = 1, 2


def run_inspect(options: argparse.Namespace, catalog: Catalog | None) -> int:
    """Print a report on each file and return the exit status.

    Args:
        options: parsed arguments: `files`, and `json` for JSON instead of text.
        catalog: catalog whose stored variants the files must fit; None for published SDXL.

    Returns:
        0 if all files can be used, 1 if one cannot, 2 if a path is wrong.
    """
    paths: list[Path] = []
    for text in options.files:
        found = list(_weight_files(text))
        if not found:
            print(f"error: {_explain_nothing(text)}", file=sys.stderr)
            return USAGE_ERROR
        paths += found
    targets = _targets(catalog)
    reports = []
    for path in paths:
        try:
            report = inspect_file(path, targets)
        except OSError as error:
            print(f"error: {path.name}: {error.strerror}", file=sys.stderr)
            return USAGE_ERROR
        reports.append(report)
        if not options.json:
            print(report.as_text(), end="\n\n" if len(reports) < len(paths) else "\n")
    if options.json:
        print(json.dumps([report.as_json() for report in reports], indent=2, ensure_ascii=True))
    return 0 if all(report.is_usable for report in reports) else UNUSABLE


def _weight_files(text: str) -> Iterator[Path]:
    path = Path(text)
    if path.is_dir():
        yield from sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and file.suffix.lower() in FILE_SUFFIXES
        )
    elif path.is_file():
        yield path


def _explain_nothing(text: str) -> str:
    if text.startswith(_REMOTE):
        return f"{text}: inspect reads files of this machine; download the file first"
    if Path(text).is_dir():
        return f"{text}: the folder has no weight files"
    return f"{text} does not exist"


def _targets(catalog: Catalog | None) -> list[Target]:
    if catalog is None:
        return [PUBLISHED]
    # The store's library takes a second to import, and files are mostly compared with SDXL.
    from models.conversion.checkpoint import CHECKPOINT_PARTS
    from models.conversion.config import CONFIG_NAME
    from models.store.store import get_entry

    stored = []
    for name, spec in catalog.models.items():
        entry = get_entry(catalog, "models", name)
        if entry is None:
            continue
        configs = {part: entry.components[part].path / CONFIG_NAME for part in CHECKPOINT_PARTS}
        source = PUBLISHED.source if spec.is_checkpoint else spec.source
        stored.append(Target(f"model {name}", configs, source, spec.native_size))
    return stored or [PUBLISHED]
