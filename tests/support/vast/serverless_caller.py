"""Asks an endpoint for pictures, in an environment that has vast.ai's package.

python serverless_caller.py PLATFORM PICTURE        prints what it got, as JSON
"""

from __future__ import annotations

import json
import sys
from typing import Any

import PIL
from vastai import CoroutineServerless

from experimance import Client, Done, ServerlessClient, errors


def main(platform: str, picture: str) -> None:
    """Paint, hear a stream, leave one, and be refused."""
    CoroutineServerless.SSL_CERT_URL = f"{platform}/certificate"
    addresses = {"webserver_url": platform, "autoscaler_url": platform}
    told: dict[str, Any] = {"pillow": PIL.__version__}
    fields: dict[str, Any] = {"prompt": "hills", "depth": "mock", "steps": 2, "seed": 5}
    vast = CoroutineServerless("key", **addresses)
    with ServerlessClient("terrain", timeout=600, platform=vast) as client:
        client.generate(**fields, output_format="png").save(picture)
        heard = list(client.stream(**fields))
        told["events"] = [type(event).__name__ for event in heard]
        assert isinstance(heard[-1], Done)
        told["seed"] = heard[-1].picture.seed
        next(client.stream(**fields | {"steps": 50, "model": "base", "width": 512}))
        try:
            client.generate(**fields, model="none")
        except errors.UnknownName as error:
            told["refused"] = error.message
    try:
        nowhere = CoroutineServerless("key", **addresses)
        with ServerlessClient("sea", timeout=600, platform=nowhere) as client:
            client.generate(**fields)
    except errors.ConnectionFailed as error:
        told["nowhere"] = str(error)
    assert Client.serverless("terrain", "key").close() is None
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
