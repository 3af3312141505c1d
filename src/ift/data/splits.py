"""Which rows train, which are for the test and which for validation: disjoint, complete, the same for the same seed."""

from __future__ import annotations

import random
from typing import TypeVar

from ift.errors import ConfigError, DataError
from ift.settings import FractionSettings

T = TypeVar("T")


def split_rows(rows: list[T], *, how: str, fractions: FractionSettings, seed: int) -> dict[str, list[T]]:
    """Lists under train, test and val, in that order of the rows: train first, test next, the rest validates.

    how: `random` (shuffled with the seed) or `positional` (as they stand; 1,100 rows: 935, 110, 55).
    A fraction of 0 goes without that split. Raises ConfigError where they do not add up to 1, and DataError where a
    wanted split would be empty; training rows are always wanted.
    """
    total = fractions.train + fractions.test + fractions.val
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"data.fractions: train, test and val add up to {total:g} (make it 1)")
    order = list(range(len(rows)))
    if how == "random":
        random.Random(seed).shuffle(order)
    # the tiny term undoes float products such as 0.29 * 100 = 28.999...
    train = int(len(rows) * fractions.train + 1e-9)
    test = int(len(rows) * fractions.test + 1e-9) if fractions.val else len(rows) - train
    parts = {"train": order[:train], "test": order[train : train + test], "val": order[train + test :]}
    for name, part in parts.items():
        wanted = getattr(fractions, name)
        if not part and (wanted or name == "train"):
            raise DataError(
                f"data.fractions.{name}={wanted:g}: {len(rows)} rows give 0 for {name} "
                f"(give more rows, or another fraction{'' if name == 'train' else ', or 0 to go without'})"
            )
    return {name: [rows[i] for i in part] for name, part in parts.items()}
