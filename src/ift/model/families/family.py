"""What a family is: how its config.json reads, and what its published tensors are called. Needs no torch.

Our modules have the names of GPT-2's. A published tensor has a name behind a prefix ("model."), and one parameter of
ours may hold the rows of several, one after the other: those of queries, keys and values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ift.model.config import GPTConfig

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "lm_head"
MOST = {"num_hidden_layers": 10_000, "n_layer": 10_000}  # beyond it a number is damage, and would fill the memory
WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")  # of torch, at any level
PREFIXES = ("module.", "model.", "base_model.", "pretrained_model.")  # of trainers

Form = Literal["as it is", "transposed", "head by head"]


def whole(config: Mapping[str, Any], key: str, otherwise: int | None = None) -> int:
    """A size of config.json. Raises KeyError where it is missing, ValueError where it is none."""
    value = config[key] if otherwise is None else config.get(key)
    value = otherwise if value is None and otherwise is not None else value
    if (
        isinstance(value, int | float)
        and value == value // 1
        and 0 < value <= MOST.get(key, 10**9)
        and value is not True
    ):
        return int(value)
    raise ValueError(f"{key} is {json.dumps(value)[:60]}, which is no size")


class Piece(NamedTuple):
    """A published tensor, as rows of a parameter of ours."""

    name: str  # without what stands before all names
    shape: list[int]
    rows: slice  # of the parameter
    form: Form = "as it is"


@dataclass(frozen=True)
class Family:
    """
    architecture  the class of transformers
    read          config.json -> what it says; raises KeyError, TypeError or ValueError where it is not understood
    names         module of ours -> published modules whose rows it holds; in a block, the name inside of it
    prefix        before all published names but the head's
    blocks        the published list of blocks
    forms         module of ours -> how its matrix is published, where that is not (out, in)
    constants     ends of names that are no weights
    aliases       other beginnings of names, in other exports -> the one in `names`
    """

    architecture: str
    read: Callable[[Mapping[str, Any]], GPTConfig]
    names: Mapping[str, tuple[str, ...]]
    prefix: str = "model."
    blocks: str = "layers"
    forms: Mapping[str, Form] | None = None
    constants: tuple[str, ...] = (".rotary_emb.inv_freq",)
    aliases: Mapping[str, str] | None = None

    def plain_name(self, stored: str) -> str:
        """module.model.layers.0.mlp.up_proj.weight -> layers.0.mlp.up_proj.weight"""
        name = WRAPPERS.sub("", stored)
        while prefix := next((p for p in (self.prefix, *PREFIXES) if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        for other, ours in (self.aliases or {}).items():
            if name.startswith(other):
                return ours + name.removeprefix(other)
        return name

    def stored_name(self, plain: str) -> str:
        head = self.names[HEAD][0]
        return plain if plain.startswith(f"{head}.") else self.prefix + plain

    def pieces(self, config: GPTConfig) -> dict[str, list[Piece]]:
        """Every parameter of ours, in a fixed order -> the published tensors that its rows are of."""
        found = {}
        sizes = {
            3: [config.n_head * config.head_dim, *[config.n_kv_head * config.head_dim] * 2],
            2: [config.mlp_dim] * 2,
        }
        for name, shape in config.shapes().items():
            module, _, kind = name.rpartition(".")
            before = ""
            if module.startswith("h."):
                _, layer, module = module.split(".", 2)
                before = f"{self.blocks}.{layer}."
            published = self.names[module]
            pieces, begin = [], 0
            for part, rows in zip(published, sizes.get(len(published), shape[:1]), strict=True):
                form = (self.forms or {}).get(module, "as it is")
                if form == "transposed" and kind != "weight":
                    form = "as it is"
                theirs = [rows, *shape[1:]]
                pieces.append(
                    Piece(
                        f"{before}{part}.{kind}",
                        theirs[::-1] if form == "transposed" else theirs,
                        slice(begin, begin + rows),
                        form,
                    )
                )
                begin += rows
            found[name] = pieces
        return found

    def shapes(self, config: GPTConfig) -> dict[str, list[int]]:
        """Published name and shape of every tensor that a file of such a model holds, in a fixed order."""
        return {piece.name: piece.shape for pieces in self.pieces(config).values() for piece in pieces}


def as_published(rows: Tensor, piece: Piece, config: GPTConfig) -> Tensor:
    """Rows of a parameter of ours as the published tensor has them, as a view; heads have an axis of their own."""
    if piece.form == "transposed":
        return rows.t()
    if piece.form == "head by head":  # each head's queries, keys and values together, where ours has all queries first
        return rows.view(3, config.n_head, -1, *rows.shape[1:]).transpose(0, 1)
    return rows


def to_theirs(rows: Tensor, piece: Piece, config: GPTConfig) -> Tensor:
    return as_published(rows, piece, config).reshape(piece.shape)
