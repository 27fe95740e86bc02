"""Decoder process for images, which can be killed without loss.

    python -m api.images.decoder_process SECONDS MEGABYTES NICENESS

The process reads orders from standard input and writes outcomes to standard output, both as frames.
SECONDS limits the processor time per image; beyond it the system ends the process. MEGABYTES limits
the memory that it may allocate, in 1e6 bytes. Its environment contains no token or other secret.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from api.images.decoding import LaboriousPictureError, decode_depth, decode_image
from api.images.inspection import PictureTooLargeError, UnreadablePictureError
from common.framing import build_frame, read_frame

_DECODERS = {"depth": decode_depth, "image": decode_image}


def _outcome(order: dict[str, Any], text: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode one image; return its fields and pixels, or an error and no pixels."""
    decode: Any = _DECODERS[order.pop("kind")]
    try:
        decoded = decode(text, **order)
    except UnreadablePictureError as error:
        return {"error": "unreadable", "message": str(error)}, b""
    except PictureTooLargeError as error:
        return {"error": "too_large", "message": str(error)}, b""
    except (LaboriousPictureError, MemoryError):
        return {"error": "laborious"}, b""
    except Exception:
        # The output of this process is discarded, so the trace goes into the outcome.
        return {"error": "fault", "message": traceback.format_exc()}, b""
    fields = {name: getattr(decoded, name) for name in decoded.__slots__ if name != "pixels"}
    return fields, decoded.pixels


def _limit_memory(megabytes: int) -> None:
    # Existing mappings, mostly of libraries, do not count.
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        # Other systems do not enforce this limit.
        return
    limit = pages * resource.getpagesize() + megabytes * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _lower_priority(niceness: int) -> None:
    os.nice(niceness)
    # Where Linux groups processes by session, a nice value applies within the session only, and the
    # runner is in another session. This process has its own session, whose group gets the value.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")


def _serve(orders: BinaryIO, outcomes: BinaryIO, seconds: float) -> None:
    while (frame := read_frame(orders)) is not None:
        # The timer counts processor time; its signal ends the process, which has no handler.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        outcome = build_frame(*_outcome(*frame))
        signal.setitimer(signal.ITIMER_PROF, 0)
        outcomes.write(outcome)
        outcomes.flush()


def main() -> None:
    """Serve orders until standard input ends."""
    seconds, megabytes, niceness = sys.argv[1:]
    _lower_priority(int(niceness))
    # Neither core dumps nor library messages may disclose uploaded images.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(int(megabytes))
    orders, outcomes = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    _serve(orders, outcomes, float(seconds))


if __name__ == "__main__":
    main()
