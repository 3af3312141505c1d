"""The votes of people: an SQLite database to which rows are only ever added. Needs no torch.

    battles   what was shown: the instruction, both answers, which model stood on which side
    votes     on a battle: model_a, model_b, tie, "tie (bothbad)", or null, which takes the vote back

The last row on a battle counts. When a method returns, what it added is on disk: kill -9 and power cuts lose nothing.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.errors import DataError, MachineError, one_line
from ift.evaluation.arena.battles import TIE, WINNERS, Battle, checked_name

NAME = "arena.sqlite"  # beside the run folders that it is about
HEAD = b"SQLite format 3\0"
APPLICATION = 0x69667461  # "ifta": marks our databases among those of other programs
PERSON, SAME = "person", "same answer"  # who judged
TABLES = """
CREATE TABLE battles (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, about TEXT NOT NULL, source TEXT NOT NULL,
    instruction TEXT NOT NULL, input TEXT NOT NULL, model_a TEXT NOT NULL, model_b TEXT NOT NULL,
    response_a TEXT NOT NULL, response_b TEXT NOT NULL, unix_time REAL NOT NULL
);
CREATE TABLE votes (
    id INTEGER PRIMARY KEY, battle INTEGER NOT NULL REFERENCES battles (id), winner TEXT, judge TEXT NOT NULL,
    unix_time REAL NOT NULL
);
CREATE TABLE token (token TEXT NOT NULL);
CREATE INDEX votes_of_battle ON votes (battle);
CREATE INDEX battles_about ON battles (about);
"""
ONLY_ADDED = """
CREATE TRIGGER {table}_{what} BEFORE {what} ON {table} BEGIN SELECT RAISE (ABORT, 'rows are only ever added'); END;
"""
# a vote stands if it is the newest on its battle and takes none back
STANDING = """
SELECT {columns} FROM votes v JOIN battles b ON b.id = v.battle
WHERE v.id IN (SELECT max(id) FROM votes GROUP BY battle) AND v.winner IS NOT NULL ORDER BY v.id
"""
WHOLE = STANDING.format(columns="v.id AS vote, v.winner, v.judge, v.unix_time AS voted, b.*")
COUNTED = STANDING.format(columns="b.about, v.winner, v.judge, b.model_a, b.model_b")


@dataclass(frozen=True, slots=True)
class Shown:
    """A battle as it was shown. about: the same for the same question, answers and models, whatever their sides."""

    key: str
    about: str
    source: str  # test split, typed in
    instruction: str
    input: str
    model_a: str
    model_b: str
    response_a: str
    response_b: str


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote that stands, without the texts of its battle."""

    about: str
    winner: str
    judge: str  # PERSON or SAME
    model_a: str
    model_b: str


