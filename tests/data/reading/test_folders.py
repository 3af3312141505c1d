"""Which files of a folder are which split, and that the rest of it is named."""

import io
import json
import zipfile

import pyarrow as pa
import pytest

from ift.data.reading.folders import find_files, split_named
from ift.errors import DataError

ROW = '{"instruction": "Add.", "output": "3"}\n'


@pytest.fixture
def look(tmp_path, write):
    """look(*names): files by split and what is unread in a folder of these files, as names in it."""

    def look(*names, **contents):
        for name in names:
            write(f"data/{name}", ROW)
        for name, content in contents.items():
            write(f"data/{name}", content)
        found = find_files(tmp_path / "data")

        def short(files):
            return [str(file.relative_to(tmp_path / "data")) for file in files]

        return {split: short(files) for split, files in found.files.items()}, short(found.unread)

    return look


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train-00000-of-00002", "train"),
        ("xyz_train", "train"),
        ("test_sft", "test"),
        ("alpaca-Validation", "val"),
        ("valid", "val"),
        ("dev", "val"),
        ("my-test-set", "test"),
        ("my_eval_rows", "val"),
        ("a.train", "train"),
        ("trainset", "train"),
        ("my_testset_2", "test"),
        ("human_eval_test", "test"),  # the ends come first
        ("my_train_test_split", "all"),
        ("contest", "all"),
        ("latest", "all"),
        ("train_test", "all"),  # both
        ("rows", "all"),
        ("0000", "all"),
    ],
)
def test_a_split_is_a_word_of_a_name(name, split):
    assert split_named(name) == split


def test_data_files_stand_for_a_folder_by_name(look):
    names = ["b.jsonl", "a.JSON", "c.csv.gz", "d.parquet", "e.tsv.xz", "f.ndjson", "g.arrow"]
    files, unread = look(*names, "README.md", "._b.jsonl", "inner/g.json", "h.tar.gz", "folder.json/x")
    assert files == {"all": sorted(names)}
    assert unread == ["._b.jsonl", "README.md", "folder.json", "h.tar.gz", "inner"]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["train.jsonl", "test.jsonl"], {"all": ["train.jsonl"], "test": ["test.jsonl"]}),
        (["a_train.json", "a_dev.json"], {"all": ["a_train.json"], "val": ["a_dev.json"]}),
        (
            ["a.train.jsonl", "a.dev.jsonl.gz", "a.test.jsonl"],
            {"all": ["a.train.jsonl"], "val": ["a.dev.jsonl.gz"], "test": ["a.test.jsonl"]},
        ),
        (["my-train-set.jsonl", "my-test-set.jsonl"], {"all": ["my-train-set.jsonl"], "test": ["my-test-set.jsonl"]}),
        (["rows.json", "test.json"], {"all": ["rows.json"], "test": ["test.json"]}),
        (
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            {
                "all": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
                "test": ["data/test-00000-of-00001.parquet"],
            },
        ),
        (
            ["default/train/0000.parquet", "default/validation/0000.parquet"],
            {"all": ["default/train/0000.parquet"], "val": ["default/validation/0000.parquet"]},
        ),
        (
            ["train/a.json", "train/b.json", "test/a.json"],
            {"all": ["train/a.json", "train/b.json"], "test": ["test/a.json"]},
        ),
        (["data/a.json", "data/b.json"], {"all": ["data/a.json", "data/b.json"]}),
    ],
)
def test_files_and_folders_named_after_splits_are_these_splits(look, names, files):
    assert look(*names) == (files, [])


def test_beside_a_file_to_train_on_one_without_a_split_may_hold_all_rows_and_is_not_read(look):
    assert look("train.json", "test.json", "everything.json") == (
        {"all": ["train.json"], "test": ["test.json"]},
        ["everything.json"],
    )


def test_splits_below_win_over_a_file_whose_name_says_none(look):
    files, unread = look("extra.jsonl", "data/train.jsonl", "data/test.jsonl", **{"config.json": '{"size": 3}'})
    assert files == {"all": ["data/train.jsonl"], "test": ["data/test.jsonl"]}
    assert unread == ["config.json", "extra.jsonl"]


