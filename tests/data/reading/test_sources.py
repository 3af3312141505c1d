import dataclasses
import io
import json
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ift.data.reading.sources import evaluation_sources, find_sources, load_hub, unread_files
from ift.errors import ConfigError, DataError, MachineError

RECORDS = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}, {"instruction": "é", "input": "", "output": "b"}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


@pytest.fixture
def sources(settings_of):
    """sources(**changes): what these data settings stand for."""
    settings = settings_of("data=json", "data.path=set.below").data
    return lambda **changes: find_sources(dataclasses.replace(settings, **changes))


def test_a_file_a_folder_and_a_list_of_both_are_their_files_in_order(sources, write):
    one, two, three = write("a/2.jsonl", LINES), write("a/1.csv", "instruction,output\nb,c\n"), write("b.json", LINES)
    write("a/readme.md", "not data")
    assert [source.path for source in sources(path=str(three))] == [three]
    assert [source.path for source in sources(path=[str(three), str(one.parent)])] == [three, two, one]
    assert [(s.role, s.path) for s in sources(path=str(one), test_path=str(two), val_path=[str(three)])] == [
        ("all", one),
        ("test", two),
        ("val", three),
    ]


def test_a_weight_belongs_to_a_path_and_to_each_file_of_a_folder(sources, write):
    write("a/1.json", LINES), write("a/2.json", LINES)
    folder, file = str(write("a/3.json", LINES).parent), str(write("b.json", LINES))
    assert [source.weight for source in sources(path=[folder, file], weights=[0.5, 2.0])] == [0.5, 0.5, 0.5, 2.0]
    with pytest.raises(ConfigError, match=r"data.weights: 1 for 2 in data.path \(give one for each\)"):
        sources(path=[folder, file], weights=[1.0])
    with pytest.raises(ConfigError, match=r"data.weights: only files have weights"):
        sources(path=None, demo_rows=60, weights=[1.0])


def roles(found):
    return [(source.role, source.path.name) for source in found]


def test_the_test_and_validation_files_of_a_folder_are_these_splits(sources, write, settings_of, tmp_path):
    for name in ("train.jsonl", "test.jsonl", "dev.jsonl", "README.md"):
        write(f"a/{name}", LINES)
    other, folder = write("b.jsonl", LINES), str(tmp_path / "a")
    assert roles(sources(path=folder)) == [("all", "train.jsonl"), ("test", "test.jsonl"), ("val", "dev.jsonl")]
    # a key says more than a name: what it stands for is not read
    given = {"path": folder, "test_path": str(other)}
    assert roles(sources(**given)) == [("all", "train.jsonl"), ("test", "b.jsonl"), ("val", "dev.jsonl")]
    settings = dataclasses.replace(settings_of("data=json", "data.path=set.below").data, **given)
    assert unread_files(settings) == [f"{folder}/README.md", f"{folder}/test.jsonl"]
    # of a folder given for a split, the files of that split; a file is what it is given for
    assert roles(sources(path=str(other), test_path=folder)) == [("all", "b.jsonl"), ("test", "test.jsonl")]
    assert roles(sources(path=f"{folder}/test.jsonl")) == [("all", "test.jsonl")]
    against = dataclasses.replace(settings, against=[folder])
    assert sorted(roles(evaluation_sources(against))) == [
        ("against", name) for name in ("dev.jsonl", "test.jsonl", "train.jsonl")
    ]


def test_a_folder_without_rows_to_train_on_or_for_a_split_says_so(sources, write):
    only, other = write("a/test.jsonl", LINES), write("b.jsonl", LINES)
    with pytest.raises(DataError, match=r"a: only rows to test on, none to train on: test.jsonl \(name the file"):
        sources(path=str(only.parent))
    with pytest.raises(DataError, match=r"a: splits, and none for data.val_path: test.jsonl \(give the file: data.val"):
        sources(path=str(other), val_path=str(only.parent))


def test_a_home_folder_is_one(sources, write, monkeypatch, tmp_path):
    path = write("home/rows.jsonl", LINES)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = sources(path="~/rows.jsonl", test_path="~/rows.jsonl", val_path=["~/rows.jsonl"])
    assert [source.path for source in found] == [path] * 3
    assert sources(path="~nobody-of-that-name/x")[0].path.name == "x"


def test_the_files_of_a_zip_are_sources_and_change_with_it(sources, write):
    def packed(text):
        with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
            file.writestr("train.jsonl", text), file.writestr("test.jsonl", LINES)
        return write("a.zip", buffer.getvalue())

    train, test = sources(path=str(packed(LINES)))
    assert [(source.role, Path(source.name).name) for source in (train, test)] == [
        ("all", "train.jsonl"),
        ("test", "test.jsonl"),
    ]
    assert [row for _, row in train.records()] == RECORDS
    assert train.size == len(LINES.encode())
    before = train.stamp
    packed(LINES * 2)
    assert train.stamp != before


@pytest.mark.parametrize("path", [3, [3], [""], {"a": 1}])
def test_what_is_no_path_is_an_error_of_the_settings(sources, path):
    with pytest.raises(ConfigError, match=r"data.path=.*: must be a path, or a list of paths"):
        sources(path=path)


def test_the_stamp_changes_with_the_content_though_size_and_time_do_not(sources, write):
    path = write("a.jsonl", LINES)
    (source,) = sources(path=str(path))
    before, stat = source.stamp, path.stat()
    assert source.stamp == before
    path.write_text(LINES.replace("Add", "add"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert source.stamp != before
    with pytest.raises(DataError, match=r"a.jsonl: changed while it was read \(start again when it is whole\)"):
        source.refuse_if_changed(before)


def test_the_demo_is_a_source_of_as_many_rows(sources):
    (source,) = sources(path=None, demo_rows=60)
    assert [number for number, _ in source.records()] == list(range(1, 61))


# ----------------------------------------------------------------------------------------------------------------------
# the Hub, through the real library and without a network


def parquet(records):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), buffer)
    return buffer.getvalue()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason='needs pip install "ift[hub]"')
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return datasets


@pytest.mark.parametrize(("name", "content"), [("train.parquet", parquet(RECORDS)), ("train.jsonl", LINES)])
def test_the_train_split_of_a_dataset_is_read_as_a_file_is(offline, sources, write, name, content):
    folder = str(write(f"dataset/{name}", content).parent)
    (source,) = sources(path=None, hub=folder)
    assert list(source.records()) == [(1, RECORDS[0]), (2, RECORDS[1])]
    assert source.stamp == sources(path=None, hub=folder)[0].stamp


@pytest.mark.parametrize("name", ["nobody/nothing", "./nothing"])
def test_a_dataset_that_cannot_be_loaded_is_an_error_with_the_way_around_it(offline, name):
    with pytest.raises(MachineError, match=rf"^{name}: not loaded from the Hub .* data.path=FILE$"):
        load_hub(name)
