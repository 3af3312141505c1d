"""What a person sees when something is wrong: one line that says where, what and what to do, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback

LIMIT = 200  # characters of a whole error line: it must fit a terminal and a log viewer


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
    """Someone asked for an end, and got it at a place from where the run can go on. No error: nothing is wrong."""

    exit_code = 75  # EX_TEMPFAIL: schedulers run such a job again


def missing_extra(package: str, extra: str) -> MachineError:
    return MachineError(f'this needs the package {package} (pip install "ift[{extra}]")')


def refused_by_disk(error: OSError, where: str = "") -> MachineError:
    """where: what was being written, if the error does not name a file."""
    hint = "" if isinstance(error, FileNotFoundError) else " (is the disk full, the folder writable?)"
    place = where if error.filename is None else error.filename
    return MachineError(f"{place}: {error.strerror or error}{hint}")


def one_line(text: str, limit: int = LIMIT) -> str:
    """Text from anywhere as a single printable line: no line breaks, no escape codes, at most `limit` characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    if len(line) <= limit:
        return line
    tail = limit // 3  # the end holds "(what to do)"
    return line[: limit - tail - 3] + "..." + line[-tail:]


def report(error: BaseException) -> int:
    """Print the one line on stderr (the traceback too with IFT_DEBUG=1) and return the exit code."""
    if os.environ.get("IFT_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, IftError):
        message, code = str(error), error.exit_code
    else:
        message, code = f"{type(error).__name__}: {error} (IFT_DEBUG=1 shows where)", 1
    prefix = "ift: error: "
    print(prefix + one_line(message, LIMIT - len(prefix)), file=sys.stderr)
    return code
