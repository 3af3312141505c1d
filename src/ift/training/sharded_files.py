"""Checkpoints of which each rank writes its slices: sealed, without pickle, read by any number of ranks.

checkpoints/step-00000012/
    state.json                      as in every checkpoint (training/checkpoint.py)
    rank-00000.safetensors, ...     what one rank has; under "rows" in its header: name -> [first row, rows of all]
    manifest.json                   size and sha256 of each file, each made by the rank that wrote it; ranks, copies

Slices are whole rows, so any range of rows is a range of bytes of some files: a rank reads what it needs and no more.
All ranks write to one folder, on a disk that they share.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ift.errors import MachineError, WeightsError
from ift.model.slices import first_row, is_slice, local
from ift.sealed import (
    MANIFEST,
    begin_step,
    end_step,
    give_up_step,
    hash_file,
    read_manifest,
    write_file,
    write_manifest,
)
from ift.training.checkpoint import TREE, pack, unpack, write_tensors
from ift.training.stored import ROWS, Stored, stored_tensors


@dataclass(frozen=True)
class Ranks:
    """Those that write or read a checkpoint together.

    gather: (world, *shape) of a tensor that has the same shape on every rank. writes: this rank's slices are not also
    those of another rank, as copies of hybrid sharding are.
    """

    rank: int
    gather: Callable[[Tensor], Tensor]
    writes: bool = True

    def together(self, work: Callable[[], str], *, takes_part: bool = True) -> list[str]:
        """The sha256 that each rank's work gives, "" of those that take no part.

        An error of one is heard by all, so none waits for it: raises OSError on every rank where a disk refused one of
        them. Any other error is raised where it was made, and MachineError elsewhere.
        """
        number, digest, error = 0, "", None
        try:
            digest = work() if takes_part else ""
        except OSError as refused:
            number = refused.errno or errno.EIO
        except Exception as other:
            number, error = -1, other
        said = torch.tensor([number, len(digest), *bytes.fromhex(digest.ljust(64, "0"))], dtype=torch.int64)
        answers = self.gather(said).tolist()
        for rank, (number, *_) in enumerate(answers):
            if number < 0:
                raise error or MachineError(f"rank {rank} could not go on with a checkpoint (see its error)")
            if number:
                raise OSError(number, f"{os.strerror(number)} (rank {rank})")
        return [bytes(numbers).hex() if length else "" for _, length, *numbers in answers]


def save_together(
    checkpoint: dict[str, Any], path: Path, ranks: Ranks, *, before: Callable[[], None] = lambda: None
) -> OSError | None:
    """A checkpoint of all ranks, whole or not there; the error where a disk refused one of them, on every rank."""
    partial = path.with_name(path.name + ".part")
    about = checkpoint.get("about", {})
    tensors: dict[str, Tensor] = {}
    tree = pack({key: value for key, value in checkpoint.items() if key != "about"}, tensors)
    mine = {name: tensor for name, tensor in tensors.items() if (ranks.rank == 0 or is_slice(tensor))}
    is_first, name = ranks.rank == 0, "rank-{:05}.safetensors".format

    def begin() -> str:
        before()
        begin_step(path)
        return ""

    def write() -> str:
        rows = json.dumps({name: [first_row(t), len(t)] for name, t in mine.items() if is_slice(t)})
        here = {name: local(tensor).cpu().contiguous() for name, tensor in mine.items()}
        return write_tensors(here, partial / name(ranks.rank), {ROWS: rows})

    def seal() -> str:
        hashes = {TREE: write_file(partial / TREE, json.dumps(tree, allow_nan=True).encode())}
        hashes |= {name(rank): digest for rank, digest in enumerate(digests) if digest}
        write_manifest(
            partial, hashes, {**about, "ranks": len(digests), "copies": len(digests) // sum(map(bool, digests))}
        )
        end_step(path)
        return ""

    try:
        ranks.together(begin, takes_part=is_first)
        digests = ranks.together(write, takes_part=ranks.writes)
        ranks.together(seal, takes_part=is_first)
    except OSError as refused:
        if is_first:
            give_up_step(path)
        return refused
    return None


def check_together(path: Path, ranks: Ranks, world: int) -> dict[str, Any]:
    """What the manifest says of the checkpoint. Each rank hashes a part of its files.

    Raises WeightsError, on every rank, where one of them is missing, damaged or not named.
    """
    manifest = read_manifest(path)
    names = sorted(manifest["files"])
    wrong = sorted({file.name for file in path.iterdir()} - {*names, MANIFEST})

    def is_damaged(name: str) -> bool:
        wanted, file = manifest["files"][name], path / name
        return not file.is_file() or file.stat().st_size != wanted["size"] or hash_file(file) != wanted["sha256"]

    found = torch.tensor([i % world == ranks.rank and is_damaged(name) for i, name in enumerate(names)])
    wrong += [name for name, damaged in zip(names, ranks.gather(found.long()).amax(0).tolist(), strict=True) if damaged]
    if wrong:
        raise WeightsError(f"{path / wrong[0]}: damaged, missing, or does not belong here")
    return dict(manifest["about"])


def load_together(
    path: Path, ranks: Ranks, world: int, *, into: Mapping[str, Tensor], optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Fill tensors of a module and its optimizers, which may be slices, from any checkpoint; what else it holds.

    Where the checkpoint has other tensors, none is filled: they are given back, to be refused by who knows why.
    """
    about = check_together(path, ranks, world)
    state = unpack(json.loads((path / TREE).read_text(encoding="utf-8")), cast(Any, stored_tensors(path)))
    stored = state.pop("state_dict")
    if set(stored) != set(into):
        return {**_read(state), "about": about, "state_dict": stored}
    for name, tensor in into.items():
        local(tensor).copy_(local(stored[name].like(tensor)))
    for optimizer, kept in zip(optimizers, state.pop("optimizer_states", []), strict=True):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, values in kept["state"].items():
            of = parameters[number]
            kept["state"][number] = {
                key: value.like(of) if isinstance(value, Stored) and value.shape == of.shape else _read(value)
                for key, value in values.items()
            }
        optimizer.load_state_dict(_read(kept))
    return {**_read(state), "about": about, "state_dict": into}


def _read(tree: Any) -> Any:
    """The tree with every tensor read."""
    if isinstance(tree, Stored):
        return tree.read()
    if isinstance(tree, dict):
        return {key: _read(value) for key, value in tree.items()}
    return type(tree)(map(_read, tree)) if type(tree) in (list, tuple) else tree
