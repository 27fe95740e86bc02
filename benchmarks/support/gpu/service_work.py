"""Sections about what a service meets: loads beside painting, and a lack of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from msgspec.structs import replace

from benchmarks.support.gpu.painting import Row
from benchmarks.support.gpu.subject import Subject
from common.protocol import JobDone, JobFailed
from runners.networks.lora.adapter_file import read_adapter
from runners.networks.weight_upload import WeightUploader
from testing.workbench import Listener, drain

_PICTURES = 8


def loads(subject: Subject) -> Iterator[Row]:
    """Load a UNet and a LoRA on an idle device and beside painting."""
    unet = subject.networks[0].unet
    host = {name: tensor.cpu() for name, tensor in unet.state_dict().items()}
    uploader = WeightUploader(subject.device)
    file = next(iter(subject.lora_files.values()))
    work: dict[str, Callable[[], object]] = {
        "UNet": lambda: uploader.upload(host, subject.device.dtype),
        "LoRA": lambda: read_adapter(file, unet, uploader=uploader),
    }
    subject.paint(subject.job())
    alone = _paint_several(subject)
    yield "picture, nothing beside", {"seconds": alone}
    size = sum(tensor.nbytes for tensor in host.values()) / 1e9
    for name, load in work.items():
        load()
        idle = subject.seconds(load)
        pictures, beside = _paint_beside(subject, load)
        yield (
            f"{name} loads beside painting",
            {
                "idle": idle,
                "beside": beside,
                "pictures' ratio": pictures / alone,
                **({"GB/s": size / idle} if name == "UNet" else {}),
            },
        )


def _paint_beside(subject: Subject, load: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a picture and of a load, while loads repeat on another thread."""
    seconds: list[float] = []
    stop = threading.Event()

    def repeat() -> None:
        subject.device.activate()
        while not stop.is_set():
            started = time.perf_counter()
            load()
            seconds.append(time.perf_counter() - started)

    thread = threading.Thread(target=repeat)
    thread.start()
    pictures = _paint_several(subject)
    stop.set()
    thread.join()
    return pictures, sum(seconds) / len(seconds)


def _paint_several(subject: Subject) -> float:
    """Return the seconds of one picture of several in a row."""
    count = 1 if subject.miniature else _PICTURES
    return (
        subject.seconds(lambda: [subject.paint(subject.job(seed=n)) for n in range(count)]) / count
    )


def recovery(subject: Subject) -> Iterator[Row]:
    """Paint a batch that does not fit into the allowed memory."""
    if not subject.on_gpu:
        yield "out of memory", {"left out": "needs a GPU"}
        return
    job = subject.job()
    subject.paint(job)
    subject.wait()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    subject.paint(job)
    one = torch.cuda.max_memory_allocated() - before
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (before + 1.3 * one) / total))
    try:
        yield "four guided requests where one fits", _paint_four(subject)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _paint_four(subject: Subject) -> dict[str, Any]:
    engine = subject.engine()
    listeners = [Listener() for _ in range(4)]
    for number, listener in enumerate(listeners):
        engine.submit(replace(subject.job(), request_id=str(number), seed=number), listener)
    started = time.perf_counter()
    drain(engine)
    engine.close()
    ends = [listener.events[-1] for listener in listeners]
    failed = [end.error for end in ends if isinstance(end, JobFailed)]
    return {
        "painted": sum(isinstance(end, JobDone) for end in ends),
        "failed": ", ".join(failed) or "none",
        "seconds": time.perf_counter() - started,
        "retries": torch.cuda.memory_stats().get("num_ooms", 0),
    }
