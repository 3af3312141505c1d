"""Safetensors files, read and written without torch, one tensor at a time.

The format: the length of the header as uint64, the header as JSON padded with spaces to a multiple of 8, the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ift.errors import WeightsError, one_line

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}  # as numpy reads them: bf16 as its bits


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its type by safetensors' name, and where its data begins."""

    dtype: str
    shape: list[int]
    begin: int  # byte of the file


def read_header(file: Path) -> dict[str, Stored]:
    """Every tensor of a file, in the order of their data.

    Raises WeightsError where the header is damaged, or is not that of exactly so many bytes.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > file.stat().st_size - 8:
            raise ValueError("its header is longer than the file" if start else "it is empty")
        with safe_open(file, framework="numpy") as tensors:
            views = {name: tensors.get_slice(name) for name in tensors.offset_keys()}
            shapes = {name: (str(view.get_dtype()), [int(n) for n in view.get_shape()]) for name, view in views.items()}
    except (OSError, ValueError, SafetensorError) as error:
        why = one_line(str(error).removeprefix("Error while deserializing header: "), 100)
        raise WeightsError(f"{file}: not a whole safetensors file: {why} (cut off? download it again)") from error
    # the library has checked that the data of one tensor follows that of the one before
    stored, begin = {}, 8 + length
    for name, (dtype, shape) in shapes.items():
        stored[name] = Stored(dtype, shape, begin)
        begin += math.prod(shape) * BYTES.get(dtype, 1)
    return stored


def read_metadata(file: Path) -> dict[str, str]:
    """What a file says besides its tensors; `read_header` says whether it is whole."""
    with safe_open(file, framework="numpy") as tensors:
        return dict(tensors.metadata() or {})


def read_tensor(file: Path, name: str, stored: Stored) -> NDArray[np.float32]:
    """A tensor as fp32. Raises WeightsError where it is of a type that is no float."""
    if stored.dtype not in FLOATS:
        raise WeightsError(f"{file}: {name} is of type {stored.dtype} (known are {', '.join(FLOATS)})")
    values = np.fromfile(file, FLOATS[stored.dtype], count=math.prod(stored.shape), offset=stored.begin)
    values = values.reshape(stored.shape)
    if stored.dtype == "BF16":  # the upper half of an fp32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def parts_of(
    tensors: Mapping[str, tuple[str, Sequence[int]]], data: Iterable[Any], metadata: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """The bytes of a file: its header, then the data of each tensor, as it comes.

    tensors  name -> type and shape, in the order of the data, those with larger elements first
    data     something with a buffer for each; raises ValueError where it is not of the announced size
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    sizes, end = [], 0
    for name, (dtype, shape) in tensors.items():
        sizes.append(math.prod(shape) * BYTES[dtype])
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + sizes[-1]]}
        end += sizes[-1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name, size, part in zip(tensors, sizes, data, strict=True):
        if memoryview(part).nbytes != size:
            raise ValueError(f"{name}: {memoryview(part).nbytes} bytes for {size}")
        yield part


def write_tensors(
    file: Path,
    tensors: Mapping[str, tuple[str, Sequence[int]]],
    data: Iterable[Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file one tensor after the other, so that a model larger than the memory can be written."""
    with file.open("wb") as stream:
        for part in parts_of(tensors, data, metadata):
            stream.write(part)
