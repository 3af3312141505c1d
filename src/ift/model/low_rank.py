"""What an adapter is: which published matrices have one, of which rank and scale. Needs no torch.

LoRA (Hu et al. 2021, arXiv:2106.09685): W becomes W + s B A with A (r, in), B (out, r) and s = alpha / r.
rsLoRA (Kalajdzievski 2023, arXiv:2312.03732): s = alpha / sqrt(r).
DoRA (Liu et al. 2024, arXiv:2402.09353): each row of that is then scaled to the length m, (out,).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ift.errors import ConfigError
from ift.model.config import GPTConfig
from ift.model.families import family_of
from ift.model.families.family import HEAD, Piece

Array = TypeVar("Array", bound=Any)  # of numpy or torch


@dataclass(frozen=True)
class LowRank:
    """
    base       folder or name on the Hub of the model that it is for
    base_hash  of the base's weights; empty: nobody has noted it
    matrices   adapted ones by their published names ("layers.0.self_attn.q_proj"), in the order of the model
    ranks      of matrices whose rank is another; alphas likewise
    tokens     ids whose rows of the embedding and the head are trained too (token_rows.py)
    four_bits  the matrices of the base's blocks are read in NF4 (nf4.py)
    """

    base: str
    matrices: tuple[str, ...]
    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    dropout: float = 0.0
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    base_hash: str = ""
    tokens: tuple[int, ...] = ()
    four_bits: bool = False

    def rank_of(self, matrix: str) -> int:
        return self.ranks.get(matrix, self.rank)

    def scale_of(self, matrix: str) -> float:
        rank = self.rank_of(matrix)
        return self.alphas.get(matrix, self.alpha) / (math.sqrt(rank) if self.rslora else rank)


def merged_weight(weight: Array, A: Array, B: Array, scale: float, magnitude: Array | None = None) -> Array:
    """(out, in) W + scale B A, with rows of the length `magnitude` where that is given. All in fp32: cast the result.

    Arrays of numpy or tensors of torch alike.
    """
    merged = weight + scale * (B @ A)
    if magnitude is None:
        return merged
    return merged * (magnitude / (merged * merged).sum(-1) ** 0.5)[:, None]


def matrices_of(config: GPTConfig) -> dict[str, Piece]:
    """Published name of every matrix that can have an adapter -> its piece: the matrices of the blocks."""
    return {
        piece.name.removesuffix(".weight"): piece
        for ours, pieces in family_of(config).pieces(config).items()
        for piece in pieces
        if ours.startswith("h.") and ours.endswith(".weight") and len(piece.shape) == 2
    }


def in_block(matrix: str) -> str:
    """layers.0.self_attn.q_proj -> self_attn.q_proj"""
    return matrix.split(".", 2)[2]


def layer_of(matrix: str) -> int:
    return int(matrix.split(".", 2)[1])


def chosen(targets: str | Sequence[str], layers: Sequence[int] | None, config: GPTConfig) -> tuple[str, ...]:
    """The matrices that adapter.targets and adapter.layers name.

    A name stands for all matrices that it ends, at a dot or whole, as in PEFT. Raises ConfigError for a name of no
    matrix, for the head, and for a layer that is not there.
    """
    every = list(matrices_of(config))
    if wrong := [layer for layer in layers or () if not 0 <= layer < config.n_layer]:
        raise ConfigError(f"adapter.layers={wrong[0]}: the model has the layers 0 to {config.n_layer - 1}")
    there = [name for name in every if layers is None or layer_of(name) in layers]
    if targets in ("all", "all-linear", ["all"], ["all-linear"]):
        return tuple(there)
    names = [targets] if isinstance(targets, str) else list(targets)
    for name in names:
        if not any(ends(matrix, name) for matrix in there):
            raise ConfigError(f"adapter.targets={name}: {_why_not(name, there, config)}")
    return tuple(matrix for matrix in there if any(ends(matrix, name) for name in names))


def ends(matrix: str, name: str) -> bool:
    return matrix == name or matrix.endswith(f".{name}")


def shortest_names(matrices: Iterable[str], there: Iterable[str]) -> list[str]:
    """Names, as short as can be, that stand for exactly these of all the matrices that are there."""
    wanted, there = set(matrices), list(there)
    found: dict[str, None] = {}
    for matrix in there:
        parts = matrix.split(".")
        for begin in range(len(parts) - 1, -1, -1) if matrix in wanted else ():
            name = ".".join(parts[begin:])
            if all(other in wanted for other in there if ends(other, name)):
                found[name] = None
                break
    return list(found)


def _why_not(name: str, there: Sequence[str], config: GPTConfig) -> str:
    head, embedding = (family_of(config).names[module][0] for module in (HEAD, "wte"))
    if name in (head, embedding) and config.tie_weights:
        return "head and embedding are one matrix here, and an adapter of one would change both (leave it out)"
    if name in (head, embedding):
        return "only matrices of the blocks have adapters (leave it out)"
    known = sorted({in_block(matrix).rpartition(".")[2] for matrix in there})
    near = difflib.get_close_matches(name, known, n=1)
    return f"no matrix is called so ({f'did you mean {near[0]}? ' if near else ''}there are {', '.join(known)})"
