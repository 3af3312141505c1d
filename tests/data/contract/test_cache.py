import dataclasses
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ift.data.contract import cache
from ift.data.contract.cache import Store, StoredExamples, StoredRows, lengths, open_store
from ift.data.contract.check import Checker
from ift.data.contract.examples import make_example
from ift.data.reading.rows import Row
from ift.data.reading.sources import Source
from ift.errors import DataError, MachineError
from ift.text.templates import Segment, Template

TEMPLATE = Template("small", (Segment("Q:{instruction}{input}\nA:"), Segment("{output}", supervised=True)))
FIELDS = dict.fromkeys(("instruction", "input", "output", "system", "category", "messages", "conversations"))
RECORDS = [{"instruction": f"Say {i}.", "input": i % 3 * "x", "output": f"é{i}" * (1 + i % 5)} for i in range(60)]


@pytest.fixture
def opened(write, byte_tokenizer, tmp_path):
    """opened(records, **changes to the checker): the entry for a file of them, in a cache of this test's own."""

    def opened(records=RECORDS, *, name="rows.json", merge=True, twins=0.9, **changes):
        source = Source("rows", "all", path=write(name, records)) if records is not None else None
        sources = [source or Source("rows", "all", path=tmp_path / name)]
        checker = dataclasses.replace(Checker(TEMPLATE, byte_tokenizer, FIELDS, 64, "drop"), **changes)
        return open_store(sources, checker, merge=merge, twins=twins, cache_dir=str(tmp_path / "cache"))

    return opened


def test_a_stored_example_is_the_one_that_was_made(opened, byte_tokenizer):
    store = opened()
    assert len(store) == 60
    for i, record in enumerate(RECORDS):
        row = Row(**record, file="rows", number=i + 1)
        example, made = (
            store.example(i),
            make_example(row, TEMPLATE, byte_tokenizer, max_length=64, too_long="drop"),
        )
        assert store.row(i) == row
        assert (example.ids == made.ids).all()
        assert (example.supervised == made.supervised).all()
        assert example.ids.flags.writeable  # torch warns of any other
        assert example.supervised.flags.writeable
        assert (example.row, example.ends, example.targets) == (i + 1, True, made.targets)


def test_a_split_is_read_where_it_is_asked_and_knows_its_lengths(opened):
    store, order = opened(), np.array([5, 3, 40])
    rows, examples = StoredRows(store, order), StoredExamples(store, order)
    assert [row.number for row in rows] == [example.row for example in examples] == [6, 4, 41]
    assert [row.number for row in rows[1:]] == [example.row for example in examples[1:]] == [4, 41]
    assert lengths(examples).tolist() == lengths(list(examples)).tolist()


def test_what_was_made_once_is_read_the_second_time(opened):
    first, second = opened(), opened(records=None)
    assert (first.meta["from_cache"], second.meta["from_cache"]) == (False, True)
    assert first.folder == second.folder