class Votes:
    """One database; any threads of this process, and other processes beside it."""

    def __init__(self, path: Path, *, read_only: bool = False):
        """Makes it where there is none, unless read_only. Raises DataError for a file that is no database of votes."""
        self.path, self.lock = path, threading.Lock()
        if path.exists() and path.stat().st_size and not is_database(path):
            raise DataError(f"{path}: no database of votes (give --votes another name)")
        try:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)  # it holds the page's token
            address = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}"
            self.db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=30)
        except (OSError, sqlite3.Error) as error:
            raise self._problem(error) from error
        try:
            self.db.row_factory = sqlite3.Row
            self.db.execute("PRAGMA trusted_schema = OFF")  # it may be someone else's file
            is_new = not read_only and not self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not is_new and self.db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
                raise DataError(f"{path}: a database of something else (give --votes another name)")
            if not read_only:
                self.db.execute("PRAGMA journal_mode = WAL")
                self.db.execute("PRAGMA synchronous = FULL")
                self._make_tables()
            self.db.execute(WHOLE).fetchone()
        except sqlite3.Error as error:
            self.db.close()
            raise self._problem(error) from error
        except DataError:
            self.db.close()
            raise

    def _make_tables(self) -> None:
        with self._adding():
            if self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return
            statements = [statement for statement in TABLES.split(";\n") if statement.strip()]
            statements += [
                ONLY_ADDED.format(table=table, what=what)
                for table in ("battles", "votes")
                for what in ("UPDATE", "DELETE")
            ]
            for statement in statements:
                self.db.execute(statement)
            self.db.execute("INSERT INTO token VALUES (?)", [secrets.token_urlsafe(24)])
            self.db.execute(f"PRAGMA application_id = {APPLICATION}")

    @contextmanager
    def _adding(self) -> Iterator[None]:
        """All of it or nothing, and on disk at the end. Raises MachineError, DataError."""
        with self.lock:
            try:
                self.db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self.db.execute("ROLLBACK")
                    raise
                self.db.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._problem(error) from error

    def _problem(self, error: Exception) -> DataError | MachineError:
        what = one_line(str(error), 80)
        if isinstance(error, OSError | sqlite3.OperationalError):  # no space, no permission, locked, no such table
            return MachineError(f"{self.path}: {what} (is the disk full, the folder writable?)")
        return DataError(f"{self.path}: no whole database of votes: {what}")

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self.lock:
            try:
                return self.db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._problem(error) from error

    @property
    def token(self) -> str:
        """Of the page's address: the same tomorrow, so that a page that was left open can go on."""
        return str(self._read("SELECT token FROM token")[0][0])

    def show(self, battle: Shown) -> None:
        """Keep a battle before a person sees it."""
        with self._adding():
            self._keep(battle)

    def _keep(self, battle: Shown) -> int:
        columns = Shown.__slots__
        marks = ", ".join("?" * (len(columns) + 1))
        values = [*(getattr(battle, name) for name in columns), time.time()]
        added = self.db.execute(
            f"INSERT INTO battles ({', '.join(columns)}, unix_time) VALUES ({marks})",
            values,
        )
        assert added.lastrowid
        return added.lastrowid

    def note_ties(self, battles: Sequence[Shown]) -> None:
        """Battles with twice the same answer, which nobody needs to look at."""
        with self._adding():
            for battle in battles:
                self._add_vote(self._keep(battle), TIE, SAME)

    def vote(self, key: str, winner: str) -> str:
        """What stands then: the vote, or the one that was there before it, which only `undo` takes back.

        Raises ValueError for what is no vote, KeyError where no such battle was shown.
        """
        if winner not in WINNERS:
            raise ValueError("no such vote")
        with self._adding():
            found = self.db.execute("SELECT id FROM battles WHERE key = ?", [key]).fetchone()
            if found is None:
                raise KeyError(key)
            before = self.db.execute(
                "SELECT winner FROM votes WHERE battle = ? ORDER BY id DESC LIMIT 1", [found["id"]]
            ).fetchone()
            if before and before["winner"]:
                return str(before["winner"])
            self._add_vote(found["id"], winner, PERSON)
        return winner

    def undo(self, models: Sequence[str]) -> Shown | None:
        """Take back the newest vote of a person between two of these models; the battle, if there is one."""
        marks = ", ".join("?" * len(models))
        with self._adding():
            newest = self.db.execute(
                "SELECT b.* FROM votes v JOIN battles b ON b.id = v.battle "
                "WHERE v.winner IS NOT NULL AND v.judge = ? "
                "AND NOT EXISTS (SELECT 1 FROM votes later WHERE later.battle = v.battle AND later.id > v.id) "
                f"AND b.model_a IN ({marks}) AND b.model_b IN ({marks}) ORDER BY v.id DESC LIMIT 1",
                [PERSON, *models, *models],
            ).fetchone()
            if newest is None:
                return None
            self._add_vote(newest["id"], None, PERSON)
        return _shown(newest)

    def _add_vote(self, battle: int, winner: str | None, judge: str) -> None:
        self.db.execute(
            "INSERT INTO votes (battle, winner, judge, unix_time) VALUES (?, ?, ?, ?)",
            [battle, winner, judge, time.time()],
        )

    def shown(self, key: str) -> Shown | None:
        rows = self._read("SELECT * FROM battles WHERE key = ?", [key])
        return _shown(rows[0]) if rows else None

    def open(self, about: str) -> Shown | None:
        """The newest battle of this content that was shown and has no vote."""
        rows = self._read("SELECT * FROM battles WHERE about = ? ORDER BY id DESC LIMIT 1", [about])
        if not rows:
            return None
        last = self._read("SELECT winner FROM votes WHERE battle = ? ORDER BY id DESC LIMIT 1", [rows[0]["id"]])
        return None if last and last[0]["winner"] else _shown(rows[0])

    def standing(self) -> list[Vote]:
        """Every vote that stands, oldest first: all that a page counts at a click, in one query."""
        return [Vote(**row) for row in self._read(COUNTED)]

    def voted_on(self) -> list[Shown]:
        """What was shown of every vote that stands."""
        return [_shown(row) for row in self._read(WHOLE)]

    def battles(self) -> tuple[list[Battle], list[tuple[int, str]]]:
        """Every vote that stands, oldest first; and rows that no arena wrote, with the reason."""
        battles, dropped = [], []
        for row in self._read(WHOLE):
            try:
                if row["winner"] not in WINNERS:
                    raise ValueError("no such winner")
                a, b = checked_name(row["model_a"]), checked_name(row["model_b"])
                if a == b:
                    raise ValueError("a model against itself")
                battles.append(
                    Battle(
                        model_a=a,
                        model_b=b,
                        winner=row["winner"],
                        judge=one_line(str(row["judge"]), 100),
                        instruction=str(row["instruction"]),
                        input=str(row["input"]),
                        response_a=str(row["response_a"]),
                        response_b=str(row["response_b"]),
                        tstamp=float(row["voted"]),
                        source=SAME if row["judge"] == SAME else "people",
                    )
                )
            except (ValueError, TypeError) as error:
                dropped.append((int(row["vote"]), str(error)))
        return battles, dropped

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Votes:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _shown(row: sqlite3.Row) -> Shown:
    return Shown(**{name: str(row[name]) for name in Shown.__slots__})


def is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(HEAD)) == HEAD
    except OSError:
        return False
