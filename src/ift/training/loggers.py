"""Where numbers go: metrics.jsonl always, Weights & Biases when asked. The only door to wandb."""

from __future__ import annotations

import json
import netrc
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from ift.errors import Stopped, WeightsError, one_line, refused_by_disk
from ift.run import RunFolder, is_other_rank, read_jsonl, write_text
from ift.settings import LoggerSettings, Settings


class MetricsFile(Logger):
    """metrics.jsonl: one line a step with every number of that step. The truth that W&B mirrors.

    Training, validation and test of one step arrive one after the other; the line is written when the next step
    begins, and whenever Lightning asks for it. Lines that the disk refuses are kept and tried again with the next.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._step: int | None = None
        self._values: dict[str, Any] = {}
        self._begin = path.stat().st_size if path.exists() else 0  # of this step's line in the file
        self._refused = b""  # lines before it that are not in the file yet
        self._told = False

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return "0"

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step != self._step:
            self.save()
            line = self._line()
            self._begin += len(line)
            if self._told:
                self._refused += line
            self._step, self._values = step, {}
        self._values |= metrics

    def _line(self) -> bytes:
        return (json.dumps({"step": self._step, **self._values}) + "\n").encode() if self._values else b""

    @rank_zero_only
    def save(self) -> None:
        """Write the line of this step, in the place of the one that an earlier call wrote for it."""
        if not self._values:
            return
        try:
            self._write()
            self._refused, self._told = b"", False
        except OSError as error:
            if not self._told:
                print(f"ift: {refused_by_disk(error, str(self.path))}: training goes on", flush=True)
            self._told = True

    def _write(self, *, flush: bool = False) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.truncate(self._begin - len(self._refused))
            rest = self._refused + self._line()
            while rest:
                rest = rest[file.write(rest) :]
            if flush:
                os.fsync(file.fileno())

    @rank_zero_only
    def flush(self) -> None:
        """Every line so far is on the disk; raises OSError where it refuses."""
        self._write(flush=True)
        self._refused, self._told = b"", False

    def position(self) -> dict[str, Any]:
        """What a run needs that goes on from here."""
        return {"begin": self._begin, "step": self._step, "values": self._values}

    @rank_zero_only
    def go_back(self, position: Mapping[str, Any]) -> None:
        """Cut off what came after a position. Raises WeightsError where lines before it are missing."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < position["begin"]:
            raise WeightsError(
                f"{self.path}: {size} bytes, but the checkpoint follows on {position['begin']} (was it cut?)"
            )
        self._begin, self._step, self._values = position["begin"], position["step"], dict(position["values"])
        self._refused = b""
        self.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


Mode = Literal["online", "offline", "disabled", "shared"]


def wandb_mode() -> tuple[Mode, str | None]:
    """online, offline or disabled, and the one line that says why if no one asked for it.

    W&B would ask for a key at a prompt; a run on a cluster would hang there. So: no key, no question, offline.
    """
    asked = os.environ.get("WANDB_MODE")
    if asked:
        return cast(Mode, asked), None
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    if known or os.environ.get("WANDB_API_KEY"):
        return "online", None
    return "offline", "no W&B key: curves are kept offline (wandb login, then: wandb sync RUN/wandb/offline-*)"


def start_wandb(
    settings: LoggerSettings, *, folder: Path, config: Mapping[str, Any], group: str | None, run_id: str
) -> Any:
    """A W&B run, the same one where a stopped run goes on; offline, with one line, where there is no key or no answer.

    Raises Exception where W&B cannot even do that.
    """
    import wandb

    def start(mode: Mode) -> Any:
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            name=settings.run_name or folder.name,
            group=settings.group or group,
            dir=folder,
            config=dict(config),
            mode=mode,
            id=run_id,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(
                # nothing is uploaded that was not chosen: no code, no git remote, no console
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                # a run never waits for a server that is down: what is not uploaded by then stays in the folder
                init_timeout=30,
                finish_timeout=120,
            ),
        )

    mode, why = wandb_mode()
    if why:
        print(f"ift: {why}", flush=True)
    try:
        return start(mode)
    except wandb.errors.Error as error:
        print(f"ift: W&B does not answer ({one_line(str(error), 80)}): curves are kept offline", flush=True)
        return start("offline")


