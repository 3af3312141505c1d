"""Tensors of a checkpoint by ranges of their rows: whichever ranks wrote them, a rank reads what it needs alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ift.artifacts.tensors import read_header, read_metadata
from ift.errors import WeightsError
from ift.model.slices import first_row, is_slice, local

DTYPES = {  # safetensors' names
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
ROWS = "rows"  # in the header of a file with slices: name -> [first row, rows of all]
TORCH = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Slice:
    """Rows of a tensor in a file. A tensor that is whole there is one slice of all its rows."""

    file: Path
    begin: int  # byte
    first: int  # row
    rows: int


@dataclass(frozen=True)
class Stored:
    dtype: torch.dtype
    shape: tuple[int, ...]  # of the whole tensor
    slices: tuple[Slice, ...]

    def read(self, first: int = 0, rows: int | None = None) -> Tensor:
        """Rows of it, by default all. Raises WeightsError where a file has not got them."""
        if not self.shape:
            return self._range(self.slices[0], 0, 1)[0]
        rows = self.shape[0] - first if rows is None else rows
        found = torch.empty(rows, *self.shape[1:], dtype=self.dtype)
        missing = rows
        for each in self.slices:
            begin, end = max(first, each.first), min(first + rows, each.first + each.rows)
            if begin < end:
                found[begin - first : end - first] = self._range(each, begin - each.first, end - begin)
                missing -= end - begin
        if missing:
            raise WeightsError(f"{self.slices[0].file.parent}: {missing} rows of a tensor are in none of its files")
        return found

    def like(self, tensor: Tensor) -> Tensor:
        """The rows that this rank has of a tensor, as such a tensor."""
        if not is_slice(tensor):
            return self.read()
        from torch.distributed.tensor import DTensor

        mine = self.read(first_row(tensor), len(local(tensor))).to(tensor.device)
        return DTensor.from_local(
            mine, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    def _range(self, place: Slice, first: int, rows: int) -> Tensor:
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        memory = bytearray(rows * row)
        with place.file.open("rb", buffering=0) as stream:
            stream.seek(place.begin + first * row)
            if memory and stream.readinto(memory) != len(memory):
                raise WeightsError(f"{place.file}: ends within a tensor")
        if not memory:
            return torch.empty(rows, *self.shape[1:], dtype=self.dtype)
        return torch.frombuffer(memory, dtype=self.dtype).view(rows, *self.shape[1:])


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint, however many ranks wrote it. Only headers are read."""
    found: dict[str, Stored] = {}
    for file in sorted(folder.glob("*.safetensors")):
        header, rows = read_header(file), json.loads(read_metadata(file).get(ROWS, "{}"))
        for name, tensor in header.items():
            first, total = rows.get(name, (0, tensor.shape[0] if tensor.shape else 1))
            here = Slice(file, tensor.begin, first, tensor.shape[0] if tensor.shape else 1)
            shape = (total, *tensor.shape[1:]) if tensor.shape else ()
            before = found[name].slices if name in found else ()
            found[name] = Stored(TORCH[tensor.dtype], shape, (*before, here))
    return found
