"""What the jobs of a sweep tell the process that started them, in whatever process they run: a note each in .jobs/.

The launchers of Hydra give back what a job returned; that it failed, and why, they keep to themselves. So each job
writes down where it runs and how it ended. The same notes are how a sweep stops jobs in other processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ift.errors import ConfigError
from ift.run import RunFolder, read_object, write_json

FOLDER, STOPPED = ".jobs", "stopped"


@dataclass(frozen=True)
class Note:
    """code: the exit code, None while the job runs. status: why it failed or stopped, "" where it did not."""

    pid: int
    host: str
    choices: str
    code: int | None = None
    status: str = ""


def begin(sweep: Path) -> None:
    """No job has begun. (Notes of the same sweep, typed before, are gone.)"""
    shutil.rmtree(sweep / FOLDER, ignore_errors=True)
    (sweep / FOLDER).mkdir(parents=True, exist_ok=True)


def note(sweep: Path, job: str, *, choices: str, code: int | None = None, status: str = "") -> None:
    with suppress(OSError):  # the disk may be what failed; what the job itself says of that matters more
        (sweep / FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(
            sweep / FOLDER / f"{job}.json", asdict(Note(os.getpid(), socket.gethostname(), choices, code, status))
        )


def notes(sweep: Path) -> dict[str, Note]:
    """By the name of the job's folder, in their order. A note that cannot be read says nothing."""
    found = {}
    for path in sorted((sweep / FOLDER).glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        with suppress(TypeError):
            found[path.stem] = Note(**read_object(path, advice="")[0])
    return found


def first_failure(sweep: Path) -> int:
    """The exit code of the first job that did not end well; 0 where all did."""
    return next((each.code for each in notes(sweep).values() if each.code), 0)


def stop(sweep: Path, number: int = signal.SIGTERM) -> None:
    """Ask the jobs that run in other processes of this machine to stop; those that have not begun will not."""
    (sweep / FOLDER).mkdir(parents=True, exist_ok=True)
    (sweep / FOLDER / STOPPED).touch()
    for each in notes(sweep).values():
        if each.code is None and each.pid != os.getpid() and each.host == socket.gethostname():
            with suppress(OSError):  # it has ended
                os.kill(each.pid, number)


def is_stopped(sweep: Path) -> bool:
    return (sweep / FOLDER / STOPPED).exists()


def refuse_without_siblings(run: RunFolder, least: int | None) -> None:
    """Raises ConfigError where trainer.early_stopping.siblings could have no effect: outside of a sweep's folder."""
    if least is not None and not (run.path.parent / FOLDER).is_dir():
        raise ConfigError(
            f"trainer.early_stopping.siblings={least}: means something in a sweep alone (add -m, or leave it out)"
        )
