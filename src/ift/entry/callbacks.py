"""Callbacks of the user's own, named on the command line or in a file of --config-dir, and made by Hydra.

A class name is code to be run: it is taken from what this command was told, never from the config.yaml of a run. So a
run that goes on needs them typed again.
"""

from __future__ import annotations

from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from ift.errors import ConfigError, one_line
from ift.run import RunFolder
from ift.settings import Settings


def own_callbacks(config: DictConfig) -> list[Any]:
    """config: as Hydra composed it for this command. Raises ConfigError for what is no callback of Lightning's."""
    return [_made(each) for each in config.trainer.callbacks]


def _made(node: DictConfig) -> Any:
    from lightning.pytorch.callbacks import Callback

    name = f"trainer.callbacks: {node['_target_']}"
    try:
        made = instantiate(node)
    except HydraException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        what = one_line(str(cause).splitlines()[0], 120)
        raise ConfigError(f"{name}: {what} (is its folder in PYTHONPATH, and are these its arguments?)") from error
    if not isinstance(made, Callback):
        raise ConfigError(f"{name}: makes no lightning.pytorch.callbacks.Callback (give a class of that kind)")
    return made


def refuse_callbacks_of_a_file(settings: Settings, typed: Settings, run: RunFolder) -> None:
    """settings: of the run that goes on; typed: of this command. Raises ConfigError where their callbacks differ."""
    before, now = settings.trainer.callbacks, typed.trainer.callbacks
    if before == now:
        return
    if not now:
        names = ", ".join(each["_target_"] for each in before)
        raise ConfigError(
            f"{run.config}: the run was begun with {names}, and no class is started from a file "
            "(type trainer.callbacks=... or callbacks=... as then)"
        )
    raise ConfigError("trainer.callbacks: the run was begun with others (type them as then, or begin a new run)")
