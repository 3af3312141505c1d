"""A folder to its data files and their splits, as `datasets`, `hf download`, LLaMA-Factory and people leave them.

train.jsonl and test.jsonl are the rows to train on and to test on, by their names. The same holds for
`data/train-00000-of-00002.parquet`, `default/test/0000.parquet`, `rows_validation.json`, for folders train/ and test/,
for what `save_to_disk` writes, and for the files in a zip. What is in the folder and not read is named.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ift.data.reading.archives import is_zip, names_in
from ift.data.reading.containers import PACKED, SUFFIXES, suffix_of
from ift.data.reading.json_layouts import ROW_NAMES, Ambiguous, rows_of
from ift.errors import DataError

SPLITS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
PACKED_DATA = re.compile(f"({'|'.join(SUFFIXES)})({'|'.join(PACKED)})?$".replace(".", "[.]"), re.IGNORECASE)
SET = re.compile("(?<=.)(sets?|splits?|data)$")  # of testset, traindata
DESCRIPTION = 1_000_000  # bytes: a file that describes others is small
# of LLaMA-Factory's dataset_info.json, of the files of `datasets`
OF_AN_ENTRY = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}
OF_DATASETS = ({"features"}, {"_data_files", "_fingerprint"}, {"splits"})


@dataclass
class Found:
    """files: by split, "all" for those whose name says none; unread: what else is in the folder."""

    files: dict[str, list[Path]] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)

    def add(self, split: str, files: Iterable[Path]) -> None:
        self.files.setdefault(split, []).extend(files)


def split_named(name: str) -> str:
    """The split that a name says: train, val or test, or "all" where it says none, or two.

    The words at its ends are asked first, human_eval_test is test; then those in the middle, my-test-set is test too.
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word != "of"]
    for asked in ((*words[:1], *words[-1:]), words):
        found = {split for word in asked for split, names in SPLITS.items() if SET.sub("", word) in names}
        if found:
            return found.pop() if len(found) == 1 else "all"
    return "all"


def find_files(path: Path) -> Found:
    """A file as it is; the data files of a folder, or of a zip of several. Raises DataError where there are none."""
    if os.path.isdir(path):
        found = _in_folder(path)
    elif is_zip(path) and len(names := names_in(path)) > 1:
        found = _by_name(path, [path / name for name in names if _is_data(name)])
        found.unread += [path / name for name in names if not _is_data(name)]
    else:
        return Found({"all": [path]})
    if not found.files:
        raise _nothing(path, found)
    if "train" in found.files:  # what stands beside it may be all rows, those of the test too
        found.unread += found.files.pop("all", [])
        found.files["all"] = found.files.pop("train")
    return found


def _nothing(path: Path, found: Found) -> DataError:
    known = f"{' '.join(SUFFIXES)}, or one of them with {' '.join(PACKED)}"
    inner = [folder.name for folder in found.unread if folder.is_dir() and not folder.name.startswith(".")]
    below = f"; it has the folders {', '.join(inner[:3])}" if inner else ""
    return DataError(f"{path}: no data files in this folder{below} ({known})")


def _is_data(name: str) -> bool:
    return suffix_of(name) in SUFFIXES


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _in_folder(folder: Path) -> Found:
    entries = _listing(folder)
    saved = _json(folder / "dataset_dict.json")
    if isinstance(saved, dict) and isinstance(saved.get("splits"), list):
        return _saved_splits(folder, list(map(str, saved["splits"])), entries)
    state = _json(folder / "state.json")
    if isinstance(state, dict) and isinstance(state.get("_data_files"), list):
        return _saved(folder, state, entries)
    files = [each for each in entries if not each.is_dir()]
    # a hidden one is no data: macOS leaves a ._rows.json beside each rows.json
    data = [file for file in files if _is_data(file.name) and not file.name.startswith(".") and not _describes(file)]
    data = [file for file in data if not _holds_no_rows(file)] or data
    inner = [each for each in entries if each.is_dir() and not each.name.startswith(".")]
    found = _by_name(folder, data)
    if data:
        data, inner, found = _unless_splits_below(folder, data, inner, found)
    else:
        found, inner = _in_folders(folder, inner)
    taken = {*data, *inner}
    found.unread += [each for each in entries if each not in taken]
    return found


