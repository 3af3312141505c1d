"""How the ranks of one start agree before torch is there: by small files in a folder that they share.

The first rank decides, the others take it over: when the run began (its folder is named after that), whether it goes
on, that its rows are ready. Nobody waits for a rank that failed: it leaves a note. All waiting is in Python, so a
signal ends it.

FOLDER/.ranks-KEY/      KEY: of this start, though perhaps of one before it too (see ift.launch)
    first.json          the first rank is here, with a number that it drew
    here-RANK.json      another rank is here: the number it saw, and one of its own
    all.json            all are here; what the first decided. Only who finds its own number believes it
    NUMBER/             the notes of this start
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ift.errors import MachineError
from ift.launch import here, is_other_rank
from ift.run import DAMAGE, read_json, write_json

ARRIVAL = 600  # seconds that ranks may begin apart
WORK = 6 * 3600  # seconds that one rank may work alone: to read and check rows
MOMENT, JOB = "IFT_MOMENT", "IFT_JOB"  # the variables by which Lightning's ranks know when and where they begin

_notes: Path | None = None  # of this start; None where no launcher started it
_decided: dict[str, Any] = {}
_job = _first_job = 0


def _wait(found: Callable[[], Any], limit: float, missing: Callable[[], str]) -> Any:
    """What `found` gives as soon as it is not None. missing: for the error, what was waited for."""
    end, pause = time.monotonic() + limit, 0.01
    while (value := found()) is None:
        if time.monotonic() > end:
            raise MachineError(f"{missing()} in {limit:,.0f} s (did it end? is the folder shared by all nodes?)")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)
    return value


def _read(path: Path) -> dict[str, Any]:
    with suppress(*DAMAGE):
        return dict(read_json(path))
    return {}


def meet(folder: Path, *, limit: float = ARRIVAL) -> None:
    """Wait until all ranks are here, and take over what the first decides. Alone: only remember the moment.

    folder: the same for all ranks, on a disk that they share. Raises MachineError.
    """
    global _notes, _decided, _first_job
    launch = here()
    _notes, _decided, _first_job = None, {"moment": datetime.now().isoformat()}, 0
    if not launch.external:
        if is_other_rank() and os.environ.get(MOMENT):
            _decided["moment"], _first_job = os.environ[MOMENT], int(os.environ.get(JOB, "0"))
        os.environ[MOMENT] = _decided["moment"]
        return
    place = folder / f".ranks-{launch.key}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        number = _gather(place, limit) if launch.rank == 0 else _arrive(place, limit)
        _notes = place / number
        _notes.mkdir(exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"{folder}: the processes of this run cannot meet there: {error.strerror} (choose another output_dir)"
        ) from error


def _gather(place: Path, limit: float) -> str:
    """The first rank: its number."""
    number, others = secrets.token_hex(8), range(1, here().world)
    for left in place.iterdir():  # by a start that was killed
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    _decided["address"] = ["127.0.0.1" if here().nodes == 1 else socket.gethostname(), _free_port()]
    write_json(place / "first.json", {"number": number})
    came: dict[str, str] = {}

    def all_of_them() -> dict[str, str] | None:
        for rank in others:
            answer = _read(place / f"here-{rank}.json")
            if str(rank) not in came and answer.get("number") == number:
                came[str(rank)] = answer["own"]
        return came if len(came) == len(others) else None

    def missing() -> str:
        late = [rank for rank in others if str(rank) not in came]
        return f"{place}: rank {late[0]} of {here().world} did not come"

    _wait(all_of_them, limit, missing)
    write_json(place / "all.json", {"ranks": came, "decided": _decided, "number": number})
    return number


def _arrive(place: Path, limit: float) -> str:
    """Another rank: the first one's number. What it decided is in _decided then."""
    own, seen = secrets.token_hex(8), ""

    def answered() -> dict[str, Any] | None:
        nonlocal seen
        number = _read(place / "first.json").get("number", "")
        if number != seen:  # the first time it may be that of a start before this one
            seen = number
            write_json(place / f"here-{here().rank}.json", {"number": number, "own": own})
        answer = _read(place / "all.json")
        return answer if answer.get("ranks", {}).get(str(here().rank)) == own else None

    answer = _wait(answered, limit, lambda: f"{place}: the first process did not come")
    _decided.update(answer["decided"])
    return str(answer["number"])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def moment() -> datetime:
    """When the run began, for all of its ranks."""
    return datetime.fromisoformat(_decided["moment"]) if _decided else datetime.now()


def address() -> tuple[str, int]:
    """Where the ranks meet once torch is there, if no launcher said it: the first rank's host and a free port."""
    host, port = _decided["address"]
    return host, port


# -- notes -----------------------------------------------------------------------------------------------------------


def begin_job(number: int) -> bool:
    """Notes from here on are of this job of a sweep. False for a rank that Lightning started in a later job."""
    global _job
    _job = number
    if not is_other_rank():
        os.environ[JOB] = str(number)
    return number >= _first_job


def _note(name: str) -> Path:
    assert _notes is not None
    return _notes / f"{_job}-{name}.json"


def agreed(name: str, value: Any) -> Any:
    """The first rank's value, which JSON can hold. Raises MachineError where the first rank failed."""
    if _notes is None:
        return value
    if is_other_rank():
        return _hear(name, 0, WORK)
    write_json(_note(name), {"value": value})
    return value


@contextmanager
def after_the_first(name: str) -> Iterator[None]:
    """Around work of which the first rank's result serves the others: they begin when it is done."""
    if is_other_rank():
        agreed(name, None)
        yield
    else:
        yield
        agreed(name, None)


def all_here(name: str, *, limit: float = WORK) -> None:
    """Wait until all ranks have come so far: what they do together next cannot be waited for in Python."""
    if _notes is None:
        return
    write_json(_note(f"{name}-{here().rank}"), {"value": None})
    for rank in range(here().world):
        _hear(f"{name}-{rank}", rank, limit)


def _hear(name: str, rank: int, limit: float) -> Any:
    path = _note(name)

    def said() -> dict[str, Any] | None:
        if answer := _read(path):
            return answer
        for failed in range(here().world):
            if _note(f"failed-{failed}").exists() and failed != here().rank:
                raise MachineError(f"rank {failed} of this run ended: see its error (then type the command again)")
        return None

    return _wait(said, limit, lambda: f"{path}: rank {rank} did not come so far")["value"]


def failed(what: str) -> None:
    """Tell the other ranks that this one ends its job early: none waits for it."""
    if _notes is not None:
        with suppress(OSError):
            write_json(_note(f"failed-{here().rank}"), {"what": what})


def said_by_the_first(what: str, *, limit: float = 2.0) -> bool:
    """Whether the first rank ended for the same reason, so that nobody need say it again."""
    if _notes is None or not is_other_rank():
        return False
    with suppress(MachineError):
        return bool(_wait(lambda: _read(_note("failed-0")) or None, limit, str)["what"] == what)
    return False


def leave() -> None:
    """At the end of the process: the last one takes the folder away."""
    global _notes
    if _notes is None:
        return
    place = _notes.parent
    with suppress(OSError):
        write_json(_notes / f"left-{here().rank}.json", {})
        if all((_notes / f"left-{rank}.json").exists() for rank in range(here().world)):
            shutil.rmtree(place, ignore_errors=True)
    _notes = None
