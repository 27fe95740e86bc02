"""Every message between the public service and the runner, and how it becomes bytes.

The border is a unix socket; its fastest payload is plain bytes. A frame is two big-endian
uint32 lengths (header, blobs), a JSON header, and the blobs one after another.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

_LENGTHS = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class LoraWeight:
    """A LoRA by its catalog name, and how strongly it acts (0 to 4 after multiplication)."""

    name: str
    strength: float


@dataclass(frozen=True, slots=True)
class PaintJob:
    """A request with every default resolved and every value validated.

    `arrived` and `deadline` are on `time.monotonic()`'s clock, which Linux shares between
    processes; of a session's requests the one that arrived last wins.
    `depth` is uint8 of `height * width` bytes, near = bright, or empty where there is none to
    follow; `image`, what image-to-image starts from, is uint8 of `height * width * 3` bytes, or
    empty.
    `subscriber` tells apart the callers that have joined one request id, `owner` those who may: ids
    and sessions are an owner's own.
    """

    request_id: str
    subscriber: str
    model: str
    controlnet: str
    prompt: str
    negative_prompt: str | None
    seed: int
    num_images: int
    steps: int
    guidance_scale: float
    controlnet_strength: float
    control_guidance_start: float
    control_guidance_end: float
    scheduler: str
    use_karras_sigmas: bool | None
    width: int
    height: int
    output_format: str
    quality: int
    depth: bytes
    decoder: str = "full"
    enable_deepcache: bool = False
    loras: tuple[LoraWeight, ...] = ()
    session: str | None = None
    arrived: float = 0.0
    deadline: float | None = None
    owner: str = ""
    previews: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the caller is told of the picture; written into it too if `embed_parameters`."""
    embed_parameters: bool = False
    embed_inputs: bool = False
    """Whether `depth` and `image` are written into the picture, which must be a PNG."""
    traceparent: str = ""
    """The span that asks for the work, in W3C Trace Context's form; empty without tracing."""
    image: bytes = b""
    strength: float | None = None
    """How much of `image` is painted anew, 0 to 1; None without one."""

    @property
    def first_step(self) -> int:
        """The step with which the work begins: `strength` says how many of them are left, of
        which there is at least one."""
        if self.strength is None:
            return 0
        return self.steps - max(1, min(int(self.steps * self.strength), self.steps))


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits behind `position` others."""

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """The request has been admitted to the device."""


@dataclass(frozen=True, slots=True)
class Step:
    """`index` of `total` steps are done; `preview` is a small JPEG or empty."""

    index: int
    total: int
    preview: bytes = b""


@dataclass(frozen=True, slots=True)
class Done:
    """The finished pictures, encoded, and seconds per part of the work.

    `parameters` are the job's: who has joined another's request learns what was really painted.
    """

    images: tuple[bytes, ...]
    output_format: str
    scheduler: str
    timings: dict[str, float]
    parameters: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no picture: an error code of the wire contract and a message for people."""

    error: str
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """What to cancel: an owner's request or session, or everything; `subscriber` narrows a request
    id to one caller, so that the work goes on for the others that have joined it."""

    request_id: str | None = None
    session: str | None = None
    all: bool = False
    subscriber: str | None = None
    owner: str = ""

    @classmethod
    def leaving(cls, job: PaintJob | EstimateJob) -> CancelOrder:
        """What the caller of a job says who no longer waits for it."""
        return cls(request_id=job.request_id, subscriber=job.subscriber, owner=job.owner)

    def names(self, job: PaintJob | EstimateJob) -> bool:
        """Whether the order is about this job, whoever its subscribers are."""
        if self.all:
            return True
        if self.owner != job.owner:
            return False
        if self.request_id is not None:
            return self.request_id == job.request_id
        return self.session is not None and self.session == job.session


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What to load or unload; None means the runner's first ones when loading."""

    model: str | None = None
    controlnet: str | None = None


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """What became of a LoadOrder. `error` is None or a code of the wire contract."""

    message: str
    loaded_models: tuple[str, ...]
    loaded_controlnets: tuple[str, ...]
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """The runner at one moment. `memory` in MB, `estimated_seconds` until the queue is empty.

    `began` is when its process did, in seconds since the epoch, 0 when unknown; `resident_bytes`
    are the weights in memory by kind; `gpu_utilization` is 0 to 1, None where nobody knows;
    `full` are the seconds after which to come back, None while requests are taken.
    """

    state: str
    loaded_models: tuple[str, ...] = ()
    loaded_controlnets: tuple[str, ...] = ()
    waiting: int = 0
    running: int = 0
    estimated_seconds: float = 0.0
    ram_mb: float = 0.0
    gpu_memory: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    startup_error: str | None = None
    load_errors: dict[str, str] = field(default_factory=dict)
    downloads: dict[str, dict[str, float | int | str]] = field(default_factory=dict)
    began: float = 0.0
    resident_bytes: dict[str, int] = field(default_factory=dict)
    gpu_utilization: float | None = None
    full: float | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The request ids that a CancelOrder ended."""

    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EstimateJob:
    """A photograph whose depth is wanted: `image` is uint8 RGB of `height * width * 3` bytes.

    The other fields are those of a PaintJob.
    """

    request_id: str
    subscriber: str
    estimator: str
    image: bytes
    width: int
    height: int
    session: str | None = None
    arrived: float = 0.0
    traceparent: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Estimated:
    """A depth map, uint8 of the job's `height * width` bytes, near = bright, from 0 to 255; and
    the seconds that the device took for it."""

    depth: bytes
    seconds: float


Event = Queued | Started | Step | Done | Failed
Message = (
    PaintJob
    | Event
    | EstimateJob
    | Estimated
    | CancelOrder
    | Cancelled
    | LoadOrder
    | LoadOutcome
    | RunnerStatus
)

M = TypeVar("M")

_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        PaintJob, Queued, Started, Step, Done, Failed, EstimateJob, Estimated,
        CancelOrder, Cancelled, LoadOrder, LoadOutcome, RunnerStatus,
    )
}  # fmt: skip


def pack(message: Message) -> bytes:
    """One message as one frame."""
    header: dict[str, Any] = {"kind": type(message).__name__}
    blobs: list[bytes] = []
    for item in fields(message):
        value = getattr(message, item.name)
        if isinstance(value, bytes):
            header[item.name] = {"blob": [len(value)]}
            blobs.append(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], bytes):
            header[item.name] = {"blobs": [len(blob) for blob in value]}
            blobs.extend(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], LoraWeight):
            header[item.name] = [asdict(entry) for entry in value]
        else:
            header[item.name] = value
    encoded = json.dumps(header).encode()
    return b"".join([_LENGTHS.pack(len(encoded), sum(map(len, blobs))), encoded, *blobs])


def _unpack_body(header: dict[str, Any], body: memoryview) -> Message:
    kind = _KINDS[header.pop("kind")]
    offset = 0
    values: dict[str, Any] = {}
    for name, value in header.items():
        if name == "loras":
            values[name] = tuple(LoraWeight(**entry) for entry in value)
        elif isinstance(value, dict) and value.keys() <= {"blob", "blobs"} and value:
            (form, lengths), *_ = value.items()
            parts = []
            for length in lengths:
                parts.append(bytes(body[offset : offset + length]))
                offset += length
            values[name] = parts[0] if form == "blob" else tuple(parts)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    message: Message = kind(**values)
    return message


def unpack(frame: bytes, kind: type[M]) -> M:
    """The message of one whole frame; ValueError when it is anything but one of `kind`."""
    messages = list(Unpacker().feed(frame))
    if len(messages) != 1 or not isinstance(messages[0], kind):
        raise ValueError(f"one frame with a {kind.__name__} expected")
    return messages[0]


class Unpacker:
    """Turns a byte stream, cut anywhere, back into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Take the next bytes; yield every message that is now complete."""
        self._buffer += chunk
        while len(self._buffer) >= _LENGTHS.size:
            header_size, body_size = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + header_size + body_size
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[:end])
            del self._buffer[:end]
            split = _LENGTHS.size + header_size
            yield _unpack_body(json.loads(frame[_LENGTHS.size : split]), memoryview(frame)[split:])
