"""Errors of Hydra, which take several lines, as one line of ours."""

from __future__ import annotations

import re

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ift.errors import ConfigError, IftError, MachineError, refused_by_disk
from ift.settings import unknown_key


def as_ift_error(error: BaseException, kind: type) -> BaseException:
    """Hydra's errors of several lines as one, which it becomes the cause of; anything else as it is."""
    found = _find_ift_error(error, kind)
    if found is not error and found.__cause__ is None:
        found.__cause__ = error
    return found


def _find_ift_error(error: BaseException, kind: type) -> BaseException:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, IftError):
            return cause
        cause = cause.__cause__
    if isinstance(error, MissingConfigException):
        options = re.findall(r"^\t(\S+)$", str(error), flags=re.MULTILINE)
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={name}: no such choice (there is {', '.join(options)})")
    if isinstance(error, OverrideParseException):
        return ConfigError(f"{error.override}: not key=value (quote it: 'key=\"a value\"')")
    if isinstance(error, ConfigCompositionException):
        match = re.search(r"(?:override|delete from config\.) '([^']+)'|match for override '([^']+)'", str(error))
        if match:
            return unknown_key((match.group(1) or match.group(2)).split("=")[0], kind)
        what = str(error.__cause__ or error).splitlines()[0]
        return ConfigError(f"{what} (add -m for a sweep)" if what.startswith("Ambiguous value") else what)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}")
    if isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(str(error).splitlines()[0])
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return ConfigError(f"{error} (model=nano)")
    if isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|Connection closed by peer", str(error)):
        return MachineError("another process of this run ended: see its error above (then go on with resume=RUN)")
    if isinstance(error, OSError) and error.filename is not None:
        return refused_by_disk(error)
    return error
