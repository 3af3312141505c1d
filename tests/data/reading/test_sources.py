import dataclasses
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ift.data.reading.sources import find_sources, load_hub
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
