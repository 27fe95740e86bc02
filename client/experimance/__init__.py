"""Python client of experimance-controlnet: aerial images from depth maps and prompts.

Example:
    from experimance import Client

    with Client("http://127.0.0.1:3000") as client:
        client.generate("aerial photography, untouched wilderness", "depth.png").save("terrain.jpg")

`AsyncClient` has the same methods as coroutines. The exceptions are in `experimance.errors`.
"""

from experimance.async_client import AsyncClient
from experimance.client import Client
from experimance.errors import ApiError, ConnectionFailed, ExperimanceError, StreamEnded, TimedOut
from experimance.events import Done, Event, Queued, Started, Step
from experimance.results import DepthMap, Picture
from experimance.serverless import AsyncServerlessClient, ServerlessClient
from experimance.status import Health, Loaded, ModelsInfo
from experimance.version import __version__

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncServerlessClient",
    "Client",
    "ConnectionFailed",
    "DepthMap",
    "Done",
    "Event",
    "ExperimanceError",
    "Health",
    "Loaded",
    "ModelsInfo",
    "Picture",
    "Queued",
    "ServerlessClient",
    "Started",
    "Step",
    "StreamEnded",
    "TimedOut",
    "__version__",
]
