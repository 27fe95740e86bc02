"""A process that decodes pictures and does nothing else: it can be killed without losing anything.

    python -m api.images.decoder_process SECONDS MEGABYTES NICENESS

Reads orders from standard input and writes their outcomes to standard output, both as frames.
SECONDS is the processor time that one picture may take, beyond which the system ends the process;
MEGABYTES what it may allocate. Its environment has no token and no other secret.
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
from api.images.frames import frame_of, read_frame
from api.images.inspection import PictureTooLargeError, UnreadablePictureError

_DECODERS = {"depth": decode_depth, "image": decode_image}


def _outcome(order: dict[str, Any], text: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode one picture; the outcome names what it is, or what is wrong."""
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
        # Nobody hears what this process says of itself.
        return {"error": "fault", "message": traceback.format_exc()}, b""
    fields = {name: getattr(decoded, name) for name in decoded.__slots__ if name != "pixels"}
    return fields, decoded.pixels


def _limit_memory(megabytes: int) -> None:
    # What is mapped already, libraries above all, does not count.
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        # Other systems do not keep to this limit.
        return
    limit = pages * resource.getpagesize() + megabytes * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _give_way(niceness: int) -> None:
    os.nice(niceness)
    # Where Linux groups processes by session, a nice value counts within the session alone, and
    # the runner is in another. The session here is this process' own, so its group can give way.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")


def _serve(orders: BinaryIO, outcomes: BinaryIO, seconds: float) -> None:
    while (frame := read_frame(orders)) is not None:
        # Counts what this process works, and ends it: nothing here handles the signal.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        outcome = frame_of(*_outcome(*frame))
        signal.setitimer(signal.ITIMER_PROF, 0)
        outcomes.write(outcome)
        outcomes.flush()


def main() -> None:
    """Serve orders until there are no more."""
    seconds, megabytes, niceness = sys.argv[1:]
    _give_way(int(niceness))
    # No memory image of somebody's picture, and nothing a library says of one.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(int(megabytes))
    orders, outcomes = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    _serve(orders, outcomes, float(seconds))


if __name__ == "__main__":
    main()
