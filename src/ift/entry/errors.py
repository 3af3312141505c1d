"""Errors of Hydra, which take several lines, as one line of ours."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ift import meeting
from ift.errors import ConfigError, IftError, MachineError, refused_by_disk, report
from ift.settings import unknown_key

PLUGINS = {  # choices that a package brings, and our extra with it
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/sweeper=optuna": "sweep",
}

MORE = {  # where other keys of Hydra's are, by how a key begins
    "hydra.launcher.ray.": "a + before it hands it to Ray, with hydra/launcher=ray",
    "hydra.launcher.": "hydra/launcher=joblib has more",
}
KEYS = "keys"  # of the group eval: what the others begin with, and no choice
LISTED = 220  # characters of choices in an error line


def report_once(error: BaseException, *, where: str = "") -> int:
    """Report an error, unless the first rank had the same one; return its exit code."""
    meeting.failed(str(error))
    if meeting.said_by_the_first(str(error)):
        return getattr(error, "exit_code", 1)
    return report(error, where=where)


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
        return _no_such_choice(error)
    if isinstance(error, OverrideParseException):
        return ConfigError(f"{error.override}: not key=value (quote it: 'key=\"a value\"')")
    if isinstance(error, ConfigCompositionException):
        match = re.search(r"(?:override|delete from config\.) '([^']+)'|match for override '([^']+)'", str(error))
        if match:
            key = (match.group(1) or match.group(2)).split("=")[0]
            if key.startswith("hydra."):
                which = next((what for begin, what in MORE.items() if key.startswith(begin)), "--cfg hydra shows all")
                return ConfigError(f"{key}: no such key of Hydra ({which})")
            return unknown_key(key, kind)
        what = str(error.__cause__ or error).splitlines()[0]
        if what.startswith("Ambiguous value for argument 'trainer.devices="):
            return ConfigError(f"{what} (a list of GPUs is written trainer.devices=[0,1]; add -m for a sweep)")
        return ConfigError(f"{what} (add -m for a sweep)" if what.startswith("Ambiguous value") else what)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}")
    if isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(str(error).splitlines()[0])
    if type(error).__name__ in (
        "TerminatedWorkerError",
        "BrokenProcessPool",
        "UncompletedJobError",
        "WorkerCrashedError",
    ):
        return MachineError(
            "a job of the sweep was killed (too little memory? hydra.launcher.n_jobs=1 of joblib, and "
            "+hydra.launcher.ray.init.num_cpus=1 of Ray, run one at a time)"
        )
    if isinstance(error, ValueError) and str(error).startswith("No trials are completed"):
        return ConfigError("no trial of the sweep came to its end (see the error of each)")
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return ConfigError(f"{error} (model=nano)")
    if isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|Connection closed by peer", str(error)):
        return MachineError("another process of this run ended: see its error above (then go on with resume=RUN)")
    if isinstance(error, OSError) and error.filename is not None:
        return refused_by_disk(error)
    return error


def _no_such_choice(error: MissingConfigException) -> IftError:
    """For a choice of a group, with what there is in all folders of groups, and for --config-name."""
    group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
    if extra := PLUGINS.get(f"{group}={name}"):
        package = f"hydra-{extra}-launcher" if group == "hydra/launcher" else "hydra-optuna-sweeper"
        return MachineError(f'{group}={name}: this needs the package {package} (pip install "ift[{extra}]")')
    if not group:
        return ConfigError(f"--config-name={name}: no such file in the folders of groups (leave it out)")
    options = re.findall(r"^\t(\S+)$", str(error), flags=re.MULTILINE)
    return no_such_choice(group, name, options)


def no_such_choice(group: str, name: str, options: Sequence[str]) -> ConfigError:
    """With what there is, or where that is more than a line holds, where it is listed; and what is spelled alike."""
    options = [option for option in options if option != KEYS]
    there = f"there is {', '.join(options) or 'none'}"
    near = difflib.get_close_matches(name.lower(), options, n=3)
    if near:
        meant = f"did you mean {' or '.join(near)}?"
        there = meant if len(there) > LISTED else f"{there}; {meant}"
    elif len(there) > LISTED:
        there = f"ift train --help lists all {len(options)}"
    return ConfigError(f"{group}={name}: no such choice ({there})")
