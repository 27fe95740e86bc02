"""Copies of weights to a GPU that do not wait behind its other work.

A copy from pageable memory, or on the stream of the steps, waits for every step that is queued
there. Here weights travel in large pieces through pinned memory on a stream of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from runners.buffer_layout import BufferLayout
from runners.device import Device
from runners.networks.projection_layout import side_by_side

PIECE_BYTES = 64 * 2**20
"""Bytes of a copy; a power of two, to which pinned memory is rounded."""
_RING_BUFFERS = 3


class Event(Protocol):
    """Position in a stream."""

    def synchronize(self) -> None:
        """Wait until the stream has reached the position."""


class CopyStream(Protocol):
    """Stream of asynchronous copies from pinned host memory to a device."""

    def host_buffer(self, size: int) -> torch.Tensor:
        """Return pinned host memory, uint8 [size]."""

    def device_buffer(self, size: int) -> torch.Tensor:
        """Return device memory, uint8 [size], which copies may write from now on."""

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy of pinned host memory; `source` must not change until it has ended."""

    def record(self) -> Event:
        """Return an event after the copies so far."""


class CudaCopyStream:
    """Copies of one GPU on a stream that lives as long as the process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def host_buffer(self, size: int) -> torch.Tensor:
        """Return pinned host memory, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def device_buffer(self, size: int) -> torch.Tensor:
        """Return memory of the calling thread's stream, so that its blocks serve steps again.

        The block may have belonged to a tensor that a queued step still reads, so the copies wait
        for these steps: once for each buffer.
        """
        buffer = torch.empty(size, dtype=torch.uint8, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        # After a failed load the allocator must not reuse the buffer before the copies have ended.
        buffer.record_stream(self._stream)
        return buffer

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy of pinned host memory."""
        with torch.cuda.stream(self._stream):
            destination.copy_(source, non_blocking=True)

    def record(self) -> Event:
        """Return an event after the copies so far."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event


@dataclass(frozen=True, slots=True)
class HostCopy:
    """Weights in pinned host memory, in pieces that are ready to be sent."""

    layout: BufferLayout
    pieces: tuple[torch.Tensor, ...]

    @property
    def bytes(self) -> int:
        """Bytes of pinned memory, which is allocated in powers of two."""
        return sum(_round_up(piece.numel()) for piece in self.pieces)


class WeightUploader:
    """Copier of weights to one device. Thread-safe; one upload runs at a time.

    On a CPU and on MPS it only converts and moves the tensors.

    Args:
        device: the target device.
        stream: the stream of copies; that of the device if None.
        piece_bytes: bytes of a copy, a power of two.
    """

    def __init__(
        self, device: Device, stream: CopyStream | None = None, piece_bytes: int = PIECE_BYTES
    ) -> None:
        self._device = device.torch_device
        if stream is None and self._device.type == "cuda":
            stream = CudaCopyStream(self._device)
        self._stream = stream
        self._piece_bytes = piece_bytes
        self._lock = threading.Lock()
        self._ring: list[tuple[torch.Tensor, Event]] = []

    @property
    def is_asynchronous(self) -> bool:
        """Whether weights travel through pinned memory on a stream of their own."""
        return self._stream is not None

    def pinned_bytes(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> int:
        """Return the pinned memory that `stage` takes for tensors in a dtype, in bytes."""
        whole, rest = divmod(_layout_of(tensors, dtype).size, self._piece_bytes)
        return whole * self._piece_bytes + (_round_up(rest) if rest else 0)

    def upload(
        self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Return tensors on the device; the copies have ended.

        Args:
            tensors: tensors in host memory, by name.
            dtype: their dtype on the device; None keeps each tensor's own.
        """
        stream = self._stream
        if stream is None:
            return {name: tensor.to(self._device, dtype) for name, tensor in tensors.items()}
        with self._lock:
            layout = _layout_of(tensors, dtype)
            taken: list[torch.Tensor] = []

            def take(_: int) -> torch.Tensor:
                taken.append(self._next_in_ring(stream))
                return taken[-1]

            def give_back() -> None:
                self._ring.append((taken.pop(), stream.record()))

            return _copy(stream, layout, self._pack(tensors, layout, take), give_back)

    def stage(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> HostCopy:
        """Return a copy of tensors in pinned host memory; only with an asynchronous device."""
        assert self._stream is not None
        layout = _layout_of(tensors, dtype)
        return HostCopy(layout, tuple(self._pack(tensors, layout, self._stream.host_buffer)))

    def send(self, copy: HostCopy) -> dict[str, torch.Tensor]:
        """Return the tensors of a host copy on the device; the copies have ended."""
        stream = self._stream
        assert stream is not None
        with self._lock:
            return _copy(stream, copy.layout, copy.pieces)

    @torch.no_grad()
    def move(self, network: nn.Module) -> None:
        """Move a network's parameters and buffers to the device, in their own dtypes."""
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        for name, moved in self.upload(tensors).items():
            tensors[name].data = moved

    def _next_in_ring(self, stream: CopyStream) -> torch.Tensor:
        """Return a pinned buffer whose last copy has ended."""
        if len(self._ring) < _RING_BUFFERS:
            return stream.host_buffer(self._piece_bytes)
        piece, sent = self._ring.pop(0)
        sent.synchronize()
        return piece

    def _pack(
        self,
        tensors: Mapping[str, torch.Tensor],
        layout: BufferLayout,
        allocate: Callable[[int], torch.Tensor],
    ) -> Iterator[torch.Tensor]:
        """Yield the layout's bytes in consecutive pieces; `allocate` returns memory for a piece."""
        start = 0
        piece = allocate(min(self._piece_bytes, layout.size))
        for name, (offset, dtype, _) in layout.places.items():
            content = tensors[name].detach().to(dtype).reshape(-1).contiguous().view(torch.uint8)
            while len(content):
                if offset >= start + self._piece_bytes:
                    yield piece
                    start += self._piece_bytes
                    piece = allocate(min(self._piece_bytes, layout.size - start))
                within = offset - start
                part = content[: self._piece_bytes - within]
                piece[within : within + len(part)] = part
                content, offset = content[len(part) :], offset + len(part)
        yield piece[: layout.size - start]


def _layout_of(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> BufferLayout:
    """Return a layout that lets one product compute query, key and value of a self-attention."""
    return BufferLayout.of({name: tensors[name] for name in side_by_side(tensors)}, dtype)


def _copy(
    stream: CopyStream,
    layout: BufferLayout,
    pieces: Iterable[torch.Tensor],
    after_each: Callable[[], object] = lambda: None,
) -> dict[str, torch.Tensor]:
    """Copy a layout's bytes to new memory on the device; return the tensors when all have arrived.

    Args:
        stream: the stream of the copies.
        layout: places of the tensors.
        pieces: consecutive pieces of pinned memory.
        after_each: called when the copy of a piece is queued.
    """
    target = stream.device_buffer(layout.size)
    start = 0
    for piece in pieces:
        stream.copy(target[start : start + len(piece)], piece)
        after_each()
        start += len(piece)
    stream.record().synchronize()
    return layout.views(target)


def _round_up(size: int) -> int:
    """Return the next power of two."""
    return 1 << (size - 1).bit_length()
