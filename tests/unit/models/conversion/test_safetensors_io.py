"""The safetensors format: rejected files, error messages, and written files."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models.conversion.safetensors_io import TensorToWrite, WeightsError, read_header, write_file


def zip_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer)
    return buffer.getvalue()


def legacy() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../weights", b"x" * 100)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"abc", "truncated"),
        (zip_file(), "pickle"),
        (legacy(), "pickle"),
        (plain_zip(), "zip archive"),
        (gzip.compress(b"weights" * 100, mtime=0), "gzip"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b'{"error": "no such file in this bucket"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b"\xff" * 100, "not a safetensors file"),
    ],
)
def test_other_file_types_are_rejected_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith("weights.safetensors: ")
    assert "/" not in str(caught.value).replace("https://", "")


def to_image_bytes(path: Path, header: Any, data: int = 8) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return path


def entry(start: int, end: int, dtype: str = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(0, 8)}, 7, "truncated, "),
        ({"a": entry(0, 8)}, 9, "1 bytes more"),
        ({"a": entry(4, 12)}, 12, "does not start"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "does not start"),
        ({"a": entry(0, 8, shape=(3,))}, 8, "does not match"),
        ({"a": entry(8, 0)}, 8, "does not match"),
        ({"a": entry(0, 8, dtype="F12")}, 8, "dtype"),
        ({"a": entry(0, 8, dtype=[])}, 8, "described|dtype"),
        ({"a": entry(-8, 0)}, 8, "invalid dimension or offset"),
        ({"a": entry(0, 8, shape=(-1, -2))}, 8, "invalid dimension or offset"),
        ({"a": entry(0, 8, shape=(2.0,))}, 8, "invalid dimension or offset"),
        ({"a": entry(0, 8, shape="2")}, 8, "shape"),
        ({"a": entry(0, 8, shape=[1] * 99)}, 8, "shape"),
        ({"a": {"dtype": "F32"}}, 8, "invalid description"),
        ({"a": [1, 2]}, 8, "invalid description"),
        ([1], 8, "not an object"),
        (b'{"a": 1, "a": 2}', 8, "twice"),
        (b"[" * 100_000, 8, "JSON"),
        (b"not json", 8, "JSON"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: Any, data: int, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_header(to_image_bytes(tmp_path / "a.safetensors", header, data))


def test_cut_file_is_reported_as_truncated(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    save_file({"a": torch.ones(8, 8)}, path)
    content = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in (5, 8, 20, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(WeightsError, match="truncated"):
            read_header(cut)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=200,
)
@given(st.binary(max_size=400), st.booleans())
def test_no_content_breaks_the_reader(tmp_path: Path, content: bytes, framed: bool) -> None:
    path = tmp_path / "any.safetensors"
    if framed:
        content = struct.pack("<Q", max(len(content) - 8, 0)) + content
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        read_header(path)


def new(tensor: torch.Tensor, dtype: str) -> TensorToWrite:
    content = tensor.numpy().tobytes()
    return TensorToWrite(dtype, tuple(tensor.shape), lambda: [content[:5], content[5:]])


def test_written_files_are_canonical_aligned_and_readable(tmp_path: Path) -> None:
    tensors = {
        "odd": (torch.arange(3, dtype=torch.float32), "F32"),
        "b": (torch.arange(32, dtype=torch.float16).view(4, 8), "F16"),
        "a": (torch.arange(64, dtype=torch.int64), "I64"),
        "scalar": (torch.tensor(2.5), "F32"),
        "none": (torch.zeros(0, 4), "F32"),
    }
    names = list(tensors)
    seen: list[int] = []
    for path, order in (("one", names), ("two", names[::-1])):
        write_file(tmp_path / path, {name: new(*tensors[name]) for name in order}, seen.append)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    header = read_header(tmp_path / "one")
    assert [name for name, span in header.items() if span.size] == ["a", "b", "odd", "scalar"]
    assert all(header[name].start % 64 == 0 for name in ("a", "b", "odd"))
    assert sum(seen) == 2 * sum(span.size for span in header.values())
    loaded = load_file(tmp_path / "one")
    assert set(loaded) == set(tensors)
    for name, (tensor, _) in tensors.items():
        assert torch.equal(loaded[name], tensor)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one", "two"]


def test_tensor_of_wrong_length_leaves_no_file(tmp_path: Path) -> None:
    short = TensorToWrite("F32", (4,), lambda: [bytes(12)])
    with pytest.raises(WeightsError, match="12 bytes"):
        write_file(tmp_path / "short", {"a": short})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":[' + b"[]," * 8_000_000 + b"[]]}",
        b'{"a":{"shape":[' + b"1," * 12_000_000 + b"1]}}",
        b"{" + b",".join(b'"t%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n
                         for n in range(150_000)) + b"}",
        b'{"__metadata__":{' + b'"a":"",' * 3_000_000 + b'"b":""}}',
    ],
    ids=["brackets", "dimensions", "tensors", "metadata"],
)  # fmt: skip
def test_adversarial_headers_are_not_parsed(
    tmp_path: Path, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("it was given to a parser")

    monkeypatch.setattr("models.conversion.safetensors_io.json.loads", parse)
    path = tmp_path / "slow.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError, match="more than 65536 tensors"):
        read_header(path)
