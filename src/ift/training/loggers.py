"""Where numbers go: metrics.jsonl always; Weights & Biases, TensorBoard and metrics.csv when asked.

None of those asked for ever ends a training: see never_fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from ift.errors import Stopped, one_line
from ift.launch import is_other_rank
from ift.run import RunFolder, whole_objects
from ift.settings import LoggerSettings, Settings
from ift.training.metrics_file import MetricsFile, MetricsTable
from ift.training.weights_and_biases import (
    catch_up,
    disabled,
    finish,
    row_of,
    start_wandb,
    table,
    wandb_id,
    written,
)

MEASURED = ("val", "test", "clean_test")  # what is measured after a step


def never_fails(method: Callable[..., Any]) -> Callable[..., Any]:
    """What a logger raises ends that logger, with one line, and not the training."""

    @wraps(method)
    def guarded(self: Wandb | TensorBoard, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.broken = True
            first = error.__cause__ or error  # Lightning puts a guess of its own around some
            what = f"{self.called} failed ({one_line(f'{type(first).__name__} {first}', 90)})"
            print(f"ift: {what}: training goes on without it; metrics.jsonl has every number", flush=True)
            return None

    return guarded


class Wandb(WandbLogger):
    """Lightning's logger with a table of sample answers, the model as an artifact, and an end with the right state.

    A thread of its own starts W&B and hands it everything, in order: no step waits for it, the first one least of all.
    """

    called = "W&B"

    def __init__(self, settings: LoggerSettings, *, folder: Path, config: Mapping[str, Any], run_id: str):
        self.broken, self.artifact, self.last = False, settings.log_model, -1
        super().__init__(save_dir=str(folder))
        self._thread = ThreadPoolExecutor(1, "ift-wandb")
        metrics = RunFolder(folder).metrics
        self._later(
            self._start, settings, folder=folder, config=config, run_id=run_id,
            earlier=metrics.read_bytes() if metrics.exists() else b"",  # as it is now: the run goes on meanwhile
        )  # fmt: skip

    @rank_zero_only
    def _later(self, method: Callable[..., None], *args: Any, **about: Any) -> None:
        self._thread.submit(method, *args, **about)

    def wait(self) -> None:
        """Until W&B has everything that was logged so far."""
        self._thread.submit(lambda: None).result()

    @property
    def experiment(self) -> Any:
        """Never a run of Lightning's own making; None while W&B starts, and where it could not."""
        return self._experiment

    @never_fails
    def _start(self, settings: LoggerSettings, *, folder: Path, earlier: bytes, **about: Any) -> None:
        before = written(folder)
        run = start_wandb(settings, folder=folder, **about)
        self.last = catch_up(run, before)
        self._experiment = run
        if before.may_lack_rows and run is not None:
            self._fill(earlier)

    def _fill(self, metrics: bytes) -> None:
        """Rows that metrics.jsonl has and the files of a process that was killed have not."""
        lines, _ = whole_objects(metrics, lambda line: isinstance(line.get("step"), int))
        for line in lines if self.experiment.offline else []:
            step = line.pop("step")
            numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
            measured = {name: numbers.pop(name) for name in [*numbers] if name.partition("/")[0] in MEASURED}
            self._log(numbers, step, trained=True)
            if measured:
                self._log(measured, step, trained=False)
            self.last = max(self.last, row_of(step, trained=not measured))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._later(self._log_step, dict(metrics), step)

    @never_fails
    def _log_step(self, metrics: Mapping[str, Any], step: int | None) -> None:
        if step is None:
            self.experiment.log(dict(metrics))
        else:
            self._log(metrics, step, trained="train/loss" in metrics and "val/loss" not in metrics)

    def _log(self, values: Mapping[str, Any], step: int, *, trained: bool) -> None:
        row = row_of(step, trained=trained)
        if row > self.last:  # else an earlier file holds it: the run was killed after its last checkpoint
            self.experiment.log({**values, "step": step}, step=row)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing: the configuration was given at the start."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Nothing: Lightning would upload checkpoints of its own; see close."""

    def log_samples(self, samples: list[dict[str, Any]]) -> None:
        """The answers of one validation, as a table of that step: W&B shows one beside the other."""
        if samples:
            self._later(self._log_samples, samples)

    @never_fails
    def _log_samples(self, samples: list[dict[str, Any]]) -> None:
        columns = ["step", "instruction", "input", "reference", "response"]
        rows = [[sample[column] for column in columns] for sample in samples]
        self._log({"samples": table(columns, rows)}, samples[0]["step"], trained=False)

    @rank_zero_only
    def close(self, *, exit_code: int, summary: Mapping[str, Any], model: Path) -> None:
        self._later(self._close, exit_code=exit_code, summary=summary, model=model)
        self._thread.shutdown()  # waits

    @never_fails
    def _close(self, *, exit_code: int, summary: Mapping[str, Any], model: Path) -> None:
        if self.experiment is not None:
            finish(self.experiment, exit_code=exit_code, summary=summary, model=model if self.artifact else None)


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, into RUN/tensorboard; one file a process."""

    called = "TensorBoard"

    def __init__(self, folder: Path):
        self.broken = False
        super().__init__(str(folder), name="tensorboard", version="")

    @rank_zero_only
    @never_fails
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(dict(metrics), step)

    @rank_zero_only
    @never_fails
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    @never_fails
    def save(self) -> None:
        """Nothing: Lightning would write an empty hparams.yaml."""

    @rank_zero_only
    @never_fails
    def finalize(self, status: str) -> None:
        """Lightning calls this after validation, training and test; it would close the file, and then open another."""
        self.experiment.flush()

    @rank_zero_only
    @never_fails
    def close(self) -> None:
        self.experiment.close()


@contextmanager
def open_loggers(settings: Settings, run: RunFolder, *, fresh: bool) -> Iterator[tuple[MetricsFile, list[Logger]]]:
    """metrics.jsonl and the loggers that were chosen; closed at the end, with the right state if it was an error.

    fresh: the run begins; numbers of one that ended before its first checkpoint go.
    """
    if fresh and run.metrics.exists() and not is_other_rank():
        run.metrics.unlink()
        for file in (run.path / "tensorboard").glob("events.out.tfevents.*"):
            file.unlink()
    metrics = MetricsFile(run.metrics)
    loggers = [metrics, *chosen(settings, run, metrics)]
    exit_code = 1
    try:
        yield metrics, loggers
        exit_code = 0
    except Stopped:
        exit_code = Stopped.exit_code
        raise
    finally:
        for logger in loggers:
            logger.finalize("success" if exit_code == 0 else "failed")
            if isinstance(logger, TensorBoard):
                logger.close()
            if isinstance(logger, Wandb):
                summary = json.loads(run.summary.read_text(encoding="utf-8")) if run.summary.exists() else {}
                logger.close(exit_code=exit_code, summary=summary, model=run.model)


def chosen(settings: Settings, run: RunFolder, metrics: MetricsFile) -> list[Logger]:
    """Beside metrics.jsonl, which each of them follows."""
    loggers: list[Logger] = []
    if settings.logger.csv:
        loggers.append(MetricsTable(metrics))
    if settings.logger.tensorboard:
        loggers.append(TensorBoard(run.path))
    if settings.logger.wandb and not disabled():
        log = Wandb(settings.logger, folder=run.path, config=asdict(settings), run_id=wandb_id(run))
        loggers.append(log)
        if settings.trainer.callbacks or settings.data.num_workers:  # those may use its run; these are forked
            log.wait()
    return loggers
