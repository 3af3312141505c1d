"""Tasks of lm-evaluation-harness by name, with their data from the Hub or a folder; SQuAD, scored by its own rules.

    load_tasks(["glue", "squadv2"], data_root=mirror, offline=True, cache=folder)

With data_root, tasks are unchanged: the harness loads a data set OWNER/NAME, and a folder of that name below the
working directory comes before the Hub.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import lm_eval.api.task
import lm_eval.tasks
import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import TaskDict
from lm_eval.tasks.squadv2.task import SQuAD2

from ift.errors import ConfigError, DataError, missing_extra, one_line
from ift.evaluation.harness.data import missing_data
from ift.evaluation.harness.squad import ScoredAnswer, best_over_thresholds, exact_match, f1, gold_answers
from ift.progress import progress

# where the tasks of named evaluations lie: reading all 14,000 files of tasks takes many seconds
OFTEN = ("bigbench", "glue", "hellaswag", "ifeval", "mmlu/default", "piqa", "super_glue", "triviaqa", "winogrande")


def squad_question(doc: Mapping[str, Any]) -> str:
    return f"Title: {doc['title']}\n\nBackground: {doc['context']}\n\nQuestion: {doc['question']}\n\nAnswer:"


def squad_answer(doc: Mapping[str, Any]) -> str:
    return str(doc["answers"]["text"][0])


def score_squad(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    answers = doc["answers"]["text"]
    return {"exact_match": exact_match(results[0], answers), "f1": f1(results[0], answers)}


def squad1() -> Task:
    """SQuAD 1.1, which the harness lacks, in the words of its version 2."""
    return ConfigurableTask(
        config={
            "task": "ift_squad",
            "dataset_path": SQUAD["ift_squad"][1],
            "training_split": "train",
            "validation_split": "validation",
            "output_type": "generate_until",
            "doc_to_text": squad_question,
            "doc_to_target": squad_answer,
            # the longest answer has 46 words; what is longer is no answer
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 64, "do_sample": False, "temperature": 0.0},
            "process_results": score_squad,
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("exact_match", "f1")
            ],
            "metadata": {"version": 1.0},
        }
    )


class Squad2(SQuAD2):
    """SQuAD 2.0 as the harness asks it, its data by name or folder, scored here: the harness fetches a script."""

    def __init__(self) -> None:
        config = {"task": "squadv2", "dataset_path": SQUAD["squadv2"][1], "metadata": {"version": self.VERSION}}
        ConfigurableTask.__init__(self, config=config)

    def process_results(self, doc: Mapping[str, Any], results: tuple[str, tuple[float, bool]]) -> dict[str, Any]:
        text, (no_answer, _) = results
        answers = gold_answers(doc["answers"]["text"])
        has_answer = bool(doc["answers"]["text"])
        scores: dict[str, Any] = {}
        for name, score in (("exact", exact_match(text, answers)), ("f1", f1(text, answers))):
            scores |= {name: score, f"{'HasAns' if has_answer else 'NoAns'}_{name}": score}
            scores[f"best_{name}"] = ScoredAnswer(math.exp(no_answer), score, has_answer, answered=bool(text))
        return scores

    def aggregation(self) -> dict[str, Callable[[Sequence[Any]], float]]:
        return {name: best_over_thresholds if name.startswith("best") else mean for name in self.higher_is_better()}


SQUAD: dict[str, tuple[Callable[[], Task], str]] = {
    "ift_squad": (squad1, "rajpurkar/squad"),
    "squadv2": (Squad2, "lighteval/squad_v2"),
}


@lru_cache
def often_asked() -> TaskManager:
    root = Path(lm_eval.tasks.__file__).parent
    return TaskManager(include_defaults=False, include_path=[str(root / name) for name in OFTEN])


@lru_cache
def all_there_is() -> TaskManager:
    return TaskManager()


def manager_for(names: Sequence[str]) -> TaskManager:
    """Of all tasks only where that is needed. Raises ConfigError for a name that the harness does not know."""
    for find in (often_asked, all_there_is):
        manager = find()
        unknown = [name for name in names if name not in SQUAD and name not in manager.task_index]
        if not unknown:
            return manager
    nearest = difflib.get_close_matches(unknown[0], [*manager.all_tasks, *SQUAD], n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "python -m lm_eval ls tasks lists them"
    raise ConfigError(f"eval.tasks={unknown[0]}: no task of lm-evaluation-harness ({hint})")


def tasks_of(names: Sequence[str], manager: TaskManager) -> dict[str, Mapping[str, Any]]:
    """Each single task that the names of tasks, groups and tags stand for, with what its file says."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in names:
        if name in SQUAD:
            found[name] = {"dataset_path": SQUAD[name][1]}
            continue
        entry = manager.task_index.get(name)
        if entry is None:
            continue
        members: list[Any] = sorted(entry.tags) if entry.kind.name == "TAG" else []
        if entry.kind.name == "GROUP":
            listed = entry.cfg.get("task") or []
            listed = [listed] if isinstance(listed, str) else listed
            members = [m if isinstance(m, str) else m.get("task", m.get("group")) for m in listed]
        if members:
            found |= tasks_of([member for member in members if isinstance(member, str)], manager)
        else:
            found[name] = entry.cfg
    return found


def data_of(names: Sequence[str], manager: TaskManager) -> dict[str, str | None]:
    """Each single task with its data set: OWNER/NAME, or None where only its code knows."""
    return {name: file.get("dataset_path") for name, file in tasks_of(names, manager).items()}


