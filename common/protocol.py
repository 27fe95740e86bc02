"""Messages between the public service and the runner.

The processes communicate over a Unix domain socket, whose fastest payload is plain bytes;
`common.framing` serializes the messages.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from common.step_window import is_in_window

LoraMode = Literal["merged", "low_rank"]
"""How LoRAs act on a UNet: merged into a copy of its weights, or as products beside each layer."""


class LoraWeight(msgspec.Struct, frozen=True):
    """LoRA by its catalog name, with its strength after multiplication, 0 to 4."""

    name: str
    strength: float


class GenerateJob(msgspec.Struct, frozen=True, tag=True):
    """Generation request with every default resolved and every value validated.

    `arrived` and `deadline` are in seconds on the clock of `time.monotonic()`, which processes
    share on Linux. The latest arrival in a session supersedes the others.
    `depth` is uint8 `[height, width]`, near = bright, or empty without depth control. `image` is
    the init image, uint8 RGB `[height, width, 3]`, or empty without one.
    `subscriber` identifies a caller among those that joined a request id. `owner` is the scope of
    request ids and sessions.
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
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    """Parameters reported to the client; embedded in the image file if `embed_parameters`."""
    embed_parameters: bool = False
    embed_inputs: bool = False
    """Whether `depth` and `image` are embedded in the image file, which must be a PNG."""
    traceparent: str = ""
    """W3C traceparent of the request's span; empty without tracing."""
    image: bytes = b""
    strength: float | None = None
    """Image-to-image strength (SDEdit, arXiv:2108.01073), 0 to 1; None without an init image."""
    guidance_start: float = 0.0
    """Share of the steps before guidance begins, 0 to 1; without guidance a step takes one row."""
    guidance_end: float = 1.0
    """Share of the steps after which guidance ends, at least `guidance_start`."""
    fingerprint: str = ""
    """Digest of what the caller asked for under a `request_id` of its own; empty without one."""

    @property
    def first_step(self) -> int:
        """Index of the first step; `strength` is the share of the steps that run, at least one."""
        if self.strength is None:
            return 0
        return self.steps - max(1, min(int(self.steps * self.strength), self.steps))

    def is_guided(self, index: int, steps: int) -> bool:
        """Return whether a step has classifier-free guidance, which takes a second row.

        Args:
            index: number of the step among those that run, from 0.
            steps: number of steps that run.
        """
        return self.guidance_scale > 1.0 and is_in_window(
            index, steps, self.guidance_start, self.guidance_end
        )

    def count_rows(self, index: int, steps: int) -> int:
        """Return the rows of an image's steps from `index` on; the arguments are as above."""
        return sum(1 + self.is_guided(each, steps) for each in range(index, steps))


class Queued(msgspec.Struct, frozen=True, tag=True):
    """Event: the request waits behind `position` others."""

    position: int


class Started(msgspec.Struct, frozen=True, tag=True):
    """Event: the request has been admitted to the device."""


class Step(msgspec.Struct, frozen=True, tag=True):
    """Event: `index` of `total` steps are done; `preview` is a small JPEG or empty."""

    index: int
    total: int
    preview: bytes = b""


class JobDone(msgspec.Struct, frozen=True, tag=True):
    """Event: the encoded images, and the duration of each phase in seconds.

    `parameters` are those of the executed job, which a joined request may not share.
    """

    images: tuple[bytes, ...]
    output_format: str
    scheduler: str
    timings: dict[str, float]
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class JobFailed(msgspec.Struct, frozen=True, tag=True):
    """Event: failure, with an error code of the wire contract and a message for people."""

    error: str
    message: str
    retry_after: float | None = None


class CancelCommand(msgspec.Struct, frozen=True, tag=True):
    """Cancellation of an owner's request or session, or of all requests.

    `subscriber` limits a request id to one caller. The work continues for other joined callers.
    """

    request_id: str | None = None
    session: str | None = None
    all: bool = False
    subscriber: str | None = None
    owner: str = ""

    @classmethod
    def for_disconnect(cls, job: GenerateJob | EstimateJob) -> CancelCommand:
        """Return the command that withdraws a disconnected caller from a job."""
        return cls(request_id=job.request_id, subscriber=job.subscriber, owner=job.owner)

    def matches(self, job: GenerateJob | EstimateJob) -> bool:
        """Return whether the command applies to a job, regardless of subscribers."""
        if self.all:
            return True
        if self.owner != job.owner:
            return False
        if self.request_id is not None:
            return self.request_id == job.request_id
        return self.session is not None and self.session == job.session


class LoadCommand(msgspec.Struct, frozen=True, tag=True):
    """Weights to load or unload; on loading, None selects the runner's default."""

    model: str | None = None
    controlnet: str | None = None


class LoadResult(msgspec.Struct, frozen=True, tag=True):
    """Result of a LoadCommand; `error` is None or an error code of the wire contract."""

    message: str
    loaded_models: tuple[str, ...]
    loaded_controlnets: tuple[str, ...]
    seconds: float
    error: str | None = None


class RunnerStatus(msgspec.Struct, frozen=True, tag=True):
    """State of the runner at one time.

    `ram_mb` and `gpu_memory` are in MB (1e6 bytes). `estimated_seconds` is the time until the queue
    is empty. `started_at` is the start of the process in seconds since the epoch, 0 if unknown.
    `resident_bytes` are the bytes of loaded weights by kind. `lora_modes` are by resident variant.
    `gpu_utilization` is 0 to 1, or None if unknown. `retry_after` is in seconds, or None while the
    runner accepts requests.
    """

    state: str
    loaded_models: tuple[str, ...] = ()
    loaded_controlnets: tuple[str, ...] = ()
    waiting: int = 0
    running: int = 0
    estimated_seconds: float = 0.0
    ram_mb: float = 0.0
    gpu_memory: dict[str, float] = msgspec.field(default_factory=dict)
    device: str = "cpu"
    startup_error: str | None = None
    load_errors: dict[str, str] = msgspec.field(default_factory=dict)
    downloads: dict[str, dict[str, float | int | str]] = msgspec.field(default_factory=dict)
    started_at: float = 0.0
    resident_bytes: dict[str, int] = msgspec.field(default_factory=dict)
    gpu_utilization: float | None = None
    retry_after: float | None = None
    lora_modes: dict[str, LoraMode] = msgspec.field(default_factory=dict)


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """Ids of the requests that a CancelCommand ended."""

    request_ids: tuple[str, ...]


class EstimateJob(msgspec.Struct, frozen=True, tag=True):
    """Depth estimation request; `image` is uint8 RGB `[height, width, 3]`.

    The other fields are those of a GenerateJob.
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


class DepthResult(msgspec.Struct, frozen=True, tag=True):
    """Depth map, uint8 `[height, width]`, 0 to 255, near = bright.

    `seconds` is the time on the device.
    """

    depth: bytes
    seconds: float


Event = Queued | Started | Step | JobDone | JobFailed
Message = (
    GenerateJob
    | Event
    | EstimateJob
    | DepthResult
    | CancelCommand
    | Cancelled
    | LoadCommand
    | LoadResult
    | RunnerStatus
)
