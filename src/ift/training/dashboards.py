"""Which loggers a run has and where they write, settled before torch is imported."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from ift.errors import missing_extra
from ift.run import RunFolder
from ift.settings import Settings, load_settings
from ift.training.weights_and_biases import decided


def with_dashboards(settings: Settings, run: RunFolder, *, group: str | None) -> Settings:
    """The settings with what the command leaves open about its loggers; config.yaml keeps them so.

    group: of a sweep. Raises ConfigError for what W&B would refuse, MachineError for a package that is not there.
    """
    if settings.logger.tensorboard and find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "tensorboard")
    if not settings.logger.wandb:
        return settings
    before = load_settings(run.config).logger if run.begun and run.config.exists() else None
    return replace(settings, logger=decided(settings.logger, before=before, group=group))
