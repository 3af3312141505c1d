"""What an export is made of: the run's best model, one tensor at a time in numpy. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ift.data.prompts import Template
from ift.data.tokenizer import Tokenizer
from ift.errors import WeightsError
from ift.model.config import GPTConfig
from ift.model.weights import Folder, expected_shapes
from ift.run import RunFolder
from ift.sealed import MANIFEST, check
from ift.training.model_folder import open_model_folder

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
        with ExitStack() as stack:
            files: dict[Any, tuple[Any, dict[str, str]]] = {}
            for name, shape in self.shapes.items():
                path = self.folder.tensors[name]
                try:
                    if path not in files:
                        file = stack.enter_context(safe_open(path, framework="numpy"))
                        files[path] = file, {stored.removeprefix("transformer."): stored for stored in file.keys()}  # noqa: SIM118
                    file, stored = files[path]
                    value = file.get_tensor(stored[name])
                except (SafetensorError, OSError, TypeError) as error:
                    raise WeightsError(f"{path}: {name} cannot be read: {error}") from error
                value = value.astype(np.float32, copy=False)
                if name in VOCABULARY:
                    value = value[: shape[0]]
                if not np.isfinite(value).all():
                    raise WeightsError(f"{path}: {name} holds NaN or infinity")
                yield name, np.ascontiguousarray(value)
