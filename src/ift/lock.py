"""One process alone writes a run folder, on one host or on several that share it.

flock(2) ends with its process, killed or not, and is proof on one host; over many network disks another host does not
see it. So the process also leaves its name in KEEPER, and touches that file as long as it lives.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ift.errors import ConfigError

LOCK, KEEPER = ".lock", ".keeper"
BEAT = 20.0  # seconds between two signs of life
SILENT = 300.0  # seconds without one after which a process of another host may have ended


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keep a folder to this process.

    Raises ConfigError if another one has it, OSError if the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        keeper = _read(folder)
        who = f" (process {keeper['pid']} on {keeper['host']})" if keeper else ""
        raise ConfigError(f"{folder}: another process trains here{who} (wait, or choose another output_dir)") from error
    ended = threading.Event()
    try:
        name = _enter(folder)
        beats = threading.Thread(target=_live, args=(folder / KEEPER, ended), name="ift-keeper", daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join()
            if _read(folder) == name:
                with suppress(OSError):
                    (folder / KEEPER).unlink()
    finally:
        lock.release()


def _enter(folder: Path) -> dict[str, Any]:
    """Leave this process's name where none is, or where it is that of one that has surely ended."""
    path = folder / KEEPER
    name = {"host": host(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "began": time.time()}
    if path.exists():
        keeper = _read(folder)
        # flock is ours: a process of this host has ended. A job that SLURM began again is not there twice
        if keeper.get("host") != host() and not (keeper.get("job") and keeper["job"] == name["job"]):
            raise _elsewhere(folder, keeper)
        path.unlink(missing_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(name, file)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:  # another host was faster
        raise _elsewhere(folder, _read(folder)) from None
    return name


def _elsewhere(folder: Path, keeper: dict[str, Any]) -> ConfigError:
    who = f"process {keeper['pid']} on {keeper['host']}" if keeper else "a process on another host"
    silent = _silent(folder)
    if silent < SILENT:
        return ConfigError(f"{folder}: another process trains here: {who} (wait, or choose another output_dir)")
    return ConfigError(
        f"{folder}: {who} trained here, silent for {silent / 60:,.0f} min (if it has ended: rm {folder / KEEPER})"
    )


def _silent(folder: Path) -> float:
    """Seconds since the last sign of life, by the clock of the disk: hosts' own clocks differ."""
    probe = folder / f"{KEEPER}.{host()}.{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime - (folder / KEEPER).stat().st_mtime
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _live(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def _read(folder: Path) -> dict[str, Any]:
    """Who keeps the folder, or did when it was killed; {} where that cannot be read."""
    try:
        keeper = json.loads((folder / KEEPER).read_text(encoding="utf-8"))
        return keeper if {"host", "pid"} <= keeper.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def host() -> str:
    return socket.gethostname()


def is_kept(folder: Path) -> bool:
    """Whether a process keeps the folder now. Nothing is changed."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            keeper = _read(folder)
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written
        keeper = _read(folder)
    return bool(keeper) and keeper["host"] != host() and _silent(folder) < SILENT