def refuse_what_cannot_be_asked(names: Sequence[str], manager: TaskManager) -> None:
    """Raises ConfigError for a task that runs what a model writes, or asks about pictures or sound."""
    for name, file in tasks_of(names, manager).items():
        if file.get("unsafe_code"):
            raise ConfigError(f"eval.tasks={name}: runs what a model writes (eval=humaneval does, in a sandbox)")
        if file.get("doc_to_image") or file.get("doc_to_audio"):
            raise ConfigError(f"eval.tasks={name}: asks about pictures or sound (this model reads text)")


def load_tasks(
    names: Sequence[str], *, data_root: Path | None, offline: bool, cache: Path, title: str | None = None
) -> TaskDict:
    """Tasks and groups with their data, as `lm_eval.evaluate` takes them.

    cache: a folder for the tables that are made of a mirror's files; it must stay as long as the tasks do
    title    of a progress bar

    Raises ConfigError for a name that is unknown or cannot be asked, DataError for data that is not there.
    """
    names = list(dict.fromkeys(names))
    manager = manager_for(names)
    refuse_what_cannot_be_asked(names, manager)
    data = data_of(names, manager)
    for dataset in filter(None, data.values()):
        if data_root and not (data_root / dataset).is_dir():
            raise missing_data(dataset, data_root, "no such folder")
    random.seed(DEFAULT_RANDOM_SEED)  # some tasks shuffle or draw when they are loaded
    np.random.seed(DEFAULT_OTHER_SEED)
    tasks: dict[str, Task] = {}
    groups: dict[str, Any] = {}
    with (
        _data_from(data_root, offline=offline, cache=cache),
        _loading(title, len(data), cache=cache if data_root else None),
    ):
        for name in names:
            try:
                loaded = manager.load([SQUAD[name][0]() if name in SQUAD else name])
            except ModuleNotFoundError as error:
                raise missing_extra(str(error.name), "eval") from error
            except Exception as error:  # whatever a data set's files make of the many libraries that read them
                raise _no_data(name, list(data_of([name], manager).values()), data_root, error) from error
            twice = sorted(set(loaded["tasks"]) & set(tasks))
            if twice:
                raise ConfigError(f"eval.tasks={name}: {twice[0]} is there already (name each task once)")
            tasks |= loaded["tasks"]
            groups |= loaded.get("groups") or {}
    return {"tasks": tasks, "groups": groups}


def _no_data(name: str, data: Sequence[str | None], data_root: Path | None, error: Exception) -> DataError:
    first = str(error).splitlines()[0] if str(error) else ""
    what = one_line(f"{type(error).__name__}: {first}", 44)
    dataset = next(filter(None, data), None)
    return missing_data(dataset, data_root, what) if dataset else DataError(f"eval.tasks={name}: {what}")


# Attributes of libraries that are replaced for a while, since they have no parameter or setting for it:
#   datasets 5.2, huggingface_hub 2.4   read HF_HUB_OFFLINE once, when they are imported
#   lm-eval 0.4.13                      loads each task's data in ConfigurableTask.download, without a callback or a
#                                       folder for its tables; shows a bar with tqdm whatever its verbosity
REPLACED: tuple[tuple[Any, str], ...] = (
    (datasets.config, "HF_HUB_OFFLINE"),
    (huggingface_hub.constants, "HF_HUB_OFFLINE"),
    (ConfigurableTask, "download"),
    (lm_eval.api.task, "tqdm"),
)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for one of REPLACED, in the whole process, until the end of the block."""
    assert (owner, name) in REPLACED
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _data_from(data_root: Path | None, *, offline: bool, cache: Path) -> Iterator[None]:
    """Where data sets come from, for a while."""
    with ExitStack() as stack:
        if data_root:
            shutil.rmtree(cache, ignore_errors=True)  # of a process that was killed
            stack.enter_context(chdir(data_root))
        if offline or data_root:
            stack.enter_context(replaced(datasets.config, "HF_HUB_OFFLINE", True))
            stack.enter_context(replaced(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
        yield


@contextmanager
def _loading(title: str | None, tasks: int, *, cache: Path | None) -> Iterator[None]:
    """A progress bar over the tasks that are loaded. cache: a folder for their tables instead of the user's."""
    download = ConfigurableTask.download
    with progress(title, tasks, "tasks") as advance:

        def with_bar(task: Task, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
            more = {"cache_dir": str(cache)} if cache else {}
            download(task, {**(dataset_kwargs or {}), **more}, **options)
            advance(1)

        with replaced(ConfigurableTask, "download", with_bar):
            yield


@contextmanager
def quiet() -> Iterator[None]:
    """Without the logs, bars and warnings of the harness and the libraries below it."""
    loggers = {name: logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate", "huggingface_hub")}
    levels = {name: logger.level for name, logger in loggers.items()}
    bars = datasets.utils.are_progress_bars_disabled()
    with warnings.catch_warnings(), replaced(lm_eval.api.task, "tqdm", _without_bar):
        warnings.simplefilter("ignore")
        for logger in loggers.values():
            logger.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            for name, logger in loggers.items():
                logger.setLevel(levels[name])
            if not bars:
                datasets.enable_progress_bars()


def _without_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items


def revision_of(task: Task) -> str | None:
    """The commit of the data set on the Hub, where that is known."""
    for split in task.dataset.values() if isinstance(task.dataset, dict) else [task.dataset]:
        for source in getattr(getattr(split, "info", None), "download_checksums", None) or {}:
            if "@" in source:
                return str(source.partition("@")[2].split(os.sep)[0])
    return None
