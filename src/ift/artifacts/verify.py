"""Whether a run folder is whole, and whether two runs are the same: by hashes and bytes, without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ift.artifacts.tensors import read_header
from ift.artifacts.weights import inspect_folder
from ift.errors import IftError
from ift.run import RunFolder, read_jsonl
from ift.sealed import LATEST, check, check_step, pointer, read_manifest, step_folder, steps_there

TIMED = ("tokens_per_second", "seconds", "spent")  # what the clock says differs from run to run


def verify(run: RunFolder) -> Iterator[dict[str, Any]]:
    """One dict for each folder of a run that is sealed: what, path, ok, and why not or what is in it."""
    for step in steps_there(run.checkpoints):
        yield _verified("checkpoint", step_folder(run.checkpoints, step), step)
    if run.checkpoints.is_dir() and steps_there(run.checkpoints):
        yield _pointer(run.checkpoints)
    if run.model.exists():
        yield _verified("model", run.model, None)


def _verified(what: str, path: Path, step: int | None) -> dict[str, Any]:
    try:
        if step is None:
            check(path)
            folder = inspect_folder(path)  # shapes, by config.json; of an adapter, whether its base is what it was
            tensors = len(folder.adapter.names if folder.adapter else folder.tensors)
        else:
            check_step(path.parent, step)
            tensors = sum(len(read_header(file)) for file in path.glob("*.safetensors"))
        files = read_manifest(path)["files"]
    except IftError as error:
        return {"what": what, "path": str(path), "ok": False, "why": str(error)}
    size = sum(file["size"] for file in files.values())
    return {"what": what, "path": str(path), "ok": True, "files": len(files), "bytes": size, "tensors": tensors}


def _pointer(folder: Path) -> dict[str, Any]:
    path, newest = folder / LATEST, step_folder(folder, steps_there(folder)[0])
    about = {"what": "pointer", "path": str(path)}
    try:
        if path.read_bytes() == pointer(newest):
            return {**about, "ok": True}
    except OSError:
        pass  # there is none, or nothing that it could name
    return {**about, "ok": False, "why": f"{path}: does not name {newest.name} (mended when the run goes on)"}


def differences(one: RunFolder, other: RunFolder) -> list[str]:
    """What differs between two runs that should be the same run, clocks left out: nothing, if resuming is exact.

    The last checkpoint holds the weights, the optimizer's state, the schedule, the random states of every rank and
    the state of early stopping; metrics.jsonl the losses; model/ the best weights; responses.jsonl the answers.
    """
    found = []
    lines = [[_timeless(line) for line in read_jsonl(run.metrics)] for run in (one, other)]
    if lines[0] != lines[1]:
        first = next((i for i, (a, b) in enumerate(zip(*lines, strict=False)) if a != b), min(map(len, lines)))
        found.append(f"metrics.jsonl differs from line {first + 1} on")
    steps = [steps_there(run.checkpoints)[:1] for run in (one, other)]
    if steps[0] != steps[1] or not steps[0]:
        return [*found, f"last checkpoints {steps}"]
    folders = [step_folder(run.checkpoints, steps[0][0]) for run in (one, other)]
    manifests = [read_manifest(check(folder).path)["files"] for folder in folders]
    for name in sorted(set(manifests[0]) | set(manifests[1])):
        if name.endswith(".safetensors") and manifests[0].get(name) != manifests[1].get(name):
            found.append(f"{folders[0].name}/{name} differs (weights, optimizer, random states)")
    trees = [_timeless(_unpacked(json.loads((folder / "state.json").read_text()))) for folder in folders]
    if trees[0] != trees[1]:
        found += [f"state.json: {key}" for key in trees[0] if trees[0][key] != trees[1].get(key)]
    for name in ("model/model.safetensors", "model/adapter_model.safetensors", "responses.jsonl", "samples.jsonl"):
        contents = [(run.path / name).read_bytes() if (run.path / name).exists() else None for run in (one, other)]
        if contents[0] != contents[1]:
            found.append(f"{name} differs")
    return found


def _unpacked(tree: Any) -> Any:
    """The packed tree of a state.json as dicts and lists; names of tensors stay."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return content
    return (
        {str(key): _unpacked(item) for key, item in content}
        if kind == "dict"
        else [_unpacked(item) for item in content]
    )


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):  # the size of the file before a line depends on how a speed was printed
        return {key: _timeless(item) for key, item in value.items() if key not in (*TIMED, "begin")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
