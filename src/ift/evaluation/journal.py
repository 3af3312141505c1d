"""A file of JSON lines, each with a key: results that cost time or money are on disk before they are used."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ift.errors import MachineError, warn


class Journal:
    """Lines are only ever added, and synced. One process at a time; any of its threads."""

    def __init__(self, path: Path):
        """Raises MachineError where another process has it open.

        Half a line at the end, of a process that was killed, is cut off: it was never used. Another line that no
        journal has stays where it is and is reported: what it may have held is worked out again, and the rest goes on.
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
        odd, whole, ended = [], 0, True
        for number, line in enumerate(self.file, start=1):
            value, ended = self.read_line(line), line.endswith(b"\n")
            if value is not None:
                self.lines[value["key"]] = value
            elif not ended:
                ended = True
                break
            elif line.strip():
                odd.append(number)
            whole += len(line)
        self.file.truncate(whole)
        if not ended:  # all of the last line is there but its end
            self.file.write(b"\n")
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            warn(f"{path}:{odd[0]}{more}: not a line of such a file (left as it is; what it held is worked out again)")

    def read_line(self, line: bytes) -> dict[str, Any] | None:
        """What a line holds; None where it is none of this file."""
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) and isinstance(value.get("key"), str) else None

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
