"""The settings of a trainer for tests that put a run together themselves."""

from pathlib import Path
from typing import Any

import yaml

from ift.settings import EarlyStoppingSettings, TrainerSettings

CONF = Path(__file__).parents[2] / "conf/trainer/auto.yaml"


def trainer_options(*, patience: int | None = None, **changes: Any) -> TrainerSettings:
    """What conf/trainer/auto.yaml says, in fp32 on a CPU; patience: of early stopping, by default none."""
    values = yaml.safe_load(CONF.read_text()) | {"precision": "fp32", "accelerator": "cpu"}
    values |= {"fast_dev_run": 0, "callbacks": []}
    stopping = EarlyStoppingSettings(patience=patience, min_delta=0.0)
    return TrainerSettings(**values | {"early_stopping": stopping} | changes)
