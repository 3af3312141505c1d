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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from ift.artifacts.tensors import parts_of
from ift.errors import WeightsError
from ift.model.slices import local
from ift.sealed import begin_step, check, end_step, give_up_step, remove_folder, write_file, write_manifest
from ift.training.stored import DTYPES, stored_tensors
from ift.training.writer import Writer

TREE = "state.json"
WRITERS = 4  # threads: hashing takes longer than writing, and one file is flushed while others are hashed
SMALL = 1 << 20  # bytes of tensors that are not worth a second file
IN_HOST_MEMORY = 256 << 20  # bytes of a file whose tensors come from a device: so much for each writer at once


class SealedCheckpointIO(CheckpointIO):
    """Only what JSON and safetensors can hold goes in; nothing is executed when it is read.

    A save that the disk refuses is no end of the training: it leaves what was there whole, and its error in `failed`.
    (An exception on rank 0 alone would leave the other ranks waiting for it.)
    """

    def __init__(
        self,
        before: Callable[[], None] = lambda: None,
        *,
        writer: Writer | None = None,
        ended: Callable[[int, OSError | None], None] = lambda step, error: None,
    ) -> None:
        """
        before: what must be on disk first (the lines of metrics.jsonl that the checkpoint follows on)
        writer: writes while training goes on; None: a save returns when it is on disk
        ended: called with the step of each save that has ended, and why it failed; it may be the writer's thread
        """
        self.before, self.writer, self.ended = before, writer, ended
        self.failed: OSError | None = None  # of the last save that has ended
        self._job: Future[None] | None = None

    def wait(self) -> None:
        """Until every save has ended. Raises what one raised that is no refusal of the disk."""
        if self.writer is not None:
            self.writer.wait()
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def forget(self) -> None:
        """The weights change: a model that is kept from now on is no longer that of the last save."""
        if self.writer is not None:
            self.writer.forget()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """checkpoint["about"], a dict, goes into the manifest. What is saved is the state as it is now."""
        self.wait()
        about = checkpoint.get("about", {})
        tensors: dict[str, Tensor] = {}
        tree = pack({key: value for key, value in checkpoint.items() if key != "about"}, tensors)
        text = json.dumps(tree, allow_nan=True).encode()
        try:
            self.before()
        except OSError as error:
            self._end(about, error)
            return
        copies = self.writer.copied(tensors) if self.writer is not None else None
        if self.writer is None or copies is None:
            self._write(text, tensors, about, Path(path))
            return
        weights = {name: copies[place["tensor"]] for name, place in _entries(tree, "state_dict")}
        self.writer.remember(about.get("step", -1), weights)
        self._job = self.writer.write(partial(self._write, text, copies, about, Path(path)))

    def _write(self, tree: bytes, tensors: dict[str, Tensor], about: dict[str, Any], path: Path) -> None:
        try:
            write_checkpoint(tree, tensors, about, begin_step(path))
            end_step(path)
        except OSError as error:
            give_up_step(path)
            self._end(about, error)
        else:
            self._end(about, None)

    def _end(self, about: dict[str, Any], error: OSError | None) -> None:
        self.failed = error
        self.ended(about.get("step", -1), error)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises WeightsError where a file is missing, damaged or not what the manifest says."""
        path = Path(path)
        manifest = check(path)
        try:
            tree = json.loads((path / TREE).read_text(encoding="utf-8"))
            tensors = {name: stored.read() for name, stored in stored_tensors(path).items()}
            state: dict[str, Any] = unpack(tree, tensors)
        except Exception as error:
            raise WeightsError(f"{path}: not a checkpoint: {type(error).__name__} {error}") from error
        return {**state, "about": manifest.about}

    def remove_checkpoint(self, path: Any) -> None:
        remove_folder(Path(path))


def _entries(tree: Any, key: str) -> list[tuple[str, Any]]:
    """Of a packed tree of dicts: what stands under a key, where that is a dict too."""
    found: dict[str, Any] = next((value for name, value in tree["dict"] if name == key), {})
    return [(name, value) for name, value in found.get("dict", []) if isinstance(value, dict) and "tensor" in value]


def write_checkpoint(tree: bytes, tensors: dict[str, Tensor], about: dict[str, Any], folder: Path) -> None:
    """Write, flush and seal; several files at once. Tensors on a device come to the host a file at a time."""
    hashes = {TREE: write_file(folder / TREE, tree)}
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


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> str:
    """A safetensors file, flushed, and its sha256. (safetensors' own writer gives neither a hash nor a flush.)"""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # each aligned to its own size
    about = {name: (DTYPES[tensor.dtype], tensor.shape) for name, tensor in ordered}
    return write_file(path, *parts_of(about, (as_bytes(tensor) for _, tensor in ordered), metadata))


def as_bytes(tensor: Tensor) -> np.ndarray:
    return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)


def pack(value: Any, tensors: dict[str, Tensor], name: str = "", seen: dict[Any, str] | None = None) -> Any:
    """A tree of dicts, lists, tuples, tensors and plain values as JSON; tensors go into `tensors`, a name stays.

    A tensor that stands in several places, as a tied head does, is kept once. seen: those so far, for the recursion.
    """
    seen = {} if seen is None else seen
    if isinstance(value, Tensor):
        here = local(value)
        place = (here.data_ptr(), value.dtype, value.device, value.shape, value.stride())
        memory: Any = place if here.numel() else object()
        if memory not in seen:
            seen[memory] = _free(name or "tensor", tensors)
            tensors[seen[memory]] = value.detach()
        return {"tensor": seen[memory]}
    if isinstance(value, dict):
        items = value.items()
        return {"dict": [[pack(k, tensors, "", seen), pack(item, tensors, f"{name}/{k}", seen)] for k, item in items]}
    if isinstance(value, list | tuple):
        kind = type(value).__name__ if type(value) in (list, tuple) else "list"
        return {kind: [pack(item, tensors, f"{name}/{i}", seen) for i, item in enumerate(value)]}
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