def test_rows_of_the_folder_itself_are_read_where_none_below_are_named_train(look):
    assert look("rows.jsonl", "data/more.jsonl", "test/a.jsonl") == ({"all": ["rows.jsonl"]}, ["data", "test"])


def test_settings_are_no_data_beside_data(look):
    files, unread = look("a.jsonl", **{"config.json": '{"size": 3, "kinds": ["x"]}', "b.json": '{"prompt": "a"}'})
    assert files == {"all": ["a.jsonl", "b.json"]}
    assert unread == ["config.json"]


def test_what_hf_download_leaves_besides_is_named(look):
    files, unread = look(".gitattributes", ".cache/x", "README.md", "data/train-00000-of-00001.parquet", "images/a.png")
    assert files == {"all": ["data/train-00000-of-00001.parquet"]}
    assert unread == [".cache", ".gitattributes", "README.md", "images"]


def test_several_data_sets_in_a_folder_are_an_error_that_names_them(look):
    with pytest.raises(DataError, match=r"2 data sets in this folder: main, socratic \(name one: .*/main\)"):
        look("main/train-0.parquet", "main/test-0.parquet", "socratic/train-0.parquet", "socratic/test-0.parquet")


def test_a_file_that_describes_others_holds_no_rows(look):
    registry = json.dumps(
        {"mine": {"file_name": "mine.json", "columns": {"prompt": "q"}}, "hub": {"hf_hub_url": "a/b"}}
    )
    old = json.dumps({"default": {"features": {}, "splits": {}}})
    files, unread = look("mine.json", **{"dataset_info.json": registry, "dataset_infos.json": old})
    assert files == {"all": ["mine.json"]}
    assert unread == ["dataset_info.json", "dataset_infos.json"]


def test_a_folder_without_data_says_what_it_looked_for(tmp_path, look):
    with pytest.raises(DataError) as caught:
        look("inner/a.json", "README.md")
    assert str(caught.value) == (
        f"{tmp_path}/data: no data files in this folder; it has the folders inner "
        "(.json .jsonl .ndjson .csv .tsv .parquet .arrow, or one of them with .gz .bz2 .xz .lzma)"
    )


def saved(write, folder, rows):
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    write(f"{folder}/data-00000-of-00001.arrow", sink.getvalue())
    write(f"{folder}/state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0"})
    write(f"{folder}/dataset_info.json", {"features": {"a": {"dtype": "string", "_type": "Value"}}})


def test_what_save_to_disk_wrote_is_its_arrow_files_and_splits(tmp_path, write):
    saved(write, "one", [{"a": "b"}])
    assert find_files(tmp_path / "one").files == {"all": [tmp_path / "one/data-00000-of-00001.arrow"]}
    for split in ("train", "validation", "test"):
        saved(write, f"two/{split}", [{"a": split}])
    write("two/dataset_dict.json", {"splits": ["train", "validation", "test"]})
    found = find_files(tmp_path / "two")
    assert {split: [file.parent.name for file in files] for split, files in found.files.items()} == {
        "all": ["train"],
        "val": ["validation"],
        "test": ["test"],
    }
    assert found.unread == []
    write("two/dataset_dict.json", {"splits": ["train", "gone"]})
    with pytest.raises(DataError, match=r"names the split 'gone', which is not there \(copy it whole\)"):
        find_files(tmp_path / "two")


def test_a_state_that_names_a_file_elsewhere_is_refused(tmp_path, write):
    write("one/state.json", {"_data_files": [{"filename": "../secret.arrow"}]})
    with pytest.raises(DataError, match="names a file outside of its folder"):
        find_files(tmp_path / "one")


def test_files_in_a_zip_are_as_files_in_a_folder(tmp_path, write):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("rows/train.jsonl", "rows/test.jsonl", "rows/LICENSE", "__MACOSX/rows/._train.jsonl"):
            file.writestr(name, ROW)
    path = write("a.zip", buffer.getvalue())
    found = find_files(path)
    assert found.files == {"test": [path / "rows/test.jsonl"], "all": [path / "rows/train.jsonl"]}
    assert found.unread == [path / "rows/LICENSE"]
