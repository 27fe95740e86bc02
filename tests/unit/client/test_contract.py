"""The client's copy of the wire contract, compared with the service's code."""

from __future__ import annotations

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.errors import CODES_BY_STATUS
from api.handlers.job_parameters import build_job_parameters
from api.http.middleware import ApiMiddleware
from api.schemas.requests import GenerateRequest
from experimance import AsyncClient, errors
from experimance.cli.commands.redo import FIELDS, NOT_FIELDS, request_fields
from experimance.cli.options import GenerationOptions
from experimance.image_metadata import DEPTH_CHUNK, INIT_IMAGE_CHUNK
from experimance.request_fields import Fields
from runners.engine import image_encoding as encode
from tests.support.client_service import painted
from tests.support.runner.resolved_jobs import resolved

# Fields that the client has arguments of its own for, and one of older clients.
ARGUMENTS = {"prompt", "depth_map_b64", "mock_depth", "image_b64", "use_jpeg"}


async def generate(request: Request) -> Response:
    assert await request.json()
    return JSONResponse(painted())


async def test_the_token_opens_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "right")
    app = ApiMiddleware(Starlette(routes=[Route("/generate", generate, methods=["POST"])]))
    transport = httpx2.ASGITransport(app)
    async with AsyncClient("http://localhost", token="right", transport=transport) as client:
        assert (await client.generate("hills", "mock")).seed == 7
    for token in (None, "wrong"):
        async with AsyncClient("http://localhost", token=token, transport=transport) as client:
            with pytest.raises(errors.Unauthorized, match="bearer token") as raised:
                await client.generate("hills", "mock")
            assert raised.value.request_id


@pytest.mark.parametrize(
    ("status", "code"),
    [(status, code) for status, codes in CODES_BY_STATUS.items() for code in codes],
)
def test_every_error_has_its_class(status: int, code: str) -> None:
    kind = errors.error_class(code, status)
    if status not in {405, 415}:
        # As an event it comes without its status.
        assert errors.error_class(code, None) is kind is not errors.ApiError
        assert kind.status == status


def test_every_field_has_a_type() -> None:
    assert Fields.__annotations__.keys() == GenerateRequest.model_fields.keys() - ARGUMENTS


def test_every_option_is_a_field() -> None:
    options = GenerationOptions(
        **dict.fromkeys(GenerationOptions.__dataclass_fields__, 1) | {"lora": ["drone"]}
    )
    assert options.fields().keys() <= Fields.__annotations__.keys()


def test_parameters_of_a_picture_are_fields_again() -> None:
    request = GenerateRequest(prompt="hills", mock_depth=True)
    about = resolved()
    written = build_job_parameters(request, about, about.job, "", "")
    assert written.keys() - GenerateRequest.model_fields.keys() == NOT_FIELDS
    assert written.keys() - NOT_FIELDS <= FIELDS
    assert request_fields(written).keys() == written.keys() - NOT_FIELDS
    assert {DEPTH_CHUNK, INIT_IMAGE_CHUNK} == {encode.DEPTH_CHUNK, encode.INIT_IMAGE_CHUNK}
