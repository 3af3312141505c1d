"""A file of JSON lines, each with a key: results that cost time or money are on disk before they are used."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ift.errors import DataError, MachineError


class Journal:
    """Lines are only ever added, and synced. One process at a time; any of its threads."""

    def __init__(self, path: Path):
        """Raises MachineError where another process has it open, DataError for a line that no journal has.

        Half a line at the end, of a process that was killed, is cut off: it was never used.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = path, threading.Lock()
        self.file_lock = FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            self.file_lock.acquire()
        except Timeout as error:
            raise MachineError(f"{path}: another process is writing here (wait for it, or stop it)") from error
        self.file = path.open("a+b")
        self.file.seek(0)
        self.lines: dict[str, dict[str, Any]] = {}
        whole = 0
        for number, line in enumerate(self.file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
                self.lines[value["key"]] = value
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                self.close()
                raise DataError(f"{path}:{number}: not a line of such a file (delete that line)") from error
            whole += len(line)
        self.file.truncate(whole)

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        self.put_all({key: value})

    def put_all(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Many lines, synced together."""
        lines = {key: {"key": key, **value} for key, value in values.items()}
        with self.lock:
            self.lines |= lines
            self.file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines.values()))
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()
        self.file_lock.release()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
