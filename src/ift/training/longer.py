"""`resume=RUN trainer.max_epochs=5`: a run that was stopped or finished goes on to another end than it was begun with.

A constant rate just goes on. Any other schedule has come down by its end, or has begun to; so it is restarted where the
run goes on (warm restarts: Loshchilov & Hutter 2017), with a warm-up over a stated share of the added steps,
`optim.rewarm` (re-warming: Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train Large Language
Models"). config.yaml then holds the step as `optim.restart_at`: the longer part is stopped and resumed as any other.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ift.errors import ConfigError
from ift.launch import is_other_rank
from ift.run import RunFolder, read_json, write_json
from ift.sealed import newest
from ift.settings import (
    ELSEWHERE,
    Settings,
    TrainerSettings,
    load_settings,
    plain_leaves,
    read_settings,
    save_settings,
)

STEADY = ("constant", "wsd")  # schedules that can stand at their peak rate where a run goes on


def planned(run: RunFolder, asked: Settings) -> Settings:
    """The settings of the run that goes on: `asked`, with the restart of the schedule where it has another end.

    asked: the run's own settings with what the command changes. The folder is left as it is. Raises ConfigError where
    the schedule has no place for more steps.
    """
    before = load_settings(run.config)
    if not _has_other_end(before, asked):
        if asked.optim.rewarm != before.optim.rewarm:
            raise ConfigError("optim.rewarm: is for a run that goes on longer (give trainer.max_epochs too)")
        return asked
    checkpoint = newest(run.checkpoints, mend=not is_other_rank())
    if checkpoint is None:  # no step of it was saved: it begins, with the other end
        return asked
    step = checkpoint.about["step"]
    if asked.optim.rewarm is None and asked.optim.schedule not in STEADY:
        raise _no_place(run, step, f"optim.schedule={asked.optim.schedule} is laid out over the steps that the run had")
    return replace(asked, optim=replace(asked.optim, restart_at=step))


def is_longer(run: RunFolder, settings: Settings) -> bool:
    """Whether these settings have another end than those that the run was left with."""
    return run.config.exists() and _has_other_end(load_settings(run.config), settings)


def begin(
    run: RunFolder,
    settings: Settings,
    *,
    steps_of: Callable[[TrainerSettings], int],
    rate_at: Callable[[int, Settings], float],
) -> None:
    """Where `settings` have another end than the run was left with: keep what was made of it so far, and save them.

    steps_of: steps of a whole run with these settings; rate_at: the share of the peak rate at a step. Raises
    ConfigError, before anything is written, where the other end is none or the rate would jump.
    """
    if not is_longer(run, settings):
        return
    before, step = load_settings(run.config), settings.optim.restart_at
    steps, steps_before = steps_of(settings.trainer), steps_of(before.trainer)
    if step is not None:
        _refuse_no_other_end(before, settings, step=step, steps=steps, steps_before=steps_before)
        if settings.optim.rewarm is None and rate_at(step, before) < 1:
            raise _no_place(run, step, f"the rate is {rate_at(step, before):.0%} of its peak at step {step}")
    if is_other_rank():
        return
    if step is not None:
        if run.finished:
            _keep_what_was_made(run, run.path / "earlier" / f"step-{step:08}")
        # before config.yaml: where this process ends in between, the run is not called finished with an end it has not
        run.summary.unlink(missing_ok=True)
        rewarm = settings.optim.rewarm
        how = "at the same rate" if rewarm is None else f"optim.rewarm={rewarm:g} of the added steps, then down again"
        print(f"longer    to step {steps}, before to {steps_before}; {how}", flush=True)
    save_settings(settings, run.config)


def note_where(run: RunFolder, settings: Settings) -> None:
    """config.yaml says on which processes the run goes on from now on: stopped again, it begins from there."""
    before = dataclasses.asdict(load_settings(run.config))
    now = {group: dict(values) if isinstance(values, dict) else values for group, values in before.items()}
    asked = dict(plain_leaves(dataclasses.asdict(settings)))
    for key in ELSEWHERE:
        group, name = key.split(".")
        now[group][name] = asked[key]
    if now != before:
        save_settings(read_settings(now, Settings), run.config)


def _has_other_end(before: Settings, now: Settings) -> bool:
    ends = [(settings.trainer.max_epochs, settings.trainer.max_steps) for settings in (before, now)]
    return ends[0] != ends[1]


def _refuse_no_other_end(before: Settings, now: Settings, *, step: int, steps: int, steps_before: int) -> None:
    key = "max_epochs" if now.trainer.max_epochs != before.trainer.max_epochs else "max_steps"
    given = f"trainer.{key}={getattr(now.trainer, key)}"
    if steps == steps_before:
        other = "max_steps" if key == "max_epochs" else "max_epochs"
        value = getattr(now.trainer, other)
        raise ConfigError(f"{given}: the run still ends at step {steps} by trainer.{other}={value} (give that too)")
    if steps <= step:
        raise ConfigError(f"{given}: ends at step {steps}, and the run is at step {step} (give more)")


def _no_place(run: RunFolder, step: int, why: str) -> ConfigError:
    return ConfigError(
        f"{run.path}: {why} (optim.rewarm=0.1 restarts it at step {step}, warming up over a tenth of the added steps; "
        "or begin a new run with its model: model.pretrained=RUN)"
    )


def _keep_what_was_made(run: RunFolder, folder: Path) -> None:
    """The summary, answers, ratings and evaluations of the run so far: those of the longer one take their places."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (run.responses, run.ratings, run.report, run.evals):
        if path.exists() and not (folder / path.name).exists():
            os.rename(path, folder / path.name)
    write_json(folder / run.summary.name, read_json(run.summary))
    print(f"kept      the summary, answers and evaluations of the run so far: {folder}", flush=True)
