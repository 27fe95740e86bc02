"""The Python client on the running service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experimance import AsyncClient, Client, Done, Picture, Queued, Started, Step, errors
from testing.server import free_port
from tests.support.calls import ENDLESS, PATIENCE, QUICK, ServiceLog
from tests.support.images.pictures import hill

TWO_STEPS: dict[str, Any] = {"steps": 2, "seed": 5}
LONG = {name: value for name, value in ENDLESS.items() if name != "mock_depth"} | {"depth": "mock"}


@pytest.fixture(scope="module")
def service(service_url: str) -> Iterator[Client]:
    with Client(service_url, timeout=PATIENCE) as made:
        yield made


@pytest.fixture
def log(service_url: str, service_log: Path) -> ServiceLog:
    return ServiceLog(service_log)


def difference(one: Picture, other: Picture) -> int:
    both = (np.asarray(picture.image, int) for picture in (one, other))
    return int(np.abs(next(both) - next(both)).max())


def test_pictures_in_and_out(service: Client) -> None:
    depth = hill(256, 256)
    pictures = [
        service.generate("hills", given, return_depth=True, output_format="png", **TWO_STEPS)
        for given in (depth, Image.fromarray(depth), depth.astype(np.uint16) * 257)
    ]
    for picture in pictures:
        assert picture.image.size == (256, 256)
        assert picture.depth is not None
        assert (np.asarray(picture.depth) == depth).all()
        assert np.asarray(picture.image).tobytes() == np.asarray(pictures[0].image).tobytes()
        assert picture.parameters["seed"] == picture.seed == 5
        assert picture.metadata["steps"] == 2


def test_a_picture_to_start_from(service: Client) -> None:
    start = Image.linear_gradient("L").convert("RGB")
    near = service.generate("hills", image=start, strength=0.02, **TWO_STEPS)
    far = service.generate("hills", image=start, strength=1.0, **TWO_STEPS)
    assert near.metadata["strength"] == 0.02

    def distance(picture: Picture) -> float:
        both = (np.asarray(each, float) for each in (picture.image.convert("RGB"), start))
        one, other = both
        return float(np.abs(one - other).mean())

    assert distance(near) < distance(far) / 2


def test_the_depth_of_a_photograph(service: Client) -> None:
    photograph = service.generate("hills", hill(256, 256), era="wilderness", **TWO_STEPS).image
    depth = service.estimate_depth(photograph)
    assert depth.estimator in service.models().depth_estimators
    assert (depth.image.mode, depth.image.size) == ("L", (256, 256))
    other = service.estimate_depth(photograph, width=264, height=512, invert_depth=True)
    assert other.image.size == (264, 512)
    upright, inverted = (np.asarray(each.image.resize((64, 64)), float) for each in (depth, other))
    assert np.corrcoef(upright.ravel(), inverted.ravel())[0, 1] < -0.9
    picture = service.generate("hills", image=photograph, return_depth=True, **TWO_STEPS)
    assert picture.metadata["depth_estimator"] == depth.estimator
    assert picture.depth is not None
    assert (np.asarray(picture.depth) == np.asarray(depth.image)).all()


def test_events(service: Client) -> None:
    heard = list(service.stream("hills", "mock", model="base", steps=6, seed=5))
    assert [type(event) for event in heard[:2]] == [Queued, Started]
    steps = [event for event in heard if isinstance(event, Step)]
    assert [event.step for event in steps] == list(range(1, 7))
    previews = [event.preview for event in steps if event.preview is not None]
    assert previews
    assert all(preview.size == (256, 256) for preview in previews)
    assert isinstance(heard[-1], Done)
    assert heard[-1].picture.seed == 5


def test_closing_a_stream_cancels_its_request(service: Client, log: ServiceLog) -> None:
    for event in service.stream(request_id="closed", **LONG):
        if isinstance(event, Step):
            break
    log.wait_for("ended", "closed")
    assert log.events("closed") == ["started", "ended"]


def test_cancel_ends_only_the_matching_request(service: Client, log: ServiceLog) -> None:
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(service.generate, request_id="table-7", **LONG)
        log.wait_for("started", "table-7")
        assert service.cancel(session="nobody") == ()
        assert service.cancel("table-7") == ("table-7",)
        with pytest.raises(errors.Cancelled):
            call.result()
    assert log.events("table-7") == ["started", "ended"]


def test_the_latest_of_a_session_wins(service: Client, log: ServiceLog) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.generate, session="table", request_id="earlier", **LONG)
        log.wait_for("started", "earlier")
        latest = service.generate("hills", "mock", session="table", **TWO_STEPS)
        with pytest.raises(errors.Superseded):
            first.result()
    assert latest.seed == 5
    assert log.events("earlier") == ["started", "ended"]


def test_a_second_try_joins_the_first(service: Client, log: ServiceLog) -> None:
    """Without a seed each picture would be another one."""
    asked: dict[str, Any] = {"model": "base", "steps": 10, "request_id": "once"}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.generate, "hills", "mock", **asked)
        log.wait_for("started", "once")
        second = pool.submit(service.generate, "hills", "mock", **asked)
    assert first.result().data == second.result().data
    log.wait_for("finished", "once")
    assert log.events("once") == ["started", "finished"]


def test_rejected_requests_raise_typed_errors(service: Client) -> None:
    with pytest.raises(errors.UnknownName, match="lightning"):
        service.generate("hills", "mock", model="none")
    with pytest.raises(errors.InvalidPicture):
        service.generate("hills", b"no picture")
    with pytest.raises(errors.InvalidRequest) as raised:
        service.generate("hills", "mock", width=1001)
    assert raised.value.detail[0].field == "width"
    with pytest.raises(errors.InvalidRequest, match="fog"):
        list(service.stream("hills", "mock", fog=1))  # type: ignore[call-arg]


def test_models_health_preload_and_unload(service: Client) -> None:
    info = service.models()
    assert info.default_model in info.models
    assert set(info.details) == set(info.models)
    assert set(info.era_prompts) == set(info.eras)
    assert "hyper" in service.preload("hyper").models
    assert "hyper" not in service.unload("hyper").models
    health = service.health()
    assert health.ready
    assert info.default_model in health.models_available


async def test_asynchronously(service_url: str, service: Client, log: ServiceLog) -> None:
    async with AsyncClient(service_url, timeout=PATIENCE) as client:
        fields: dict[str, Any] = {"prompt": QUICK["prompt"], "depth": "mock", "steps": 2}
        fields["output_format"] = "png"
        pictures = await asyncio.gather(
            *(client.generate(seed=seed, **fields) for seed in (5, 6, 5))
        )
        assert [picture.seed for picture in pictures] == [5, 6, 5]
        # In a batch, the last bit of a pixel may be rounded in another way.
        assert difference(pictures[0], pictures[2]) <= 1 < difference(pictures[0], pictures[1])
        alone = service.generate(seed=5, **fields)
        assert difference(pictures[0], alone) <= 1

        heard = [event async for event in client.stream(seed=5, **fields)]
        assert isinstance(heard[-1], Done)
        assert heard[-1].picture.data == alone.data

        async for event in client.stream(request_id="left", **LONG):
            if isinstance(event, Step):
                break
        task = asyncio.create_task(client.generate(request_id="dropped", **LONG))
        await asyncio.to_thread(log.wait_for, "started", "dropped")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for name in ("left", "dropped"):
            await asyncio.to_thread(log.wait_for, "ended", name)
            assert log.events(name) == ["started", "ended"]


def test_unreachable_service_raises_connection_failed(unused_port: int) -> None:
    with (
        Client(f"http://127.0.0.1:{unused_port}", retries=1) as client,
        pytest.raises(errors.ConnectionFailed, match=str(unused_port)),
    ):
        client.generate("hills", "mock")


@pytest.fixture
def unused_port() -> int:
    return free_port()
