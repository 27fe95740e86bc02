"""The error tree and the contract's table of codes agree."""

from __future__ import annotations

import json
import tomllib

import pytest

from api.errors import CODES_BY_STATUS, ApiError, Internal, from_failure, from_status
from common import __version__
from common.protocol import JobFailed
from testing.server import ROOT


@pytest.mark.parametrize("status", CODES_BY_STATUS)
def test_every_status_has_its_error(status: int) -> None:
    error = from_status(status)
    assert error.status == status
    assert error.code in CODES_BY_STATUS[status]
    body = json.loads(error.response("id").body)
    assert (body["error"], body["request_id"], body["success"]) == (error.code, "id", False)


@pytest.mark.parametrize(
    ("code", "status"),
    [(code, status) for status, codes in CODES_BY_STATUS.items() for code in codes],
)
def test_runner_error_codes_keep_their_status(code: str, status: int) -> None:
    error = from_failure(JobFailed(code, "message"))
    assert error.status in {status, 500}
    if error.status == 500:
        assert error.code == "internal"


def test_unknown_statuses_map_to_generic_errors() -> None:
    assert isinstance(from_status(502), Internal)
    assert from_status(418).status == 400


def test_every_error_is_one_of_the_tree() -> None:
    def leaves(kind: type[ApiError]) -> set[type[ApiError]]:
        return {kind}.union(*(leaves(child) for child in kind.__subclasses__()))

    for kind in leaves(ApiError) - {ApiError}:
        assert kind.code in CODES_BY_STATUS[kind.status] or kind.__name__ == "UnknownName"


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
