"""What a person sees when something is wrong: one line that says where, what and what to do, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback

LIMIT = 300  # characters of a whole error line: it must fit a terminal and a log viewer
WORD = 40  # characters that are left of a long path when it alone is shortened


class IftError(Exception):
    """A problem that the person can mend. The message reads `WHERE: what is wrong (what to do)`."""

    exit_code = 1


class ConfigError(IftError):
    """A key, value or combination of settings."""

    exit_code = 2


class DataError(IftError):
    """A file of rows or what stands in it."""

    exit_code = 3


class WeightsError(IftError):
    """Pretrained weights, a model folder or a checkpoint."""

    exit_code = 4


class MachineError(IftError):
    """Disk, network, device or a package that is not installed."""

    exit_code = 5


class DivergedError(IftError):
    """The loss or a gradient is no longer a finite number."""

    exit_code = 6


class Stopped(BaseException):
    """The run was stopped where it can be resumed. No error: nothing is wrong."""

    exit_code = 75  # EX_TEMPFAIL: schedulers run such a job again


def missing_extra(package: str, extra: str) -> MachineError:
    return MachineError(f'this needs the package {package} (pip install "ift[{extra}]")')


def refused_by_disk(error: OSError, where: str = "") -> MachineError:
    """where: what was being written, if the error does not name a file."""
    hint = "" if isinstance(error, FileNotFoundError) else " (is the disk full, the folder writable?)"
    place = where if error.filename is None else error.filename
    return MachineError(f"{place}: {error.strerror or error}{hint}")


def one_line(text: str, limit: int = LIMIT) -> str:
    """Text from anywhere as a single printable line: no line breaks, no escape codes, at most `limit` characters.

    What is too long is shortened in its middle: first the longest word (a path), then all that stands before the
    advice. The advice, in brackets at the end, stays whole as long as it leaves a quarter of the line to the rest.
    """
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    if len(line) <= limit:
        return line
    start = advice_start(line)
    advice = line[start:]
    room = limit - len(advice)
    if not advice or room < limit // 4:
        return _shortened(line, limit)
    return _shortened(line[:start], room) + advice


def advice_start(line: str) -> int:
    """Where the brackets that end a line begin, with the space before them; the line's length if none do."""
    depth = 0
    for place in range(len(line) - 1, -1, -1):
        depth += (line[place] == ")") - (line[place] == "(")
        if depth <= 0:
            return place - (line[place - 1 : place] == " ") if line[place] == "(" else len(line)
    return len(line)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    longest = max(text.split(" "), key=len)
    room = limit - (len(text) - len(longest))
    if room >= WORD:
        return text.replace(longest, _without_middle(longest, room, tail=room // 2), 1)
    return _without_middle(text, limit, tail=limit // 3)


def _without_middle(text: str, limit: int, *, tail: int) -> str:
    return text[: limit - tail - 3] + "..." + text[len(text) - tail :]


def warn(problem: object) -> None:
    """Print on stderr what went wrong and did not stop the work."""
    prefix = "ift: warning: "
    print(prefix + one_line(str(problem), LIMIT - len(prefix)), file=sys.stderr, flush=True)


def report(error: BaseException, *, where: str = "") -> int:
    """Print the one line on stderr (the traceback too with IFT_DEBUG=1) and return the exit code."""
    if os.environ.get("IFT_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, IftError):
        message, code = str(error), error.exit_code
    else:
        message, code = f"{type(error).__name__}: {error} (IFT_DEBUG=1 shows where)", 1
    prefix = f"ift: error: {where}"
    print(prefix + one_line(message, LIMIT - len(prefix)), file=sys.stderr)
    return code
