"""Folders that are whole or not there: flushed to disk, sealed with sizes and sha256, put in place by one rename.

A sealed folder holds plain files and `manifest.json`, which names them all and proves itself: its own bytes are the
only ones that give its own hash. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift import forms
from ift.errors import WeightsError, one_line

MANIFEST, LATEST = "manifest.json", "LATEST"
KEPT = 2  # checkpoints: where the newest is damaged, there is one before it
CHUNK, AHEAD = 1 << 20, 16 << 20  # bytes hashed and written at once, and given to the disk before the flush


@dataclass(frozen=True)
class Sealed:
    """A folder that was found whole; `about` is what its manifest says of it."""

    path: Path
    about: dict[str, Any]


def write_file(path: Path, *parts: Any) -> str:
    """Write buffers into a new file and flush it to disk; the sha256, made from the bytes in memory.

    It is not read back: that would show the system's copy in memory, not what the disk holds. A file that is not what
    its hash says is found when it is read (`check`), and the checkpoint before it is there for that. Raises OSError.
    """
    digest, written, started = hashlib.sha256(), 0, 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for part in parts:
            rest = memoryview(part).cast("B")
            while rest:  # a piece at a time: what is hashed is still in the processor's cache when it is written
                piece = rest[:CHUNK]
                digest.update(piece)
                while piece:
                    done = os.write(descriptor, piece)
                    piece, written = piece[done:], written + done
                rest = rest[CHUNK:]
                if written - started >= AHEAD and hasattr(os, "posix_fadvise"):
                    # the disk begins with it now, while the rest is hashed; nothing waits before the flush
                    os.posix_fadvise(descriptor, started, written - started, os.POSIX_FADV_DONTNEED)
                    started = written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def flush_folder(path: Path) -> None:
    """Make names that were added, renamed or removed in a folder last through a loss of power."""
    if os.name == "nt":  # folders cannot be opened there; NTFS keeps names in its journal
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _render(content: Mapping[str, Any]) -> bytes:
    """A manifest of any version, with the hash of all that it says."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, sort_keys=True, indent=1) + "\n").encode()


def write_manifest(folder: Path, hashes: Mapping[str, str], about: Mapping[str, Any]) -> None:
    files = {name: {"size": (folder / name).stat().st_size, "sha256": digest} for name, digest in hashes.items()}
    write_file(folder / MANIFEST, _render(forms.MANIFEST.stamped({"files": files, "about": dict(about)})))
    flush_folder(folder)


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Flush the files of a folder that others wrote, and seal it."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    write_manifest(folder, {path.name: hash_file(path) for path in sorted(folder.iterdir())}, about)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises WeightsError where it is missing or was changed, ConfigError where a later release wrote it."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        content: dict[str, Any] = json.loads(raw)
        stated = {key: value for key, value in content.items() if key != "sha256"}
        same = _render(stated) == raw
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read: {one_line(str(error), 60)}") from error
    if not same:
        raise WeightsError(f"{path}: was changed after it was written")
    return forms.MANIFEST.current(stated, path)


def check(folder: Path) -> Sealed:
    """Every file has the size and the sha256 that the manifest says, and there is no other; else WeightsError."""
    manifest = read_manifest(folder)
    there = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(there - set(manifest["files"])):
        raise WeightsError(f"{folder / name}: does not belong here (the manifest does not name it)")
    for name, wanted in manifest["files"].items():
        path = folder / name
        if name not in there:
            raise WeightsError(f"{path}: missing")
        if (size := path.stat().st_size) != wanted["size"]:
            raise WeightsError(f"{path}: damaged: {size:,} bytes, not {wanted['size']:,}")
        if (digest := hash_file(path)) != wanted["sha256"]:
            raise WeightsError(f"{path}: damaged: sha256 {digest[:12]}..., not {wanted['sha256'][:12]}...")
    return Sealed(folder, manifest["about"])


def remove_folder(path: Path) -> None:
    """Remove a folder: first its name, so that half of it is never taken for one."""
    going = path.with_name(path.name + ".gone")
    if path != going and path.exists():
        if going.exists():
            remove_folder(going)
        os.rename(path, going)
    if going.exists():
        for file in going.iterdir():
            shutil.rmtree(file) if file.is_dir() else os.unlink(file)
        os.rmdir(going)


