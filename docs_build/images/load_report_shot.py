"""Screenshot of a load report for the documentation: the scenario burst, in headless Chromium.

python -m docs_build.images.load_report_shot [--url URL] [--output docs/img/load-report.jpg]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from testing.server import ROOT, running_service

SIZE = 1280, 1950
"""Width and height in pixels; the height ends above the tables."""
_QUALITY = 70
_OPTIONS = ["--scenario", "burst", "--warmup", "5s", "--expect", "patient:p95<10",
            "--expect", "errors<20%", "--expect", "in a hurry:max<5.5"]  # fmt: skip
_MISSED = 1


def photograph(report: Path, picture: Path) -> None:
    """Save a screenshot of a report's plots as a JPEG.

    Args:
        report: an HTML file.
        picture: path of the JPEG file to write.

    Raises:
        RuntimeError: Chromium is not installed.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        raise RuntimeError("Chromium is needed (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light"
        )
        page.goto(report.resolve().as_uri())
        page.screenshot(path=picture, type="jpeg", quality=_QUALITY)
        browser.close()


def main() -> None:
    """Run the load and save a screenshot of its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service; without it a fresh one is started")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "img" / "load-report.jpg")
    options = parser.parse_args()
    with running_service(options.url) as url, tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "load.html")
        command = [sys.executable, "-m", "experimance", "load", "--url", url, *_OPTIONS]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
        done = subprocess.run([*command, "--html", str(report)], env=environment, check=False)
        # A missed expectation is part of the intended report.
        if done.returncode not in {0, _MISSED}:
            sys.exit(done.returncode)
        photograph(report, options.output)
    print(f"{options.output}: {options.output.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