@pytest.mark.parametrize(
    "change",
    [
        {"template": Template("small", (Segment("q:{instruction}{input}\nA:"), TEMPLATE.segments[1]))},
        {"template": dataclasses.replace(TEMPLATE, mask=False)},
        {"template": dataclasses.replace(TEMPLATE, turns="last")},
        {"max_length": 63},
        {"too_long": "truncate_prompt"},
        {"fields": {**FIELDS, "category": "kind"}},
        {"ignore": ("kind",)},
        {"turns": "merge"},
        {"merge": False},
        {"twins": 0.8},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_anything_that_decides_the_tokens_makes_another_entry(opened, change):
    first = opened()
    assert opened(records=None, **change).folder != first.folder
    assert opened(records=None).meta["from_cache"]


def test_another_vocabulary_makes_another_entry(opened, byte_tokenizer):
    tokenizer = type(byte_tokenizer).train(["Say é"], size=300, name="bytes")
    assert opened().folder != opened(records=None, tokenizer=tokenizer).folder


def test_changed_rows_make_another_entry_though_the_file_is_as_long(opened):
    first = opened()
    changed = [{**RECORDS[0], "instruction": "Say 9."}, *RECORDS[1:]]
    assert opened(changed).folder != first.folder
    assert opened(records=None).row(0).instruction == "Say 9."


@pytest.mark.parametrize("name", ["text/chat_template.jinja.j2", "text/bpe.py", "data/reading/window.py"])
def test_a_changed_byte_of_the_code_or_of_a_template_changes_its_hash(name, tmp_path):
    for folder in ("text", "data"):
        shutil.copytree(cache.PACKAGE / folder, tmp_path / folder)
    assert cache.code_hash(tmp_path) == cache.code_hash()
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert cache.code_hash(tmp_path) != cache.code_hash()


def test_files_that_python_leaves_change_no_hash(tmp_path):
    (tmp_path / "data" / "reading" / "__pycache__").mkdir(parents=True)
    (tmp_path / "data" / "reading" / "rows.py").write_text("ROWS = 1\n")
    before = cache.code_hash(tmp_path)
    (tmp_path / "data" / "reading" / "__pycache__" / "rows.cpython-311.pyc").write_bytes(b"x")
    assert cache.code_hash(tmp_path) == before
    (tmp_path / "data" / "reading" / "more.py").write_text("")
    assert cache.code_hash(tmp_path) != before


def test_other_code_makes_another_entry(opened, monkeypatch):
    first = opened()
    monkeypatch.setattr(cache, "code_hash", lambda: "other")
    assert opened(records=None).folder != first.folder


@pytest.mark.parametrize("damage", ["meta.json", "ids.bin", "rows.jsonl"])
def test_a_damaged_entry_is_made_again(opened, damage):
    first = opened()
    path = first.folder / damage
    os.truncate(path, path.stat().st_size // 2)
    again = opened(records=None)
    assert not again.meta["from_cache"]
    assert again.row(59) == Row(**RECORDS[59], file="rows", number=60)
    path.unlink()
    assert not opened(records=None).meta["from_cache"]


def test_what_a_killed_process_left_half_made_is_cleared_away(opened, tmp_path):
    folder = opened().folder
    half = folder.rename(folder.with_name(f"{folder.name}.123456.part"))
    assert not opened(records=None).meta["from_cache"]
    assert not half.exists()


def test_two_that_want_the_same_entry_make_it_once(opened):
    opened(name="other.json")
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: opened(records=None, name="other.json", max_length=60), range(4)))
    assert sorted(store.meta["from_cache"] for store in stores) == [False, True, True, True]


def test_worker_processes_give_what_one_process_gives(opened, monkeypatch):
    records = [{**record, "category": f"c{i % 7}"} for i, record in enumerate(RECORDS * 40)] + [None, {"a": 1}]
    alone = opened(records, merge=False)
    monkeypatch.setattr(cache, "PARALLEL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    together = opened(records, merge=False, name="again.json")
    for name in ("ids.bin", "supervised.bin", "index.bin", "rows.jsonl", "rejected.jsonl", "clusters.bin"):
        assert (alone.folder / name).read_bytes() == (together.folder / name).read_bytes(), name
    drop = ("seconds", "from_cache", "sizes")
    assert {k: v for k, v in alone.meta.items() if k not in drop} == {
        k: v for k, v in together.meta.items() if k not in drop
    }


def test_an_error_in_a_worker_is_the_error_of_the_whole_and_nothing_is_left_behind(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "PARALLEL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    with pytest.raises(DataError, match=r"rows:61: \d+ tokens, more than 64"):
        opened([*RECORDS, {"instruction": 99 * "x", "output": "y"}], too_long="error")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


class Lossy:
    """A tokenizer that does not give back what it was given, as one that lower-cases would."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode(self, text, place="inside"):
        return self.tokenizer.encode(text.lower())


class Spells(Lossy):
    """A tokenizer that takes the spelling of its special token for the token, as transformers' do."""

    def encode(self, text, place="inside"):
        before, found, after = text.partition("<|endoftext|>")
        ids = self.tokenizer.encode(before)
        return [*ids, self.tokenizer.end_of_text, *self.encode(after)] if found else ids


@pytest.mark.parametrize(
    ("tokenizer", "output", "law"),
    [
        (Lossy, "Yes", "supervised tokens do not decode to the response"),
        (Lossy, "yes", "unsupervised tokens do not decode to the prompt"),  # the Q of the template
        (Spells, "a<|endoftext|>b", "an end-of-text stands where no turn ends"),
    ],
)
def test_a_row_whose_tokens_do_not_say_what_it_says_stops_everything(opened, byte_tokenizer, tokenizer, output, law):
    with pytest.raises(DataError, match=f"^rows:1: {law}.*tokenizer bytes"):
        opened([{"instruction": "a", "output": output}], tokenizer=tokenizer(byte_tokenizer))


def test_a_store_is_opened_again_in_another_process_and_not_copied(opened):
    import pickle

    store = opened()
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert pickle.loads(sent).row(7) == store.row(7)


def test_a_full_or_forbidden_cache_is_an_error_of_the_machine_that_names_the_way_out(opened, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_encode", full)
    with pytest.raises(MachineError, match=r"cannot be written: No space left .*data.cache_dir=FOLDER"):
        opened()


def test_memory_stays_small_and_a_second_start_reads_no_row(tmp_path, byte_tokenizer):
    """40 MB of rows in a process of its own: the peak is far below what the rows alone would take."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(20_000):
            file.write(json.dumps({"instruction": f"{i} " + "ab cd " * 100, "output": f"{i} ef" * 200}) + "\n")
    (tmp_path / "bytes").mkdir()
    byte_tokenizer.save(tmp_path / "bytes", context_length=64)
    code = """
import resource, sys, time
from ift.cli import check_settings
from ift.data.contract.prepare import prepare
from ift.text.chat_templates import template_from
from ift.data.vocabulary import load_tokenizer
from ift.text.tokenizers import Tokenizer
words = ["model.tokenizer=" + sys.argv[2], "data.cache_dir=" + sys.argv[3], *sys.argv[4:]]
settings = check_settings([sys.argv[1]], words)
template = template_from(settings.prompt)
tokenizer = load_tokenizer(settings.model.tokenizer, template)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = prepare(settings.data, template, tokenizer, context_length=10_000)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(data.store.meta["from_cache"], len(data.rows["train"]), (after - before) // 1024)
"""
    words = [str(path), str(tmp_path / "bytes"), str(tmp_path / "cache"), "data.twins=null", "data.split=random"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[3])}
    found = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split()[-3:])
    assert [values[:2] for values in found] == [["False", "17000"], ["True", "17000"]]
    assert all(int(megabytes) < 150 for _, _, megabytes in found), found


def test_an_entry_is_a_folder_of_plain_files_without_pickle(opened):
    store = opened()
    assert {path.suffix for path in store.folder.iterdir()} == {".bin", ".json", ".jsonl"}
    assert Store(store.folder).meta["rows"] == 60
