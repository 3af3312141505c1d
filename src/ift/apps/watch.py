"""`ift watch [RUNS]`: a page of running and finished trainings, as their folders have them while they train.

Nothing is written and nobody is asked: a training that is watched does not know it, and may run on another machine that
shares the folder. Files are looked at when a page asks, every two seconds while it is in view, so a page that nobody
looks at costs nothing either. What a page has already is not sent again.

A list of many runs comes before all their curves: the first reply has every run's state by its last lines, each further
one reads on for a quarter of a second, beginning with the runs that are drawn.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ift.apps.local_page import PageServer, Refused
from ift.errors import ConfigError, one_line
from ift.pages.configs import differing
from ift.pages.details import Details
from ift.pages.live import LiveRun
from ift.pages.metrics import number
from ift.pages.page import Page
from ift.text.printable import printable

PAGE = Page("watch", Path(__file__).parent, served=True, parts=("charts",))
DEFAULT = Path("runs")
DEEPEST = 6  # folders inside each other in which runs are looked for
MOST_FOLDERS, MOST_RUNS = 50_000, 5_000
MOST_DRAWN = 32  # runs of which a page draws curves
MOST_SETTINGS = 60  # rows and columns of settings that differ
LOOK = 1.0  # seconds between two looks at the files, however many pages ask
FIND = 10.0  # seconds between two searches for new folders
ENDED = 15.0  # seconds between two looks at a run that has come to its end
READING = 0.25  # seconds of reading before a page gets its reply
IS_RUN = ("config.yaml", "metrics.jsonl")


class Watched:
    """A run, its number and name on the page, and its line of the list as it was sent."""

    def __init__(self, id: int, path: Path, name: str, place: str):
        self.id, self.run = id, LiveRun(path)
        self.name, self.place = shown(name), shown(place)
        self.looked = -ENDED
        self.line: dict[str, Any] = {}
        self.stamp: tuple[Any, ...] = ()  # of what it was made of
        self.version = 0  # of all lines, when this one changed

    def look(self, now: float) -> None:
        if self.run.state.is_live or now - self.looked >= ENDED:
            self.run.look(now=now)
            self.looked = now

    def renew(self, version: int) -> bool:
        """Make the line of the list again, if what it is made of has changed; whether it is another one then."""
        run, metrics = self.run, self.run.metrics
        stamp = (metrics.changes, bool(metrics.tail), run.signs, run.config_seen, run.state)
        if stamp == self.stamp:
            return False
        line, self.stamp = self.current(), stamp
        if line == self.line:
            return False
        self.line, self.version = line, version
        return True

    def current(self) -> dict[str, Any]:
        """The line of the list."""
        run, metrics, summary = self.run, self.run.metrics, self.run.summary
        kind = "val/loss" if metrics.tail or "val/loss" in metrics.names else "train/loss"
        best = metrics.least(kind) if not metrics.tail and kind == "val/loss" else None
        best = best or (number(summary.get("val_loss")), number(summary.get("best_step")))
        left = run.seconds_left()
        return {
            "id": self.id,
            "name": self.name,
            "place": self.place,
            "state": run.state.kind,
            "why": shown(run.state.why, 300),
            "step": run.step,
            "steps": run.steps(),
            "left": None if left is None else _rounded(left),
            "train_loss": number(metrics.now.get("train/loss")),
            "val_loss": best[0],
            "best_step": best[1],
            "test_loss": number(summary.get("test_loss")),
            "exact_match": number(summary.get("exact_match")),
            "speed": number(metrics.now.get("tokens_per_second")),
            "took": number(summary.get("train_seconds")),
            "began": run.began,
            "names": metrics.names,
            "problems": [shown(str(each), 300) for problems in run.problems.values() for each in problems]
            + ([f"metrics.jsonl: {metrics.damaged:,} damaged lines are left out"] if metrics.damaged else []),
        }


class Watch:
    """What a page asks for: all that is new since its last request."""

    def __init__(self, places: Sequence[Path]):
        self.places = places
        self.policy = PAGE.policy
        self.posts: Mapping[str, Callable[[Any], dict[str, Any]]] = {"/news": self.news}
        self.serial = secrets.token_hex(8)  # numbers of runs and versions are those of this process
        self.runs: dict[str, Watched] = {}  # by whole path
        self.gone: dict[int, int] = {}  # of runs whose folder is no more: the version in which they went
        self.version = 0
        self.found_all = True
        self.opened: dict[int, Details] = {}
        self.tables: dict[tuple[int, ...], tuple[Any, dict[str, Any]]] = {}  # by the runs they are of
        self.lock = threading.Lock()
        self._looked = self._searched = -FIND
        self._number = 0

    def page(self) -> str:
        return PAGE.render(places=[shown(str(place)) for place in self.places], most=MOST_DRAWN)

    def news(self, value: Any) -> dict[str, Any]:
        """Everything that a page has not: {} where there is nothing.

        serial, since: of the last reply. curves: of each run that is drawn its id, and of the curves that the page has
        the generation, the number of full buckets and the changes, or 0.
        names: of the numbers that are drawn. compare, columns: the runs of two tables of settings. open: the run that
        is shown whole. keys: of the tables and the run that the page has.
        """
        asked = Asked(value)
        with self.lock:
            if asked.serial != self.serial:
                asked = Asked({"serial": self.serial})  # it knows runs of another process by its numbers
            now = time.monotonic()
            self._look(now)
            by_id = {each.id: each for each in self.runs.values()}
            drawn = [by_id[run] for run, *_ in asked.curves if run in by_id]
            opened = by_id.get(asked.open)
            first = not asked.since
            behind = self._read([*drawn, *([opened] if opened else [])], until=0.0 if first else now + READING)
            if sum(each.renew(self.version + 1) for each in by_id.values()):
                self.version += 1
            reply: dict[str, Any] = {}
            lines = [each.line for each in self.runs.values() if each.version > asked.since]
            gone = [id for id, version in self.gone.items() if version > asked.since]
            if lines or gone or first:
                reply |= {"runs": lines, "gone": gone}
            if curves := self._curves(asked, by_id):
                reply["curves"] = curves
            for name in ("compare", "columns"):
                if table := self._settings([by_id[id] for id in asked.of[name] if id in by_id], asked.keys.get(name)):
                    reply[name] = table
            if opened and (details := self._details(opened, asked.keys.get("open"))):
                reply["open"] = details
            if reply or behind:
                reply |= {"serial": self.serial, "version": self.version, "behind": behind, "whole": self.found_all}
            return reply

    # -- looking at files --------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        if now - self._looked < LOOK:
            return
        if now - self._searched >= FIND or not self.runs:
            self._find()
            self._searched = now
        for path, each in [*self.runs.items()]:
            each.look(now)
            if not each.run.there:
                del self.runs[path]
                self.version += 1
                self.gone = {**dict([*self.gone.items()][-MOST_RUNS:]), each.id: self.version}
        self._looked = time.monotonic()

    def _find(self) -> None:
        """Put every run folder that is new into `runs`."""
        self.found_all = True
        for place in self.places:
            for path in self._folders(place):
                known = os.path.realpath(path)
                if known in self.runs:
                    continue
                if len(self.runs) >= MOST_RUNS:
                    self.found_all = False
                    return
                inside = os.path.relpath(path, place)
                name = Path(known).name if inside == "." else inside
                above = os.path.dirname(name)
                if len(self.places) > 1:
                    name, above = (
                        os.path.join(str(place), each) if inside != "." else str(place) for each in (name, above)
                    )
                self._number += 1
                self.runs[known] = Watched(self._number, Path(path), name, above)

    def _folders(self, place: Path) -> Iterator[str]:
        """Run folders in a folder, itself included. Inside of a run no other is looked for."""
        todo, seen, count = [(str(place), 0)], {os.path.realpath(place)}, 0
        while todo:
            path, depth = todo.pop()
            count += 1
            if count > MOST_FOLDERS:
                self.found_all = False
                return
            try:
                with os.scandir(path) as entries:
                    inside = [entry for entry in entries if not entry.name.startswith(".")]
            except OSError:  # it vanished, or is not ours to read
                continue
            if any(entry.name in IS_RUN for entry in inside):
                yield path
            elif depth < DEEPEST:
                for entry in inside:
                    if not _is_folder(entry):
                        continue
                    if entry.is_symlink():  # which may lead back
                        real = os.path.realpath(entry.path)
                        if real in seen:
                            continue
                        seen.add(real)
                    todo.append((entry.path, depth + 1))

    def _read(self, first: Sequence[Watched], *, until: float) -> int:
        """Read settings and numbers on, of these runs first; how many runs are not read to their end then."""
        for each in first:
            each.run.read_settings()
            each.run.metrics.read_on(until)
        live = [each for each in self.runs.values() if each.run.state.is_live]
        for each in live[:MOST_DRAWN]:
            each.run.read_settings()
        for each in self.runs.values():
            if time.monotonic() >= until:
                break
            each.run.read_settings()
            each.run.metrics.read_on(until)
        return sum(each.run.metrics.behind or each.run.config_seen == "never" for each in self.runs.values())

    # -- what a page gets ----------------------------------------------------------------------------------------------

    def _curves(self, asked: Asked, by_id: Mapping[int, Watched]) -> dict[int, Any]:
        found = {}
        for id, generation, full, changes in asked.curves:
            if id in by_id and (metrics := by_id[id].run.metrics).changes != changes:
                same = metrics.generation == generation and full <= metrics.full
                found[id] = metrics.curves(asked.names, since=full if same else 0)
        return found

    def _settings(self, runs: Sequence[Watched], had: str | None) -> dict[str, Any] | None:
        """Settings in which these runs differ, with the value of each run; None where a page has that table."""
        if len(runs) < 2:
            return None
        for each in runs:
            each.run.read_settings()
        ids = tuple(each.id for each in runs)
        state = tuple(each.run.config_seen for each in runs)
        known, table = self.tables.get(ids, (None, {}))
        if known != state:
            rows = differing([each.run.config for each in runs])
            table = {
                "ids": ids,
                "rows": [[shown(key), [shown(v, 160) for v in values]] for key, values in rows[:MOST_SETTINGS]],
                "more": max(0, len(rows) - MOST_SETTINGS),
                "key": secrets.token_hex(8),
            }
            while len(self.tables) >= 8:  # of as many pages
                del self.tables[next(iter(self.tables))]
            self.tables[ids] = state, table
        return None if table["key"] == had else table

    def _details(self, each: Watched, had: str | None) -> dict[str, Any] | None:
        details = self.opened.get(each.id)
        if details is None:
            while len(self.opened) >= 4:
                del self.opened[next(iter(self.opened))]
            details = self.opened[each.id] = Details(each.run)
        details.look()
        return None if details.key == had else {"id": each.id, "key": details.key, **details.content}


class Asked:
    """A request, whatever a page may have sent. Raises Refused for one that no page of ours sends."""

    def __init__(self, value: Any):
        value = value if isinstance(value, dict) else {}
        self.serial = value.get("serial")
        self.since = _whole(value.get("since", 0))
        self.open = _whole(value.get("open") or 0)
        self.curves = [tuple(map(_whole, each)) for each in _list(value.get("curves"), MOST_DRAWN, 4)]
        names = value.get("names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > 48:
            raise Refused("names: not a list of numbers' names")
        self.names: list[str] = names
        self.of = {name: [*map(_whole, _list(value.get(name), MOST_RUNS))] for name in ("compare", "columns")}
        keys = value.get("keys", {})
        if not isinstance(keys, dict):
            raise Refused("keys: not an object")
        self.keys: dict[str, Any] = keys


def _list(value: Any, most: int, each: int = 0) -> list[Any]:
    value = [] if value is None else value
    if not isinstance(value, list) or len(value) > most:
        raise Refused(f"not a list of at most {most}")
    if each and not all(isinstance(one, list) and len(one) == each for one in value):
        raise Refused(f"not lists of {each}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 50:
        raise Refused("not a whole number")
    return value


def _rounded(seconds: float) -> float:
    """As a person is told: a reply for each second less would be news without end."""
    unit = 1 if seconds < 60 else 5 if seconds < 600 else 60
    return round(seconds / unit) * unit


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def shown(text: str, longest: int = 200) -> str:
    """A name or text of a file as it may stand on the page, on one line."""
    return one_line(printable(text.encode("utf-8", "replace").decode()), longest)


def watch(places: Sequence[Path], *, port: int, browser: bool, address: str = "") -> None:
    """Serve the page until Ctrl-C. Raises ConfigError for a folder that is none, MachineError."""
    for place in places:
        if not place.is_dir():
            raise ConfigError(f"{place}: no such folder (ift watch FOLDER: of runs, of a sweep, or one run)")
    app = Watch(places or [DEFAULT])
    with PageServer(app, port, token=secrets.token_urlsafe(24), address=address) as server:
        where = ", ".join(map(str, app.places))
        print(f"watch     trainings in {where}, running and finished; nothing is written there")
        server.serve(browser=browser)
