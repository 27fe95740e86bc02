"""The playground's files: serving and references."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette

from api.http.middleware import ApiMiddleware
from api.http.playground import FOLDER, playground_routes
from api.schemas.requests import GenerateRequest

FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
CONTENTS = {path: path.read_bytes() for path in FILES}
SCRIPTS = [path for path in FILES if path.suffix == ".js"]


def label(path: Path) -> str:
    return str(path.relative_to(FOLDER))


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("API_TOKEN", "needed")
    app = ApiMiddleware(Starlette(routes=playground_routes()))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/deep/") as made:
        yield made


@pytest.mark.parametrize("path", FILES, ids=label)
async def test_every_file_is_served_without_a_token(path: Path, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"http://localhost/playground/{label(path)}")
    assert answer.status_code == 200
    assert answer.content == CONTENTS[path]
    kinds = {".js": "javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg"}
    assert kinds[path.suffix] in answer.headers["content-type"]


async def test_headers_restrict_the_page_to_its_own_resources(client: httpx.AsyncClient) -> None:
    answer = await client.get("http://localhost/playground/")
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


async def test_an_unchanged_file_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("http://localhost/playground/app.js")
    again = await client.get(
        "http://localhost/playground/app.js", headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


async def test_head_answers_without_a_body(client: httpx.AsyncClient) -> None:
    answer = await client.head("http://localhost/playground/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(CONTENTS[FOLDER / "index.html"])


async def test_the_folder_is_reached_behind_a_prefix_too(client: httpx.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        answer = await client.request(method, "http://localhost/playground?kiosk=1&era=ruins")
        assert answer.status_code == 307
        assert answer.headers["location"] == "playground/?kiosk=1&era=ruins"


@pytest.mark.parametrize(
    "path",
    [
        "absent.js", "css", "css/", "..%2fservice.py", "%2e%2e/service.py", "..%2fgenerate",
        "css/..%2f..%2fservice.py", "/etc/passwd", "%2fetc%2fpasswd", "..%5cservice.py",
        "app.js%00", "a" * 5000,
    ],
)  # fmt: skip
async def test_other_paths_are_not_found(path: str, client: httpx.AsyncClient) -> None:
    request = client.build_request("GET", "http://localhost/")
    request.url = request.url.copy_with(raw_path=f"/playground/{path}".encode())
    answer = await client.send(request)
    assert answer.status_code == 404, answer.text
    assert answer.json()["error"] == "not_found"


async def test_nothing_is_written_to_the_page(client: httpx.AsyncClient) -> None:
    answer = await client.post("http://localhost/playground/app.js")
    assert answer.status_code == 405
    assert answer.json()["error"] == "method_not_allowed"


class Page(HTMLParser):
    """What the page refers to, and its number inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.ranges: dict[str, dict[str, float]] = {}
        self.inline: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._within = tag if tag in {"script", "style"} else ""
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "input" and given.get("type") in {"number", "range"}:
            bounds = {name: float(given[name]) for name in ("min", "max", "step") if name in given}
            self.ranges[given.get("name") or given["id"]] = bounds

    def handle_data(self, data: str) -> None:
        if self._within and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def index() -> Page:
    page = Page()
    page.feed((FOLDER / "index.html").read_text(encoding="utf-8"))
    return page


def test_page_links_only_existing_files_and_has_nothing_inline(index: Page) -> None:
    assert index.inline == []
    assert len(index.ids) == len(set(index.ids))
    icons = (FOLDER / "icons.svg").read_text(encoding="utf-8")
    for link in index.links:
        file, _, part = link.partition("#")
        assert (FOLDER / file).is_file(), link
        assert not part or f'id="{part}"' in icons, link


@pytest.mark.parametrize("path", FILES, ids=label)
def test_page_loads_no_external_resource(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)
    assert len(text.splitlines()) <= 300


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_every_imported_name_is_exported(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for names, file in re.findall(r'import \{([^}]+)\} from "([^"]+)"', text):
        source = (path.parent / file).resolve().read_text(encoding="utf-8")
        for name in names.split(","):
            defined = rf"export (async )?(const|class|function\*?) {name.strip()}\b"
            assert re.search(defined, source), (file, name)
    for name in re.findall(r'find\("#([\w-]+)', text):
        assert f'id="{name}"' in (FOLDER / "index.html").read_text(encoding="utf-8"), name


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_scripts_are_well_formed(path: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; the browser's tests load every script too")
    module = path.name != "appearance.js"
    copy = tmp_path / (f"{path.stem}.mjs" if module else f"{path.stem}.cjs")
    shutil.copy(path, copy)
    done = subprocess.run([node, "--check", str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_controls_have_the_contracts_bounds(index: Page) -> None:
    """Brush, seed and comparison are the page's own; every other number is a field."""
    fields = {n: b for n, b in index.ranges.items() if n not in {"seed", "size", "force", "split"}}
    assert {"steps", "cfg", "width", "height", "strength", "controlnet_strength"} <= fields.keys()
    for name, bounds in fields.items():
        field = GenerateRequest.model_fields[name]
        adapter: TypeAdapter[object] = TypeAdapter(Annotated[field.annotation, "", *field.metadata])
        step = bounds.get("step", 1)
        adapter.validate_python(bounds["min"])
        adapter.validate_python(bounds["max"])
        for beyond in (bounds["min"] - step, bounds["max"] + step):
            with pytest.raises(ValidationError):
                adapter.validate_python(beyond)
    assert fields["width"]["step"] == fields["height"]["step"] == 8
