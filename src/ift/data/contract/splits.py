"""Which rows train, which are for the test and which for validation: disjoint, complete, the same for the same seed."""

from __future__ import annotations

import numpy as np

from ift.errors import ConfigError, DataError
from ift.settings import FractionSettings

SPLITS = ("train", "test", "val")


def split_rows(clusters: np.ndarray, *, how: str, fractions: FractionSettings, seed: int) -> dict[str, np.ndarray]:
    """Row indices under train, test and val.

    clusters: (N,) a number for each row, the same for near twins
    how: `clustered` (whole clusters, drawn with the seed, so that no twin of a training row is tested), `random` (rows,
    drawn with the seed) or `positional` (as they stand, train first, then test; 1,100 rows: 935, 110, 55).
    A fraction of 0 leaves that split out. Raises ConfigError where they do not add up to 1, and DataError where a split
    with a fraction, or that of training rows, would be empty.
    """
    total = fractions.train + fractions.test + fractions.val
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"data.fractions: train, test and val add up to {total:g} (make it 1)")
    n = len(clusters)
    # the tiny term undoes float products such as 0.29 * 100 = 28.999...
    train = int(n * fractions.train + 1e-9)
    test = int(n * fractions.test + 1e-9) if fractions.val else n - train
    sizes = {"train": train, "test": test, "val": n - train - test}
    for name, size in sizes.items():
        fraction = getattr(fractions, name)
        if not size and (fraction or name == "train"):
            raise DataError(
                f"data.fractions.{name}={fraction:g}: {n} rows give 0 for {name} "
                f"(give more rows, or another fraction{'' if name == 'train' else ', or 0 to go without'})"
            )
    # RandomState, since NumPy promises that its stream never changes
    order = np.arange(n) if how == "positional" else np.random.RandomState(seed).permutation(n)
    if how == "clustered":
        part = _whole_clusters(clusters, order, sizes)[order]
        for name, size in sizes.items():
            if size and not (part == SPLITS.index(name)).any():
                raise DataError(
                    f"data.split=clustered: nearly all {n} rows are near twins, none is left for {name} (random splits "
                    "them all the same; the report then says which test rows have a twin in training)"
                )
    else:
        part = np.repeat(np.arange(3), [sizes[name] for name in SPLITS])
    return {name: order[part == i] for i, name in enumerate(SPLITS)}


def _whole_clusters(clusters: np.ndarray, order: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    """The split of each row: clusters go to test and val while they fit, in the order in which their first rows stand
    in `order`, so that each cluster has the same chance however large it is.

    One that would be more than a tenth of a split stays in training, unless nothing else fills it: a split of few
    clusters says little, however many rows it has.
    """
    _, first, member, count = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    split_of = np.zeros(len(count), np.int8)
    left = dict(sizes)
    queue = np.argsort(np.argsort(order)[first])
    for largest in (0.1, 1.0):
        waiting = []
        for cluster in map(int, queue):  # millions: no list of them
            if not (left["test"] or left["val"]):
                break
            size = count[cluster]
            name = next((s for s in ("test", "val") if size <= min(left[s], max(1, largest * sizes[s]))), None)
            if name is None:
                waiting.append(cluster)
            else:
                left[name] -= size
                split_of[cluster] = SPLITS.index(name)
        queue = np.array(waiting, dtype=int)
    return split_of[member]
