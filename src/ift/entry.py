"""What `train.py` and `evaluate.py` share: the one door to Hydra, and how its errors become one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ift.errors import ConfigError, IftError, refused_by_disk, report
from ift.settings import EvaluateSettings, Settings, T, read_settings, unknown_key

# by the name of the key, or by the look of the value: a prefix and a long run of letters and digits
SECRET = re.compile(
    r"""(^|[._+])(api_?key|token|password|secret)=|=['"]?(sk-[\w-]{20}|(hf_|ghp_)[a-z0-9]{30}|AKIA[a-z0-9]{16})""",
    re.IGNORECASE,
)

_sweep_dir: Path | None = None
_exit_code = 0  # of the first job that failed


class SweepStart(Callback):
    """Remembers where a sweep's runs will lie (named in conf/train.yaml; Hydra calls it)."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _sweep_dir
        _sweep_dir = Path(config.hydra.sweep.dir)


def run(main: Callable[[], None], kind: type[Settings] | type[EvaluateSettings]) -> int:
    """Run a function that `hydra.main` made; return the exit code. A sweep ends in its table, failed jobs or not."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # give us the exception instead of printing it
    code = 0
    try:
        refuse_secrets(sys.argv[1:])
        sys.argv[1:] = options_first(sys.argv[1:])
        main()
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = report(as_ift_error(error, kind))
    if _sweep_dir is not None:
        from ift.evaluation.sweep import show_sweep

        show_sweep(_sweep_dir)
    return code or _exit_code


@contextmanager
def job() -> Iterator[None]:
    """Around the work of one job: its error is reported here and now, and the other jobs of a sweep go on."""
    global _exit_code
    try:
        yield
    except Exception as error:
        _exit_code = _exit_code or report(as_ift_error(error, Settings))


def settings_from(config: DictConfig, kind: type[T]) -> T:
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return read_settings(plain, kind)  # type: ignore[arg-type]


def output_dir() -> Path:
    hydra = HydraConfig.get()
    if not hydra.run.dir:  # Hydra would take the working directory
        raise ConfigError("output_dir=: must be the path of a folder")
    return Path(hydra.runtime.output_dir)


def sweep_name() -> str | None:
    """What all jobs of one sweep have in common, or None outside a sweep."""
    hydra = HydraConfig.get()
    return "-".join(Path(hydra.sweep.dir).parts[-2:]) if hydra.mode == RunMode.MULTIRUN else None


def choices() -> str:
    """The overrides of this job, for tables."""
    # as they were typed: a ${key} in them means nothing in Hydra's own config
    typed: list[str] = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # type: ignore[assignment]
    return " ".join(typed)


def options_first(arguments: list[str]) -> list[str]:
    """Overrides to the end: Hydra's parser takes no override before and after an option such as --config-dir."""
    return sorted(arguments, key=lambda a: not a.startswith("-") and ("=" in a or a.startswith("~")))


def refuse_secrets(arguments: list[str]) -> None:
    """Command lines are stored (by the shell, Hydra, W&B), so a key has no place on one."""
    for argument in arguments:
        if SECRET.search(argument):
            key = argument.split("=")[0]
            raise ConfigError(f"{key}: a secret on the command line would be stored (use an environment variable)")


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
    if isinstance(error, OSError) and error.filename is not None:
        return refused_by_disk(error)
    return error
