"""Lightning's checkpoints as sealed folders: tensors in safetensors, everything else in JSON, no pickle.

checkpoints/step-00000012/      written beside its name, flushed, then renamed into place
    state.json                  the tree: counters, schedule, callbacks; where a tensor stands, its file and name
    state-0.safetensors, ...    the tensors, in several files where there is much
    manifest.json               size and sha256 of each file, the step, the fingerprint of the data
checkpoints/LATEST              the newest of them
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors.torch import load_file
from torch import Tensor

from ift.artifacts.tensors import parts_of
from ift.errors import WeightsError
from ift.sealed import (
    check,
    flush_folder,
    point_to,
    prune,
    remove_folder,
    replace_folder,
    write_file,
    write_manifest,
)

TREE = "state.json"
WRITERS = 4  # threads: hashing takes longer than writing, and one file is flushed while others are hashed
SMALL = 1 << 20  # bytes of tensors that are not worth a second file
IN_HOST_MEMORY = 256 << 20  # bytes of a file whose tensors come from a device: so much for each writer at once
DTYPES = {  # safetensors' names
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class SealedCheckpointIO(CheckpointIO):
    """Only what JSON and safetensors can hold goes in; nothing is executed when it is read.

    A save that the disk refuses is no end of the training: it leaves what was there whole, and its error in `failed`.
    (An exception on rank 0 alone would leave the other ranks waiting for it.)
    """

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        """before: what must be on disk first (the lines of metrics.jsonl that the checkpoint follows on)."""
        self.before = before
        self.failed: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """checkpoint["about"], a dict, goes into the manifest."""
        path, self.failed = Path(path), None
        partial = path.with_name(path.name + ".part")
        try:
            self.before()
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_folder(partial)
            os.mkdir(partial)
            write_checkpoint(checkpoint, partial)
            if path.exists():
                replace_folder(partial, path)
            else:
                os.rename(partial, path)
                flush_folder(path.parent)
            point_to(path)
            prune(path.parent)
        except OSError as error:
            self.failed = error
            _give_room(partial)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises WeightsError where a file is missing, damaged or not what the manifest says."""
        path = Path(path)
        manifest = check(path)
        try:
            tree = json.loads((path / TREE).read_text(encoding="utf-8"))
            tensors: dict[str, Tensor] = {}
            for file in sorted(path.glob("*.safetensors")):
                tensors |= load_file(file)
            state: dict[str, Any] = unpack(tree, tensors)
        except Exception as error:
            raise WeightsError(f"{path}: not a checkpoint: {type(error).__name__} {error}") from error
        return {**state, "about": manifest.about}

    def remove_checkpoint(self, path: Any) -> None:
        remove_folder(Path(path))


def _give_room(partial: Path) -> None:
    """What was half written is of no use, and may be all that the disk had left."""
    with suppress(OSError):  # the next save tries again
        remove_folder(partial)


def write_checkpoint(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write, flush and seal; several files at once. Tensors on a device come to the host a file at a time."""
    about = checkpoint.get("about", {})
    tensors: dict[str, Tensor] = {}
    tree = pack({key: value for key, value in checkpoint.items() if key != "about"}, tensors)
    hashes = {TREE: write_file(folder / TREE, json.dumps(tree, allow_nan=True).encode())}
    files = {f"state-{i}.safetensors": part for i, part in enumerate(share_out(tensors))}
    with ThreadPoolExecutor(WRITERS) as pool:
        jobs = {name: pool.submit(write_part, part, folder / name) for name, part in files.items()}
        hashes |= {name: job.result() for name, job in jobs.items()}
    write_manifest(folder, hashes, about)


def share_out(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """One part for each writer, of about one size: one in all where there is little, more where a device has much."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    size, most = max(SMALL, math.ceil(total / WRITERS)), WRITERS
    if size > IN_HOST_MEMORY and any(tensor.device.type != "cpu" for tensor in tensors.values()):
        size, most = IN_HOST_MEMORY, len(tensors)
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes / 2 > size and len(parts) < most:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += tensor.nbytes
    return parts


def write_part(tensors: dict[str, Tensor], path: Path) -> str:
    """Only now does what lies on a device come to the host; what is there already is not copied."""
    return write_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> str:
    """A safetensors file, flushed, and its sha256. (safetensors' own writer gives neither a hash nor a flush.)"""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # each aligned to its own size
    about = {name: (DTYPES[tensor.dtype], tensor.shape) for name, tensor in ordered}
    return write_file(path, *parts_of(about, (as_bytes(tensor) for _, tensor in ordered)))


def as_bytes(tensor: Tensor) -> np.ndarray:
    return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)


def pack(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """A tree of dicts, lists, tuples, tensors and plain values as JSON; tensors go into `tensors`, a name stays."""
    if isinstance(value, Tensor):
        name = _free(name or "tensor", tensors)
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors, f"{name}/{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = type(value).__name__ if type(value) in (list, tuple) else "list"
        return {kind: [pack(item, tensors, f"{name}/{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _free(name: str, tensors: dict[str, Tensor]) -> str:
    """The tensor's path in the tree, so that a person can read the file; with a number where two keys look alike."""
    name = name.strip("/")
    return next(n for n in chain([name], (f"{name}#{i}" for i in count(2))) if n not in tensors)


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
