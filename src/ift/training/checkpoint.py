"""Lightning's checkpoints without pickle: tensors in safetensors, everything else in JSON, put in place by a rename."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO
from safetensors.torch import load_file, save_file
from torch import Tensor

from ift.errors import WeightsError
from ift.run import write_json

TENSORS, TREE = "state.safetensors", "state.json"


class SafeCheckpointIO(CheckpointIO):
    """A checkpoint is a folder with two files. Only what JSON and safetensors can hold goes in; nothing is executed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        partial, previous = path.with_name(path.name + ".part"), path.with_name(path.name + ".old")
        for leftover in (partial, previous):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors: dict[str, Tensor] = {}
        write_json(partial / TREE, pack(checkpoint, tensors))
        save_file(tensors, partial / TENSORS)
        if path.exists():  # renamed, not removed: a crash while files vanish one by one would leave half of it
            path.rename(previous)
        partial.rename(path)
        shutil.rmtree(previous, ignore_errors=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(path)
        try:
            tree = json.loads((path / TREE).read_text(encoding="utf-8"))
            state: dict[str, Any] = unpack(tree, load_file(path / TENSORS))
        except Exception as error:
            raise WeightsError(f"{path}: not a whole checkpoint: {type(error).__name__} {error}") from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        shutil.rmtree(path, ignore_errors=True)


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A tree of dicts, lists, tuples, tensors and plain values as JSON; tensors go into `tensors`, a name stays."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()  # a clone: safetensors refuses shared memory
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {
            type(value).__name__ if type(value) in (list, tuple) else "list": [pack(item, tensors) for item in value]
        }
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
