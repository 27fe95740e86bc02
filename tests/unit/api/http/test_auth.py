"""Tokens: several, from files that change, and the operator's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from api.http.auth import Access, TokenSet, owned
from common.settings import Settings, SettingsError


def access(**settings: Any) -> Access:
    return Access(Settings(**settings))


def bearer(token: str) -> Headers:
    return Headers({"authorization": f"Bearer {token}"})


NOBODY = Headers({})
ROUTES = (
    "/generate", "/generate_stream", "/estimate_depth", "/models", "/cancel", "/docs.json",
    "/metrics", "/x",
)  # fmt: skip


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthcheck"])
def test_health_requires_no_token(path: str) -> None:
    assert access(api_token="a", admin_token="b").allows(path, NOBODY)


@pytest.mark.parametrize("path", [*ROUTES, "/preload", "/unload"])
def test_any_of_several_tokens_opens_everything_else(path: str) -> None:
    guarded = access(api_token="one, two,")
    assert guarded.allows(path, bearer("one"))
    assert guarded.allows(path, bearer("two"))
    for wrong in ("", "three", "one, two", "on", "onee"):
        assert not guarded.allows(path, bearer(wrong))
    assert not guarded.allows(path, NOBODY)
    assert not guarded.allows(path, Headers({"authorization": "Basic one"}))


@pytest.mark.parametrize("path", ["/playground", "/playground/", "/playground/app.js"])
def test_playground_is_public_but_similar_paths_are_not(path: str) -> None:
    guarded = access(api_token="a", admin_token="b")
    assert guarded.allows(path, NOBODY)
    assert not guarded.allows("/playgrounds", NOBODY)
    assert not guarded.allows(f"/x{path}", NOBODY)


@pytest.mark.parametrize("setting", ["api_token", "admin_token"])
@pytest.mark.parametrize("blank", [",", " ", " , ,", "\t"])
def test_a_blank_token_stops_the_start(setting: str, blank: str) -> None:
    with pytest.raises(SettingsError, match=f"{setting.upper()}: is blank"):
        access(**{setting: blank})


def test_without_tokens_all_is_open() -> None:
    assert access().allows("/preload", NOBODY)
    assert access().is_admin(NOBODY)


@pytest.mark.parametrize("callers", [None, "caller"])
def test_management_can_require_separate_tokens(callers: str | None) -> None:
    guarded = access(api_token=callers, admin_token="operator")
    caller = bearer(callers) if callers else NOBODY
    for path in ("/preload", "/unload"):
        assert not guarded.allows(path, caller)
        assert guarded.allows(path, bearer("operator"))
    assert guarded.allows("/generate", caller)
    assert guarded.allows("/generate", bearer("operator"))
    assert guarded.is_admin(bearer("operator"))
    assert not guarded.is_admin(caller)


def test_tokens_in_a_file_change_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("old\n\n  second \n")
    guarded = access(api_token="fixed", api_token_file=file)
    assert all(guarded.allows("/generate", bearer(each)) for each in ("fixed", "old", "second"))
    file.write_text("new\n")
    os.utime(file, ns=(1, 1))
    assert guarded.allows("/generate", bearer("new"))
    assert not guarded.allows("/generate", bearer("old"))
    file.unlink()
    assert guarded.allows("/generate", bearer("new"))
    assert not guarded.allows("/generate", NOBODY)
    # An emptied file takes every token away; it does not open the door.
    file.write_text("")
    assert not guarded.allows("/generate", bearer("new"))
    assert not guarded.allows("/generate", bearer(""))
    assert guarded.allows("/generate", bearer("fixed"))


@pytest.mark.parametrize("content", [None, "\n \n"])
def test_a_file_without_tokens_stops_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match="ADMIN_TOKEN_FILE: "):
        TokenSet("ADMIN_TOKEN", SecretStr("x"), file)


def test_owners_are_distinguished_by_tokens() -> None:
    guarded = access(api_token="one,two", admin_token="boss")
    owners = [guarded.owner(bearer(token)) for token in ("one", "two", "boss")]
    assert len(set(owners)) == 3
    assert guarded.owner(bearer("one")) == owners[0]
    assert not [owner for owner in owners if "one" in owner or "two" in owner]
    assert access().owner(bearer("one")) == access().owner(NOBODY) == ""
    assert owned("table", owners[0]) != owned("table", owners[1])
    assert owned("table", "") == "table"
    assert owned(None, owners[0]) is None
