"""Whether the data of the evaluations in conf/eval is here, told before the harness and torch are imported."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from ift.errors import LIMIT, DataError, missing_extra

DATA = {  # tasks by name or pattern -> data set; of other tasks the harness knows it
    "mmlu": "cais/mmlu",
    "mmlu_high_school_geography": "cais/mmlu",
    "mmlu_marketing": "cais/mmlu",
    "glue": "nyu-mll/glue",
    "sst2": "nyu-mll/glue",
    "rte": "nyu-mll/glue",
    "super-glue-lm-eval-v1": "aps/super_glue",
    "boolq": "aps/super_glue",
    "copa": "aps/super_glue",
    "bigbench_*_multiple_choice": "hails/bigbench",
    "bigbench_*_generate_until": "hails/bigbench",
    "ift_squad": "rajpurkar/squad",
    "squadv2": "lighteval/squad_v2",
    "triviaqa": "mandarjoshi/trivia_qa",
    "piqa": "baber/piqa",
    "winogrande": "allenai/winogrande",
    "hellaswag": "Rowan/hellaswag",
    "ifeval": "google/IFEval",
}


def data_sets(tasks: Iterable[str]) -> list[str]:
    """Those that are known of these tasks, each once."""
    known = (dataset for task in tasks for pattern, dataset in DATA.items() if fnmatch(task, pattern))
    return list(dict.fromkeys(known))


def check_data(tasks: Iterable[str], *, data_root: Path | None, offline: bool) -> None:
    """Raises DataError for a data set that is not in the mirror, or offline neither there nor in the Hub's cache."""
    for dataset in data_sets(tasks):
        if data_root and not (data_root / dataset).is_dir():
            raise missing_data(dataset, data_root, "no such folder")
        if offline and not data_root and not in_cache(dataset):
            raise missing_data(dataset, None, "not on this machine")


def asks_ifeval(tasks: Iterable[str]) -> bool:
    return any("ifeval" in task for task in tasks)


def check_ifeval(*, data_root: Path | None, offline: bool) -> None:
    """Raises MachineError for a package that IFEval's checks of instructions need, DataError for NLTK's sentences.

    Where fetching is allowed, the harness fetches what NLTK needs by itself.
    """
    for package in ("immutabledict", "langdetect", "nltk"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "eval")
    from nltk.data import find, path

    places = [*([str(data_root / "nltk_data")] if data_root else []), *path]
    try:
        find("tokenizers/punkt_tab/english/", places)
    except LookupError as error:
        if offline or data_root:
            folder = data_root or "FOLDER"
            fetch = f"python -m nltk.downloader -d {folder}/nltk_data punkt_tab"
            then = "" if data_root else ", then data_root=FOLDER"
            raise DataError(f"nltk_data/tokenizers/punkt_tab: not on this machine ({fetch}{then})") from error


def ready_for_ifeval(data_root: Path | None) -> None:
    """Where NLTK finds its data; and a detector of languages that says the same of the same text every time."""
    import nltk.data
    from langdetect import DetectorFactory

    if data_root and (folder := str(data_root / "nltk_data")) not in nltk.data.path:
        nltk.data.path.insert(0, folder)
    DetectorFactory.seed = 0


def in_cache(dataset: str) -> bool:
    """Whether the Hub's libraries may have a data set OWNER/NAME: as files, or as tables that were made of them."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    files = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    tables = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets")
    owner = dataset.partition("/")[0]
    return (files / f"datasets--{dataset.replace('/', '--')}").is_dir() or any(tables.glob(f"{owner}___*"))


def missing_data(dataset: str, data_root: Path | None, what: str) -> DataError:
    """With the command that fetches it, whole if a line can hold it."""
    folder = str(data_root / dataset) if data_root else f"FOLDER/{dataset}"
    fetch = f"hf download --repo-type dataset {dataset} --local-dir {folder}"
    if data_root is None:
        return DataError(f"{dataset}: {what} ({fetch}, then data_root=FOLDER)")
    whole = f"{folder}: {what} ({fetch})"
    return DataError(whole if len(whole) < LIMIT - 20 else f"{dataset}: {what} ({fetch})")