def _in_folders(folder: Path, inner: Sequence[Path]) -> tuple[Found, list[Path]]:
    """What stands in the folders of a folder without data files of its own, and in which: those named after splits, or
    one that is named data, or else the only one."""
    found = Found()
    named = [each for each in inner if split_named(each.name) != "all"]
    for each in named:
        within = _in_folder(each)
        found.add(split_named(each.name), [file for files in within.files.values() for file in files])
        found.unread += within.unread
    if named:
        found.files = {split: files for split, files in found.files.items() if files}
        return found, named
    holders = {each: within for each in inner if (within := _in_folder(each)).files}
    if len(holders) > 1 and any(each.name == "data" for each in holders):
        holders = {each: within for each, within in holders.items() if each.name == "data"}
    if len(holders) > 1:
        names = ", ".join(each.name for each in list(holders)[:4])
        raise DataError(f"{folder}: {len(holders)} data sets in this folder: {names} (name one: {next(iter(holders))})")
    for each, within in holders.items():
        if each.name == "data" or set(within.files) != {"all"}:
            return within, [each]
    return found, []


def _unless_splits_below(
    folder: Path, data: list[Path], inner: Sequence[Path], found: Found
) -> tuple[list[Path], list[Path], Found]:
    """The data files that are read, the folders that are, and what is found. A folder's own files are its rows, unless
    their names say no split and rows to train on stand below them under that name: train/, or train.jsonl in data/."""
    below = [each for each in inner if each.name == "data" or split_named(each.name) != "all"]
    if found.files.keys() <= {"all"} and below:
        try:
            splits, taken = _in_folders(folder, below)
        except DataError:  # several data sets, one that is not whole
            return data, [], found
        if "train" in splits.files:
            return [], taken, splits
    return data, [], found


def _by_name(folder: Path, files: Sequence[Path]) -> Found:
    found = Found()
    for file in files:
        # in a zip, the folders above say it too
        parts = PurePosixPath(file.relative_to(folder)).parts
        stem = PACKED_DATA.sub("", parts[-1])
        splits = [split for part in (stem, *reversed(parts[:-1])) if (split := split_named(part)) != "all"]
        found.add(splits[0] if splits else "all", [file])
    return found


def _saved(folder: Path, state: dict[str, Any], entries: Sequence[Path]) -> Found:
    """The files of `datasets.save_to_disk`, in the order that it lists."""
    names = [str(each.get("filename")) for each in state["_data_files"] if isinstance(each, dict)]
    if any("/" in name or "\\" in name for name in names):
        raise DataError(f"{folder / 'state.json'}: names a file outside of its folder (save it again: save_to_disk)")
    files = [folder / name for name in names]
    known = {*files, folder / "state.json", folder / "dataset_info.json"}
    return Found({"all": files} if files else {}, [each for each in entries if each not in known])


def _saved_splits(folder: Path, splits: Sequence[str], entries: Sequence[Path]) -> Found:
    found = Found()
    for name in splits:
        inner = folder / name
        if "/" in name or "\\" in name or not inner.is_dir():
            raise DataError(
                f"{folder}: dataset_dict.json names the split {name[:40]!r}, which is not there (copy it whole)"
            )
        within = _in_folder(inner)
        for files in within.files.values():
            found.add(split_named(name), files)
        found.unread += within.unread
    known = {folder / "dataset_dict.json", *(folder / name for name in splits)}
    found.unread += [each for each in entries if each not in known]
    return found


def _describes(file: Path) -> bool:
    """Whether a JSON file holds no rows but says what other files hold."""
    value = _json(file) if file.suffix.lower() == ".json" else None
    if not isinstance(value, dict) or not value:
        return False
    if any(names <= value.keys() for names in OF_DATASETS):
        return True
    entries = list(value.values())
    return all(
        isinstance(entry, dict) and (OF_AN_ENTRY & entry.keys() or {"features"} <= entry.keys()) for entry in entries
    )


def _holds_no_rows(file: Path) -> bool:
    """Whether a JSON file is one object that reads like settings: neither a row nor rows, by any name of theirs."""
    value = _json(file) if file.suffix.lower() == ".json" else None
    try:
        return isinstance(value, dict) and rows_of(value) is None and ROW_NAMES.isdisjoint(map(str.lower, value))
    except Ambiguous:
        return False


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > DESCRIPTION:
            return None
        with file.open("rb") as opened:
            if not opened.read(64).lstrip().startswith(b"{"):
                return None
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