def replace_folder(partial: Path, path: Path) -> None:
    """Put a finished folder in the place of the one before, which goes only then (see recover_folder)."""
    previous = path.with_name(path.name + ".old")
    if previous.exists():
        remove_folder(previous)
    if path.exists():  # a folder cannot be renamed over another
        os.rename(path, previous)
    os.rename(partial, path)
    flush_folder(path.parent)
    if previous.exists():
        remove_folder(previous)


def recover_folder(path: Path) -> None:
    """After a crash between the two renames of replace_folder: the one before takes its place again."""
    previous = path.with_name(path.name + ".old")
    if not path.exists() and previous.exists():
        os.rename(previous, path)


# -- a folder of checkpoints, named by their step -------------------------------------------------------------------


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08}"


def steps_there(folder: Path) -> list[int]:
    """Steps that have a checkpoint, whole or not, newest first."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name[5:]) for name in names if re.fullmatch(r"step-\d{8,}", name)), reverse=True)


def check_step(folder: Path, step: int) -> Sealed:
    """check(), and that the checkpoint is of the step that its folder's name says."""
    found = check(step_folder(folder, step))
    if found.about.get("step") != step:
        raise WeightsError(f"{found.path}: holds step {found.about.get('step')} (renamed?)")
    return found


def newest(folder: Path, *, mend: bool = True) -> Sealed | None:
    """The newest whole checkpoint; None if there never was one. mend: each damaged one is set aside with a line.

    Raises WeightsError if there are some and none is whole. The pointer LATEST is for people and tools: after a crash
    between the last rename and its own it is one behind, so what is on disk decides.
    """
    steps = steps_there(folder)
    reason = None
    for step in steps:
        try:
            found = check_step(folder, step)
        except WeightsError as error:
            reason = str(error).removeprefix(f"{folder}{os.sep}")  # what is wrong is not lost behind a long path
            if mend:
                aside = set_aside(step_folder(folder, step))
                print(f"ift: {one_line(reason, 150)} (set aside as {aside.name})", file=sys.stderr, flush=True)
            continue
        if mend:
            _mend_pointer(folder, found.path)
        return found
    if steps or any(".damaged" in path.name for path in (folder.iterdir() if folder.is_dir() else ())):
        what = reason or "all were set aside as damaged"
        raise WeightsError(
            f"{folder}: {one_line(what, 90)}; no other checkpoint is there (begin again in another output_dir)"
        )
    return None


def set_aside(path: Path) -> Path:
    """Give a damaged folder a name that nothing looks for."""
    number, aside = 1, path.with_name(path.name + ".damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    os.rename(path, aside)
    return aside


def begin_step(path: Path) -> Path:
    """An empty folder beside a checkpoint's place, in which it is written."""
    beside = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_folder(beside)
    os.mkdir(beside)
    return beside


def end_step(path: Path) -> None:
    """Put what was written beside a checkpoint's place there; it is now the latest one, and old ones go."""
    replace_folder(path.with_name(path.name + ".part"), path)
    point_to(path)
    prune(path.parent)


def give_up_step(path: Path) -> None:
    """What was half written is of no use, and may be all that the disk had left."""
    with suppress(OSError):  # the next save tries again
        remove_folder(path.with_name(path.name + ".part"))


def point_to(path: Path) -> None:
    """Make LATEST name a checkpoint, with the hash of its manifest."""
    partial = path.with_name(f".{LATEST}.part")
    write_file(partial, pointer(path))
    os.replace(partial, path.with_name(LATEST))
    flush_folder(path.parent)


def pointer(path: Path) -> bytes:
    """What LATEST holds when it names a checkpoint. Raises OSError where that has no manifest."""
    return f"{path.name} {hash_file(path / MANIFEST)}\n".encode()


def _mend_pointer(folder: Path, newest: Path) -> None:
    try:
        text = (folder / LATEST).read_bytes()
    except OSError:
        text = b""
    if text == pointer(newest):
        return
    named = folder / text.partition(b" ")[0].decode(errors="replace").replace("\0", "")
    behind = not text or ((named / MANIFEST).exists() and text == pointer(named))
    if not behind:
        print(f"ift: {folder / LATEST}: damaged; {newest.name} is the newest whole one", file=sys.stderr, flush=True)
    point_to(newest)


def prune(folder: Path) -> None:
    """Remove what is older than the KEPT newest checkpoints, and what a crash left behind."""
    kept = {step_folder(folder, step).name for step in steps_there(folder)[:KEPT]}
    for path in folder.iterdir():
        if path.name not in kept and re.fullmatch(r"step-\d{8,}(\.part|\.old|(\.gone)+)*", path.name):
            remove_folder(path)
