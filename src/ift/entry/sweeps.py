"""The jobs of a sweep, in this process or in those of a launcher (joblib, submitit, Ray): the end of each is noted.

A launcher gives back what a job returned, and its exit code stays where it ran. So the codes are taken from the jobs'
notes (ift.jobs). A signal to the sweep is passed on to jobs in other processes of this machine: they save and end.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ift import jobs, meeting, stops
from ift.entry.errors import as_ift_error, report_once
from ift.errors import Stopped, one_line
from ift.launch import is_other_rank
from ift.settings import Settings

RAY = ".RayLauncher"
BESIDE = (".JoblibLauncher", ".LocalLauncher", RAY)  # launchers whose jobs are other processes of this machine

OBJECTS = 75 << 20  # bytes for what jobs give back to Ray, of which there is next to nothing; the least that it takes

_typed_here = False  # else this process is one of a launcher, and ran no command
_folder: Path | None = None  # of the sweep that this process began
_exit_code = 0  # of a job that is no part of a sweep


class SweepStart(Callback):
    """${now:...} is the same for all ranks; remembers where a sweep's runs will lie (conf/train.yaml names it)."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        began = meeting.moment()
        OmegaConf.register_new_resolver("now", lambda form: began.strftime(form), use_cache=True, replace=True)
        OmegaConf.clear_cache(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _folder
        self.on_run_start(config)
        _folder = folder = Path(config.hydra.sweep.dir)
        if is_other_rank():
            return
        jobs.begin(folder)
        launcher = str(config.hydra.launcher.get("_target_"))
        if launcher.endswith(RAY):
            _begin_ray(config.hydra.launcher.ray.init)
        if launcher.endswith(BESIDE):
            stops.pass_on(lambda: jobs.stop(folder), again_in(folder))


def _begin_ray(options: DictConfig) -> None:
    """Before its launcher does: Ray takes SIGTERM for itself then, and would kill jobs that are to save."""
    import ray

    given: dict[str, Any] = OmegaConf.to_container(options, resolve=True)  # type: ignore[assignment]
    heard = signal.getsignal(signal.SIGTERM)
    ray.init(**{"object_store_memory": OBJECTS, **given})
    signal.signal(signal.SIGTERM, heard)


def typed_here() -> None:
    """This process runs the command that was typed."""
    global _typed_here
    _typed_here = True


def begun() -> Path | None:
    """The folder of the sweep that this process began."""
    return _folder


def exit_code() -> int:
    """Of the first job that failed or was stopped; 0 where all came to their end."""
    return _exit_code or (jobs.first_failure(_folder) if _folder is not None else 0)


@contextmanager
def job() -> Iterator[bool]:
    """Around the work of one job: its error is reported here and now, and the other jobs of a sweep go on.

    A stop is no error. In the process that began a sweep it ends the sweep; in a process of a launcher it ends the
    job, and the sweep begins no other. Yields False where the other ranks did this job before this one was there.
    """
    global _exit_code
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    number, where = (HydraConfig.get().job.num, f"job {job_folder().name}: ") if in_sweep else (0, "")
    with nullcontext() if _typed_here or not in_sweep else stops.listening_to_parent():
        _note()
        try:
            yield meeting.begin_job(number)
        except Stopped as stopped:
            meeting.failed(str(stopped))
            _note(code=Stopped.exit_code, status=one_line(str(stopped)))
            if _typed_here:
                raise
            print(f"ift: {where}{stopped}", file=sys.stderr, flush=True)
        except Exception as error:
            found = as_ift_error(error, Settings)
            code = report_once(found, where=where)
            _exit_code = _exit_code or code
            _note(code=code, status=f"failed: {one_line(str(found) or type(found).__name__)}")
        else:
            _note(code=0)


def _note(code: int | None = None, status: str = "") -> None:
    """Write down how this job of a sweep is doing. (A sweep of evaluate.py has no table, and needs no notes.)"""
    is_mine = HydraConfig.get().mode == RunMode.MULTIRUN and not is_other_rank()
    if is_mine and (_folder is not None or not _typed_here):
        jobs.note(_sweep_folder(), job_folder().name, choices=choices(), code=code, status=status)


def refuse_if_stopped() -> None:
    """Raises Stopped in a job that would begin after its sweep was asked to stop."""
    if not _typed_here and HydraConfig.get().mode == RunMode.MULTIRUN and jobs.is_stopped(_sweep_folder()):
        raise Stopped("not begun: the sweep was stopped")


def sweep_name() -> str | None:
    """What all jobs of one sweep have in common, or None outside a sweep."""
    return "-".join(_sweep_folder().parts[-2:]) if HydraConfig.get().mode == RunMode.MULTIRUN else None


def how_to_go_on(run: Path) -> str:
    """What to type after a stop."""
    is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    return again_in(_sweep_folder()) if is_sweep else f"go on with: ift train resume={run}"


def again_in(sweep: Path) -> str:
    return f"go on: type the sweep again with output_dir={sweep}"


def job_folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _sweep_folder() -> Path:
    return Path(HydraConfig.get().sweep.dir)


def choices() -> str:
    """The overrides of this job, for tables."""
    return " ".join(typed())


def typed() -> list[str]:
    # as they were typed: a ${key} in them means nothing in Hydra's own config
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # type: ignore[return-value]
