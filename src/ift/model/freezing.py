"""Which parameters are not trained, by their published names: model.freeze=[wte,h.0,h.*.ln_1]. Needs no torch.

A frozen parameter has no gradient and no place in the optimizer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ift.errors import ConfigError
from ift.model.config import GPTConfig
from ift.model.families import family_of
from ift.model.families.family import HEAD, Family
from ift.model.families.gpt2 import GPT2

if TYPE_CHECKING:
    from ift.model.gpt import GPT


def frozen_parameters(patterns: Sequence[str], config: GPTConfig) -> set[str]:
    """Parameters of ours that the patterns freeze.

    Raises ConfigError as `frozen_by` does, and where a pattern freezes some of the rows of a parameter.
    """
    family = family_of(config)
    frozen = frozen_by(patterns, family.shapes(config), family)
    found = set()
    for ours, pieces in family.pieces(config).items():
        names = [piece.name for piece in pieces]
        if some := [name for name in names if name in frozen]:
            if len(some) < len(names):
                left = ", ".join(name for name in names if name not in frozen)
                raise ConfigError(f"model.freeze: {', '.join(some)} is frozen only together with {left} (name all)")
            found.add(ours)
    return found


def frozen_by(patterns: Sequence[str], names: Iterable[str], family: Family = GPT2) -> set[str]:
    """Those of the names that a pattern begins, at a dot or whole: h.0 is all of the first block, and nothing of h.01.

    * stands for anything. Raises ConfigError for a pattern of no parameter, and where nothing is left to train.
    """
    names = list(names)
    frozen: set[str] = set()
    for pattern in patterns:
        plain = family.plain_name(pattern)
        matched = {name for name in names if _begins(plain, name)}
        if not matched:
            raise ConfigError(f"model.freeze={pattern}: no parameter begins so ({_hint(plain, names, family)})")
        frozen |= matched
    if names and frozen == set(names):
        raise ConfigError(f"model.freeze=[{','.join(patterns)}]: leaves nothing to train (leave some of it out)")
    return frozen


def freeze(model: GPT, patterns: Sequence[str]) -> None:
    """Raises ConfigError as `frozen_parameters` does."""
    parameters = dict(model.named_parameters())
    for name in frozen_parameters(patterns, model.config):
        parameters[name].requires_grad_(False)


def _begins(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _hint(pattern: str, names: Sequence[str], family: Family) -> str:
    head, embedding = (f"{family.names[module][0]}.weight" for module in (HEAD, "wte"))
    if head not in names and _begins(pattern, head):
        return f"the head is {embedding} here; model.tie_weights=false gives it weights of its own"
    beginnings = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
    near = difflib.get_close_matches(pattern, sorted(beginnings), n=3, cutoff=0.4)
    return (
        f"near: {', '.join(near)}"
        if near
        else "names begin with " + ", ".join(sorted({n.split(".")[0] for n in names}))
    )
