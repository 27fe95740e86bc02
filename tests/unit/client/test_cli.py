"""The command line's parts: names, options, messages, depth files that change, sheets."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from experimance import errors
from experimance.cli import app
from experimance.cli import output_paths as naming
from experimance.cli.commands.redo import compare_images, request_from_image
from experimance.cli.contact_sheet import axis, contact_sheet
from experimance.cli.errors import CommandFailed, describe_error
from experimance.cli.file_watcher import DepthFile
from experimance.cli.inputs import depth_files, resolve_depth_inputs
from experimance.cli.options import GenerationOptions, expand_option_groups
from experimance.cli.terminal_image import TerminalPicture, detect_protocol
from experimance.results import Picture
from tests.support.client_service import picture_file

VALUES = {"stem": "hill", "era": "ruins", "model": "base", "seed": "7", "ext": "png"}


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (None, "hill-ruins-7.png"),
        ("out/", "out/hill-ruins-7.png"),
        ("out/{model}/{stem}_{seed}.{ext}", "out/base/hill_7.png"),
        ("terrain", "terrain.png"),
        ("v1.5-{seed}", "v1.5-7.png"),
        ("terrain.png", "terrain.png"),
        ("{{}}.png", "{}.png"),
    ],
)
def test_names(output: str | None, path: str) -> None:
    assert naming.output_path(output, VALUES) == Path(path)


@pytest.mark.parametrize("output", ["{", "{}.png", "{seed:09}", "{seed!r}", "{stem.__class__}"])
def test_invalid_templates_are_rejected(output: str) -> None:
    with pytest.raises(typer.BadParameter, match="its fields are"):
        naming.output_path(output, VALUES)


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    there, new = tmp_path / "a.png", tmp_path / "b.png"
    there.touch()
    naming.reject_existing([new], overwrite=False)
    naming.reject_existing([there], overwrite=True)
    with pytest.raises(CommandFailed, match=r"a\.png exists"):
        naming.reject_existing([new, there], overwrite=False)
    with pytest.raises(typer.BadParameter, match="several images"):
        naming.reject_existing([new, new], overwrite=True)


def test_unset_options_are_not_sent() -> None:
    assert GenerationOptions().fields() == {}


def test_zeros_and_a_switch_that_is_off_are_sent() -> None:
    painting = GenerationOptions(
        seed=0, strength=0.0, cfg=0.0, karras=False, lora=["drone=0.5", "sand"], estimator="tiny"
    )
    assert painting.fields() == {
        "seed": 0,
        "strength": 0.0,
        "cfg": 0.0,
        "use_karras_sigmas": False,
        "depth_estimator": "tiny",
        "loras": [{"name": "drone", "strength": 0.5}, {"name": "sand", "strength": 1.0}],
    }
    with pytest.raises(typer.BadParameter, match="NAME=STRENGTH"):
        GenerationOptions(lora=["drone=much"]).fields()


def test_options_of_a_group_become_the_commands_own() -> None:
    @dataclass
    class Group:
        depth: Annotated[int, typer.Option(help="How deep.")] = 3
        name: Annotated[str | None, typer.Option()] = None

    seen: list[tuple[str, Group]] = []

    def command(first: str, *, group: Group) -> None:
        """Say it."""
        seen.append((first, group))

    command.__annotations__ = {"first": str, "group": Group, "return": None}
    made = typer.Typer()
    made.command()(expand_option_groups(command))
    assert CliRunner().invoke(made, ["a", "--depth", "5"]).exit_code == 0
    assert seen == [("a", Group(5, None))]
    shown = CliRunner().invoke(made, ["--help"]).output
    assert "How deep." in shown
    assert "Say it." in shown


def test_folders_give_their_pictures(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.tif", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in depth_files([tmp_path])] == ["a.tif", "b.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandFailed, match="contains no images"):
        depth_files([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError):
        depth_files([tmp_path / "none.png"])


def test_depth_input_is_one_of_files_mock_or_path() -> None:
    path = Path("a.png")
    assert resolve_depth_inputs([path], False, None) == [path]
    assert resolve_depth_inputs([], True, None) == ["mock"]
    assert resolve_depth_inputs([], False, path) == [None]
    for files, mock in (([path], True), ([], False)):
        with pytest.raises(typer.BadParameter):
            resolve_depth_inputs(files, mock, None)


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (errors.ConnectionFailed("http://x: refused"), "not reachable at http://x", "make serve"),
        (errors.Unauthorized("a token", code="unauthorized"), "a token", "API_TOKEN"),
        (errors.Internal("bad", code="internal", request_id="r1"), "r1", ""),
        (errors.TimedOut("no answer within 3 s"), "within 3 s", "--timeout"),
        (errors.Overloaded("full", code="overloaded"), "full", "--retries"),
        (errors.UnexpectedAnswer("a page"), "a page", "--url"),
        (FileNotFoundError(2, "No such file", "a.png"), "a.png: No such file", ""),
        (OSError("odd"), "odd", ""),
    ],
)
def test_messages(error: Any, message: str, hint: str) -> None:
    said, advice = describe_error(error)
    assert message in said
    assert hint in advice


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-kitty", "TMUX": "1"}, "blocks"),
        ({}, "blocks"),
    ],
)
def test_how_a_terminal_shows_pictures(environment: dict[str, str], protocol: str) -> None:
    console = Console(force_terminal=True, color_system="truecolor", width=80, no_color=False)
    assert detect_protocol(console, environment) == protocol


def test_unsuitable_terminals_show_no_images() -> None:
    options: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor", "width": 80}
    for changed in (
        {"force_terminal": False}, {"no_color": True}, {"width": 20}, {"color_system": "standard"},
    ):  # fmt: skip
        assert detect_protocol(Console(**(options | changed)), {}) is None


def shown(image: Image.Image, protocol: Any, height: int = 40) -> str:
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=60, height=height,
        legacy_windows=False, _environ={},
    )  # fmt: skip
    console.print(TerminalPicture(image, protocol), end="")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_two_pixels_a_character() -> None:
    image = Image.new("RGB", (48, 48))
    image.paste((255, 0, 0), (0, 0, 48, 1))
    first, *others = shown(image, "blocks").splitlines()
    assert len(others) == 23
    assert first.count("▀") == 48
    assert "38;2;255;0;0" in first
    assert "48;2;0;0;0" in first
    assert "255" not in others[0]
    # It never is higher than the window.
    assert len(shown(image, "blocks", height=16).splitlines()) == 12


@pytest.mark.parametrize(("protocol", "begin"), [("kitty", "\x1b_Ga=T"), ("iterm2", "\x1b]1337;")])
def test_terminal_image_occupies_its_lines(protocol: str, begin: str) -> None:
    written = shown(Image.effect_noise((300, 300), 99), protocol)
    assert written.startswith("\x1b7" + begin)
    assert written.count("\n") == 24
    if protocol == "kitty":
        chunks = written.split("\x1b_G")[1:]
        assert len(chunks) > 1
        assert all("m=1;" in chunk for chunk in chunks[:-1])
        assert "m=0;" in chunks[-1]


def test_a_depth_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    file = DepthFile(path)
    assert file.read_if_changed() is None
    red, blue = picture_file("red"), picture_file("blue")
    path.write_bytes(red)
    assert file.read_if_changed() == red
    assert file.read_if_changed() is None
    # Half of it is there.
    for half in (b"", blue[:20], blue[:48]):
        path.write_bytes(half)
        assert file.read_if_changed() is None
        assert file.damaged
    path.write_bytes(blue)
    assert file.read_if_changed() == blue
    assert not file.damaged
    # Written anew, and the same.
    path.write_bytes(blue)
    assert file.read_if_changed() is None
    # Another file is renamed over it.
    (tmp_path / "next.png").write_bytes(red)
    (tmp_path / "next.png").replace(path)
    assert file.read_if_changed() == red
    path.unlink()
    assert file.read_if_changed() is None


def test_file_changed_during_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "depth.png"
    path.write_bytes(picture_file("red"))
    read: Callable[[Path], bytes] = Path.read_bytes

    def read_late(self: Path) -> bytes:
        content = read(self)
        self.write_bytes(picture_file("blue") + b"more")
        return content

    file = DepthFile(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_late)
        assert file.read_if_changed() is None
    assert file.read_if_changed() == picture_file("blue") + b"more"


def fail_if_called() -> Any:
    raise AssertionError("the service is not asked")


def test_axes() -> None:
    seeds = axis("seed=1, 2", "--rows", fail_if_called)
    assert (seeds.field, seeds.values, seeds.labels()) == ("seed", (1, 2), ["seed 1", "seed 2"])
    strengths = axis("controlnet-strength=0.5,1", "--rows", fail_if_called)
    assert strengths.labels() == ["controlnet strength 0.5", "controlnet strength 1"]
    assert axis("era=ruins", "--rows", fail_if_called).labels() == ["ruins"]
    for wrong in ("mood=1", "seed", "seed=x", "seed=1.5"):
        with pytest.raises(typer.BadParameter):
            axis(wrong, "--rows", fail_if_called)


def test_a_sheet_holds_every_picture() -> None:
    colours = [["red", "lime"], ["blue", "yellow"]]
    cells = [[Image.new("RGB", (64, 32), colour) for colour in row] for row in colours]
    sheet = contact_sheet(cells, ["one", "two"], ["a", "b"], "a title " * 20, 32)
    counts = {colour: count for count, colour in sheet.getcolors(100_000) or []}
    for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)):
        assert counts[rgb] == 32 * 16
    # The labels have been drawn.
    assert len(counts) > 20


def make_picture(colour: str, **parameters: Any) -> Picture:
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", str({"prompt": "x", **parameters}).replace("'", '"'))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG", pnginfo=chunks)
    return Picture((buffer.getvalue(),), 1, "m", "r", 0.1, {})


def test_how_pictures_differ() -> None:
    then = {"prompt": "x", "software": "s 1"}
    red = Image.new("RGB", (8, 8), "red")
    same = compare_images(red, then, make_picture("red", software="s 1"))
    assert same.identical
    assert same.sentence() == "identical, bit for bit"
    other = compare_images(red, then, make_picture("#fc0000", software="s 2"))
    assert (other.identical, other.largest, other.share) == (False, 3, 1.0)
    assert other.reasons == {"software": ("s 1", "s 2")}
    assert "software was s 1 and is s 2" in other.sentence()
    smaller = compare_images(Image.new("RGB", (4, 4)), then, make_picture("red", software="s 1"))
    assert "differs in size" in smaller.sentence()


def test_redo_without_inputs_names_the_missing_option(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    told = {"prompt": "x", "seed": 1, "depth_sha256": "0" * 64, "mock_depth": False}
    with pytest.raises(CommandFailed, match="--depth"):
        request_from_image(image, told, None, None)
    path = tmp_path / "d.png"
    path.write_bytes(picture_file())
    with pytest.raises(CommandFailed, match="is not the file"):
        request_from_image(image, told, path, None)
    with pytest.raises(CommandFailed, match="--image"):
        request_from_image(image, told | {"depth_sha256": "", "strength": 0.5}, None, None)
    mock = request_from_image(image, told | {"mock_depth": True, "software": "s"}, None, None)
    assert mock == {"prompt": "x", "seed": 1, "depth": "mock"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"], ["generate", "--mock-depth", "x.png"], ["generate", "--mock-depth"],
        ["watch", "d.png", "out.gif"], ["watch", "d.png", "./d.png"], ["compare", "--mock-depth"],
        ["compare", "--mock-depth", "-r", "seed=1", "-c", "seed=2"], ["unload"], ["paint"],
        ["generate", "--mock-depth", "-p", "x", "--seed", "-1"], ["health", "--timeout", "0"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_usage_errors_end_with_two(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.png").touch()
    outcome = CliRunner().invoke(app, arguments, env={"MODEL_SERVER_URL": "http://127.0.0.1:1"})
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stdout == ""
