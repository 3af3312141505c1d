"""What an export is made of: the run's best model, one tensor at a time in numpy. Needs no torch, but for four bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ift.artifacts.model_folder import open_model_folder
from ift.artifacts.tensors import Stored, read_header, read_tensor
from ift.artifacts.weights import Folder
from ift.errors import WeightsError
from ift.forms import DATA_REPORT
from ift.model.config import GPTConfig
from ift.model.families.family import HEAD, Family, Piece
from ift.model.low_rank import matrices_of
from ift.run import RunFolder, read_object
from ift.sealed import MANIFEST, check
from ift.text.conversations import Conversation
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class RunModel:
    """A run's model, checked. Rows of a GPT-2's head that no token has (a padded vocabulary) are left out.

    An adapter is merged into its base: in fp32, and rounded once, when it is written.

    untied      the head is a matrix of its own, though it equals the embedding
    four_bits   the adapter goes into the base that it was trained on, turned back from four bits, and not into what
                the base's files hold
    """

    run: RunFolder
    folder: Folder
    tokenizer: Tokenizer
    template: Template
    untied: bool = False
    four_bits: bool = False

    @classmethod
    def open(cls, run: RunFolder, *, untied: bool = False, four_bits: bool = False) -> RunModel:
        """Raises WeightsError where a file is missing, damaged, or does not belong to the others."""
        if not run.model.is_dir():
            raise WeightsError(f"{run.model}: no such folder (the run has no best model yet)")
        if (run.model / MANIFEST).exists():
            check(run.model)
        return cls(run, *open_model_folder(run.model), untied, four_bits)

    @property
    def name(self) -> str:
        """Of the run's folder; a name that is no text loses what cannot be written."""
        return os.fsencode(self.run.path.resolve().name).decode(errors="replace")

    @cached_property
    def config(self) -> GPTConfig:
        its = replace(self.folder.config, tie_weights=self.folder.config.tie_weights and not self.untied)
        return replace(its, vocab_size=self.tokenizer.vocab_size) if its.family == "gpt2" else its

    @property
    def family(self) -> Family:
        return self.folder.family

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Of every tensor, by its published name without what stands before all names, in a fixed order."""
        return self.family.shapes(self.config)

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end an answer besides the tokenizer's end-of-text."""
        ends = (id for id in self.folder.stops if id < self.config.vocab_size)
        return frozenset(ends) - {self.tokenizer.end_of_text}

    @cached_property
    def report(self) -> dict[str, Any]:
        """data_report.json; {} where it is missing or cannot be read: then an export says less."""
        return read_object(self.run.data_report, DATA_REPORT, advice="")[0]

    def rows_with(self, what: str) -> int | None:
        """How many of the rows have an input, a system text or a history; None: earlier releases did not count them."""
        counts = self.report.get("rows_with")
        number = counts.get(what) if isinstance(counts, dict) else None
        return number if isinstance(number, int) else None

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each tensor in the order of `shapes`, as published; with the adapter in it, where there is one."""
        names = self.family.names
        head, embedding = f"{names[HEAD][0]}.weight", f"{names['wte'][0]}.weight"
        for name, shape in self.shapes.items():
            stored = embedding if name == head and self.folder.tied else name
            path = self.folder.tensors[stored]
            value = read_tensor(path, stored, self._files[path][stored])
            if not np.isfinite(value).all():
                raise WeightsError(f"{path}: {stored} holds NaN or infinity")
            value = self._rounded(stored, value) if self.four_bits else value
            value = self.folder.adapter.merged(stored, value) if self.folder.adapter else value
            yield name, np.ascontiguousarray(value[: shape[0]])  # without rows that no token has

    def _rounded(self, name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """A matrix of a block as it comes back from four bits, as (out, in) whatever it is published as."""
        piece = self._matrices.get(name.removesuffix(".weight"))
        if piece is None:
            return value
        import torch

        from ift.model.nf4 import dequantized, quantized

        turned = piece.form == "transposed"
        weight = torch.from_numpy(np.ascontiguousarray(value.T if turned else value))
        back = dequantized(quantized(weight), (weight.shape[0], weight.shape[1]), torch.float32).numpy()
        result: NDArray[np.float32] = back.T if turned else back
        return result

    @cached_property
    def _matrices(self) -> dict[str, Piece]:
        return matrices_of(self.folder.config)

    @cached_property
    def _files(self) -> dict[Path, dict[str, Stored]]:
        files = set(self.folder.tensors.values())
        return {
            path: {self.family.plain_name(name): stored for name, stored in read_header(path).items()} for path in files
        }


INSTRUCTION, INPUT = "\ue0a1", "\ue0a4"  # private characters: no template writes them


def joint(template: Template) -> str | None:
    """What stands between an instruction and its input, for programs whose messages have one text.

    "Translate." + joint + "Hello" is then asked as the row with both was. None where the template has no place for an
    input, or writes a row with one in another way besides.
    """
    alone = _prompt(template, Conversation(INSTRUCTION))
    both = _prompt(template, Conversation(INSTRUCTION, INPUT))
    before, _, after = alone.partition(INSTRUCTION)
    head, _, rest = both.partition(INSTRUCTION)
    between, _, tail = rest.partition(INPUT)
    same = (before, after) == (head, tail) and (alone.count(INSTRUCTION), both.count(INPUT)) == (1, 1)
    return between if same else None


def _prompt(template: Template, conversation: Conversation) -> str:
    return "".join("\0" if piece.end else piece.text for piece in template.render(conversation)[0])
