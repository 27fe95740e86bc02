"""Untrusted text from servers and images, displayed but never interpreted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from rich.markup import escape
from rich.table import Table

from experimance.cli.commands.redo import request_fields, request_from_image
from experimance.cli.commands.show import open_with_parameters as open_with_parameters
from experimance.cli.console import SafeConsole, printable
from experimance.cli.errors import CommandFailed
from experimance.cli.terminal_image import TerminalPicture
from experimance.image_metadata import read_parameters
from experimance.results import FORMATS, decode_image, file_suffix, write_atomic

ESCAPES = [
    "\x1b]0;title\x07",
    "\x1b]52;c;ZWNobw==\x07",
    "\x1b[2J\x1b[1;1H",
    "\x9b2J",
    "a\rb",
    "\x08\x7f",
    "\u202egnp.exe",
]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) print\n%%EOF\n"


def render(*renderables: Any, markup: bool = False) -> str:
    screen = io.StringIO()
    console = SafeConsole(
        file=screen, markup=markup, emoji=False, force_terminal=True, color_system=None, width=200
    )
    console.print(*renderables)
    return screen.getvalue()


@pytest.mark.parametrize("text", ESCAPES)
def test_control_characters_are_replaced_wherever_they_stand(text: str) -> None:
    table = Table("name", title=text)
    table.add_row(text)
    for output in (render(text), render(table), render(escape(text), markup=True)):
        assert not set(output) & set("\x1b\x07\x08\x0d\x7f\x9b\u202e"), repr(output)
    assert "\ufffd" in printable(text)
    assert printable("hills\tand\nvalleys, Täler 山") == "hills\tand\nvalleys, Täler 山"


def test_console_styles_and_images_are_kept() -> None:
    screen = io.StringIO()
    console = SafeConsole(file=screen, force_terminal=True, color_system="truecolor")
    console.print("red", style="red")
    console.print(TerminalPicture(Image.new("RGB", (8, 8), "green"), "kitty"))
    assert "\x1b[31mred" in screen.getvalue()
    assert "\x1b_G" in screen.getvalue()


def test_brackets_are_text() -> None:
    table = Table("[bold]x[/bold]")
    table.add_row("[link=https://evil.example]click[/link]")
    assert "[bold]x[/bold]" in render(table)
    assert "[link=https://evil.example]click[/link]" in render(table)


def test_only_formats_of_the_service_are_opened(tmp_path: Path) -> None:
    """An EPS would be run by Ghostscript, where that is installed."""
    for read in (decode_image, file_suffix, lambda data: write_atomic(tmp_path / "x.png", data)):
        with pytest.raises(UnidentifiedImageError):
            read(EPS)
    file = tmp_path / "picture.png"
    file.write_bytes(EPS)
    with pytest.raises(CommandFailed, match="not an image"):
        open_with_parameters(file)
    assert set(FORMATS) == {"PNG", "JPEG", "WEBP"}


@pytest.mark.parametrize("name", ["depth", "image", "prompt_file", "url", "__class__", "session"])
def test_a_picture_cannot_name_files_to_send(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    parameters = {"prompt": "hills", "mock_depth": True, name: str(secret)}
    fields = request_from_image(Image.new("L", (8, 8)), parameters, None, None)
    assert fields == {"prompt": "hills", "depth": "mock"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", ["hills"]),
        ("steps", "6"),
        ("steps", True),
        ("steps", 6.5),
        ("cfg", "2"),
        ("mock_depth", "yes"),
        ("output_format", "eps"),
        ("loras", {"drone": 0.8}),
        ("loras", [{"name": 1, "strength": 0.8}]),
        ("loras", [{"name": "drone", "path": "/etc/passwd"}]),
        ("loras", ["drone"]),
        ("negative_prompt", {"a": 1}),
    ],
)
def test_a_parameter_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(CommandFailed, match=f"parameter {name} has a value of the wrong type"):
        request_fields({"prompt": "hills", name: value})


def test_valid_request_parameters_are_accepted() -> None:
    parameters = {
        "prompt": "hills",
        "negative_prompt": None,
        "steps": 6,
        "cfg": 2,
        "controlnet_strength": 0.8,
        "loras": [{"name": "drone", "strength": 0.8}, {"name": "experimance"}],
        "use_karras_sigmas": False,
        "output_format": "png",
    }
    assert request_fields(parameters) == parameters


def test_deeply_nested_parameters_are_ignored() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}")
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG", pnginfo=text)
    with Image.open(io.BytesIO(file.getvalue())) as picture:
        assert read_parameters(picture) is None
