"""What an export is made of: the run's best model, one tensor at a time in numpy. Needs no torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ift.artifacts.model_folder import open_model_folder
from ift.artifacts.weights import Folder, expected_shapes
from ift.errors import WeightsError
from ift.model.config import GPTConfig
from ift.run import RunFolder
from ift.sealed import MANIFEST, check
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer

STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}  # types of a safetensors file, as numpy reads them
VOCABULARY = ("wte.weight", "lm_head.weight")  # matrices with a row for each token


@dataclass(frozen=True)
class Source:
    """A run's model, checked. Rows of its head that no token has (a padded vocabulary) are left out."""

    run: RunFolder
    folder: Folder
    tokenizer: Tokenizer
    template: Template

    @classmethod
    def open(cls, run: RunFolder) -> Source:
        """Raises WeightsError where a file is missing, damaged, or does not belong to the others."""
        if not run.model.is_dir():
            raise WeightsError(f"{run.model}: no such folder (the run has no best model yet)")
        if (run.model / MANIFEST).exists():
            check(run.model)
        return cls(run, *open_model_folder(run.model))

    @property
    def name(self) -> str:
        return self.run.path.resolve().name

    @cached_property
    def config(self) -> GPTConfig:
        f = self.folder
        sizes = (self.tokenizer.vocab_size, f.context_length, f.n_layer, f.n_head, f.n_embd)
        return GPTConfig(*sizes, dropout=0.0, tie_weights=f.tied)

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Of every tensor, by its published name without the "transformer." prefix, in a fixed order."""
        c = self.config
        shapes = expected_shapes(c.n_layer, c.n_embd, c.context_length, c.vocab_size)
        return shapes if c.tie_weights else {**shapes, "lm_head.weight": [c.vocab_size, c.n_embd]}

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each tensor in the order of `shapes`, as published: matrices of a block are (in, out)."""
        for name, shape in self.shapes.items():
            path = self.folder.tensors[name]
            value = self._files[path][name]()
            if name in VOCABULARY:
                value = value[: shape[0]]
            if not np.isfinite(value).all():
                raise WeightsError(f"{path}: {name} holds NaN or infinity")
            yield name, np.ascontiguousarray(value)

    @cached_property
    def _files(self) -> dict[Path, dict[str, Callable[[], NDArray[np.float32]]]]:
        return {path: tensors_of(path) for path in set(self.folder.tensors.values())}


def tensors_of(path: Path) -> dict[str, Callable[[], NDArray[np.float32]]]:
    """Functions that read a tensor of a safetensors file, whose size has been checked, as fp32; prefixes are left out.

    Nothing else knows bf16 in numpy: its bits are the upper half of an fp32's.
    """

    def reader(name: str, about: dict[str, Any]) -> Callable[[], NDArray[np.float32]]:
        kind, shape, begin = about["dtype"], tuple(about["shape"]), start + about["data_offsets"][0]
        if kind not in STORED:
            raise WeightsError(f"{path}: {name} is of type {kind} (known are {', '.join(STORED)})")

        def read() -> NDArray[np.float32]:
            stored = np.fromfile(path, STORED[kind], count=int(np.prod(shape)), offset=begin).reshape(shape)
            if kind == "BF16":
                return (stored.astype(np.uint32) << 16).view(np.float32)
            return stored.astype(np.float32, copy=False)

        return read

    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
    start = 8 + length
    header.pop("__metadata__", None)
    return {name.removeprefix("transformer."): reader(name, about) for name, about in header.items()}
