"""Which parameters are not trained, by name: model.freeze=[wte,h.0,h.*.ln_1]. Needs no torch.

A frozen parameter has no gradient and no place in the optimizer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ift.errors import ConfigError
from ift.model.families.gpt2 import HEAD, our_name

if TYPE_CHECKING:
    from torch import nn


def frozen_by(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """Those of the names that a pattern begins, at a dot or whole: h.0 is all of the first block, and nothing of h.01.

    * stands for anything. Raises ConfigError for a pattern of no parameter, and where nothing is left to train.
    """
    names = list(names)
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if _begins(our_name(pattern), name)}
        if not matched:
            raise ConfigError(f"model.freeze={pattern}: no parameter begins so ({_hint(our_name(pattern), names)})")
        frozen |= matched
    if names and frozen == set(names):
        raise ConfigError(f"model.freeze=[{','.join(patterns)}]: leaves nothing to train (leave some of it out)")
    return frozen


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Raises ConfigError as `frozen_by` does."""
    parameters = dict(model.named_parameters())
    for name in frozen_by(patterns, parameters):
        parameters[name].requires_grad_(False)


def _begins(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _hint(pattern: str, names: Sequence[str]) -> str:
    if HEAD not in names and _begins(pattern, HEAD):
        return "the head is wte.weight here; model.tie_weights=false gives it weights of its own"
    beginnings = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
    near = difflib.get_close_matches(pattern, sorted(beginnings), n=3, cutoff=0.4)
    return (
        f"near: {', '.join(near)}"
        if near
        else "names begin with " + ", ".join(sorted({n.split(".")[0] for n in names}))
    )