def never_fails(method: Callable[..., Any]) -> Callable[..., Any]:
    """What W&B raises ends W&B, with one line, and not the training."""

    @wraps(method)
    def guarded(self: Wandb, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.broken = True
            what = one_line(f"{type(error).__name__} {error}", 90)
            print(f"ift: W&B failed ({what}): training goes on without it; metrics.jsonl has every number", flush=True)
            return None

    return guarded


class Wandb(WandbLogger):
    """Lightning's logger with a table of sample answers, the model as an artifact, and an end with the right state.

    Training never depends on it: see never_fails.
    """

    def __init__(
        self, settings: LoggerSettings, *, folder: Path, config: Mapping[str, Any], group: str | None, run_id: str
    ):
        self.broken, self.artifact = False, settings.log_model
        run = self._start(settings, folder=folder, config=config, group=group, run_id=run_id)
        super().__init__(save_dir=str(folder), experiment=run)

    @property
    def experiment(self) -> Any:
        """Never a run of Lightning's own making."""
        return self._experiment

    @rank_zero_only
    @never_fails
    def _start(self, *args: Any, **about: Any) -> Any:
        return start_wandb(*args, **about)

    @rank_zero_only
    @never_fails
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, step)

    @rank_zero_only
    @never_fails
    def log_hyperparams(self, params: Any) -> None:
        """Nothing: the configuration was given at the start."""

    @rank_zero_only
    @never_fails
    def finalize(self, status: str) -> None:
        super().finalize(status)

    @rank_zero_only
    @never_fails
    def log_samples(self, samples: list[dict[str, Any]]) -> None:
        """The answers of one validation, as a table of that step: W&B shows one beside the other."""
        import wandb

        columns = ["step", "instruction", "input", "reference", "response"]
        rows = [[sample[column] for column in columns] for sample in samples]
        self.experiment.log({"samples": wandb.Table(columns=[*columns], data=rows)})

    @rank_zero_only
    @never_fails
    def close(self, *, exit_code: int, summary: Mapping[str, Any], model: Path) -> None:
        """End the run as finished, failed or stopped, so that a sweep's next job gets a run of its own."""
        import wandb

        if wandb.run is None:
            return
        wandb.run.summary.update(dict(summary))
        if exit_code == Stopped.exit_code:
            wandb.run.mark_preempting()
        if self.artifact and model.is_dir():
            artifact = wandb.Artifact(f"model-{wandb.run.id}", type="model")
            artifact.add_dir(str(model))
            wandb.run.log_artifact(artifact)
        wandb.finish(exit_code=exit_code)


@contextmanager
def open_loggers(
    settings: Settings, run: RunFolder, *, group: str | None, fresh: bool
) -> Iterator[tuple[MetricsFile, list[Logger]]]:
    """metrics.jsonl, and W&B if it was chosen; both are closed at the end, with the right state if it was an error.

    fresh: the run begins; numbers of one that ended before its first checkpoint go.
    """
    if fresh and not is_other_rank():
        run.metrics.unlink(missing_ok=True)
    metrics = MetricsFile(run.metrics)
    loggers: list[Logger] = [metrics]
    if settings.logger.name == "wandb":
        loggers.append(
            Wandb(settings.logger, folder=run.path, config=asdict(settings), group=group, run_id=wandb_id(run))
        )
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
            if isinstance(logger, Wandb):
                summary = json.loads(run.summary.read_text(encoding="utf-8")) if run.summary.exists() else {}
                logger.close(exit_code=exit_code, summary=summary, model=run.model)


def wandb_id(run: RunFolder) -> str:
    """The run's name in W&B, drawn once and kept in the folder: a run that goes on is the same one there."""
    if not run.wandb_id.exists() and not is_other_rank():
        write_text(run.wandb_id, secrets.token_hex(4) + "\n")
    return run.wandb_id.read_text(encoding="utf-8").strip() if run.wandb_id.exists() else ""


TABLE_ROWS, TABLE_TEXT = 500, 2000  # of a table in W&B; the run folder has them all, whole


def log_evaluation(run: RunFolder, name: str, numbers: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """What an evaluation found, into the W&B run that training made: numbers as eval/NAME/..., rows as a table.

    Nothing is done where training made none. Offline, W&B keeps it beside the training's own file under the same id.
    """
    mode, _ = wandb_mode()
    if not run.wandb_id.exists() or mode == "disabled":
        return
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # it would advertise itself wherever openai is imported
    import wandb
    from omegaconf import OmegaConf

    config: Any = OmegaConf.load(run.config) if run.config.exists() else {}
    logger = config.get("logger", {})
    last = read_jsonl(run.metrics)[-1:] if run.metrics.exists() else []
    columns: list[str | int] = [*dict.fromkeys(key for row in rows[:TABLE_ROWS] for key in row)]
    cells = [[_cell(row.get(str(column))) for column in columns] for row in rows[:TABLE_ROWS]]
    try:
        with wandb.init(
            id=wandb_id(run),
            resume="allow",
            project=logger.get("project"),
            entity=logger.get("entity"),
            group=logger.get("group"),
            dir=run.path,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True, init_timeout=30),
        ) as logged:
            logged.summary.update({f"eval/{name}/{key}": value for key, value in numbers.items() if _is_plain(value)})
            # W&B drops steps that do not grow; training and each evaluation so far left a folder
            step = (last[0]["step"] if last else 0) + len(list((run.path / "wandb").glob("*run-*-*"))) - 1
            logged.log({f"eval/{name}": wandb.Table(columns=columns, data=cells)}, step=step)
    except wandb.errors.Error as error:
        print(f"ift: W&B does not answer ({one_line(str(error), 80)}): the numbers are in the run folder", flush=True)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _cell(value: Any) -> Any:
    """All of a column must be of one kind: numbers stay numbers, anything else becomes text."""
    if value is None or isinstance(value, int | float):
        return value
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:TABLE_TEXT]
