"""Sections about the device: kernels by class, memory, and levers that may make it faster."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.support.gpu.painting import Row
from benchmarks.support.gpu.subject import Subject
from runners.diffusion.batch import BatchCache
from runners.diffusion.denoise import predict_noise
from runners.diffusion.vae import decode_latents

CLASSES = {
    "layout": r"nchwtonhwc|nhwctonchw|contiguous",
    "attention": r"flash|fmha|attention|sdpa|softmax",
    "convolution": r"conv|implicit|winograd|fprop|wgrad",
    "matrix product": r"gemm|gemv|cutlass|cublas|xmma|nvjet|addmm|aten::mm|aten::bmm|linear",
    "norm": r"norm|welford|rowwisemoments",
    "copy": r"copy|memcpy|cat|transpose|fill|memset",
}
"""Classes of kernels, by the first pattern that their lower-case name contains."""


def kernels(subject: Subject) -> Iterator[Row]:
    """Sum the kernels of one guided step by class."""
    step = _step(subject)
    step()
    subject.wait()
    activities = [ProfilerActivity.CPU]
    if subject.on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        step()
        subject.wait()
    count: Counter[str] = Counter()
    micros: Counter[str] = Counter()
    for event in profiler.key_averages():
        own = event.self_device_time_total if subject.on_gpu else event.self_cpu_time_total
        is_kernel = own > 0 and (not subject.on_gpu or not event.key.startswith("aten::"))
        if is_kernel:
            kind = classify(event.key)
            count[kind] += event.count
            micros[kind] += own
    total = sum(micros.values()) or 1
    for kind, time in micros.most_common():
        yield (
            f"kernels: {kind}",
            {
                "launches": count[kind],
                "milliseconds": time / 1000,
                "share": time / total,
            },
        )


def classify(kernel: str) -> str:
    """Return the class of a kernel by its name."""
    name = kernel.lower()
    return next((kind for kind, pattern in CLASSES.items() if re.search(pattern, name)), "other")


def memory(subject: Subject) -> Iterator[Row]:
    """Measure the peaks of a step and of decodes beside the weights, and the context."""
    if not subject.on_gpu:
        yield "memory", {"left out": "needs a GPU"}
        return
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    yield "context and libraries", {"GB": (total - free - reserved) / 1e9}
    samples = subject.samples(subject.job())
    batches = BatchCache(subject.device)
    variant = subject.networks[0]
    work: dict[str, Callable[[], object]] = {
        "first step, 2 rows": lambda: predict_noise(samples, subject.device, batches),
        "further steps, 2 rows": lambda: predict_noise(samples, subject.device, batches),
        "decode": lambda: decode_latents(samples[0].latents, variant),
        "tiny decode": lambda: decode_latents(samples[0].latents, variant, "tiny"),
    }
    for name, run in work.items():
        subject.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        subject.wait()
        yield f"peak of {name}", {"GB": (torch.cuda.max_memory_allocated() - before) / 1e9}


def levers(subject: Subject) -> Iterator[Row]:
    """Time a guided step with settings that the service does not use."""
    unet = subject.networks[0].unet
    plain = _step(subject)
    reference = plain()
    _, base = subject.host_and_device(plain)
    yield "step as it is", {"device": base}

    unet.to(memory_format=torch.channels_last)
    try:
        yield "UNet in channels-last", _against(subject, base, reference)
    finally:
        unet.to(memory_format=torch.contiguous_format)
    if not subject.on_gpu:
        yield "further levers", {"left out": "need a GPU"}
        return
    switches: dict[str, tuple[Any, str]] = {
        "cudnn.benchmark": (torch.backends.cudnn, "benchmark"),
        "sums in float16": (torch.backends.cuda.matmul, "allow_fp16_accumulation"),
    }
    for name, (owner, attribute) in switches.items():
        before = getattr(owner, attribute)
        setattr(owner, attribute, True)
        try:
            yield name, _against(subject, base, reference)
        finally:
            setattr(owner, attribute, before)
    yield "CUDA graph of a step", _graph(subject, base)


def _against(subject: Subject, base: float, reference: torch.Tensor) -> dict[str, float]:
    """Return a step's seconds, their ratio to the plain step's, and the prediction's error."""
    step = _step(subject)
    error = (step() - reference).abs().max() / reference.abs().max()
    _, device = subject.host_and_device(step)
    return {"device": device, "ratio": device / base, "relative error": float(error)}


def _graph(subject: Subject, base: float) -> dict[str, float]:
    step = _step(subject)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    host, device = subject.host_and_device(graph.replay)
    return {"host": host, "device": device, "ratio": device / base}


def _step(subject: Subject) -> Callable[[], torch.Tensor]:
    """Return the first step of the installation's request, with its batch gathered."""
    samples = subject.samples(subject.job())
    batches = BatchCache(subject.device)
    predict_noise(samples, subject.device, batches)
    return lambda: predict_noise(samples, subject.device, batches)[0]
