"""Every kind of tokenizer gives the ids of the library, wherever a text stands, and gives the text back."""

import json
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer

from ift.run import read_json
from ift.text.tokenizer_files import read_tokenizer
from tests.text.kinds import FAST, KINDS, folder_of

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PARTS = [
    *("die", " Rede", "'s", "12", "3", ".", " ", "  ", "       ", "\n", "\n\n", "\t", "\u2003", "\xa0", "\x07", "▁"),
    *("ä", "a\u0308", "日", "😀", "<s>", "</s>", "<unk>", "<0x0A>", "<h1>", "<think>", "<|im_end|>", "<|endoftext|>"),
]
texts = st.text(max_size=60) | st.lists(st.sampled_from(PARTS), max_size=20).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """(name, folder, ours, the library's without marks)"""
    folder = folder_of(tmp_path_factory.mktemp("kind"), request.param)
    return request.param, folder, read_tokenizer(folder)


def known_letters(text) -> str:
    """Of the small unigram model, which has no token for a byte; the library makes control of what spells it there."""
    return "".join(c for c in text if " " < c <= ";")


def library(ours, folder) -> Library:
    """The published tokenizer without special tokens and marks, which no text may become."""
    value = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = [entry for entry in value["added_tokens"] if entry["id"] not in ours.special]
    if isinstance(value["model"]["vocab"], dict):
        value["model"]["vocab"] |= {entry["content"]: entry["id"] for entry in words}
        merges = (pair if isinstance(pair, list) else pair.split(" ") for pair in value["model"]["merges"])
        value["model"]["merges"] = [pair for pair in merges if "".join(pair) not in ours.special_ids]
    return Library.from_str(json.dumps({**value, "added_tokens": words}))


@few
@given(text=texts)
def test_the_ids_are_those_of_the_library_and_no_mark_is_among_them(kind, text):
    name, folder, ours = kind
    if name == "unigram":
        text = known_letters(text)
    ids = ours.encode(text, "start")
    assert ids == library(ours, folder).encode(text, add_special_tokens=False).ids
    assert not ours.special & set(ids)


@few
@given(text=texts)
def test_the_tokens_decode_to_what_the_tokenizer_writes(kind, text):
    name, _, ours = kind
    if name == "unigram":
        text = known_letters(text)
    for place in ("start", "after_special", "inside"):
        ids = ours.encode(text, place)
        assert not ours.special & set(ids)
        assert ours.decode_bytes(ids) == ours.written(text, place)


def test_tiktoken_encodes_where_it_is_exact(kind):
    name, _, ours = kind
    assert ours.encoder == ("tiktoken" if name in FAST else "tokenizers")


@pytest.mark.parametrize(
    ("name", "start", "after_special", "inside"),
    [
        ("gpt2", b"die", b"die", b"die"),
        ("llama2", b" die", b" die", b"die"),  # the library's normalizer puts it before each part
        ("mistral", b" die", b"die", b"die"),
        ("gemma", b"die", b"die", b"die"),
    ],
)
def test_a_space_is_put_where_the_published_tokenizer_puts_one(tmp_path, name, start, after_special, inside):
    folder = folder_of(tmp_path, name)
    ours, theirs = read_tokenizer(folder), Library.from_file(str(folder / "tokenizer.json"))
    assert [ours.decode_bytes(ours.encode("die", p)) for p in ("start", "after_special", "inside")] == [
        start, after_special, inside,
    ]  # fmt: skip
    end = ours.end_text
    whole = theirs.encode(f"die Rede{end}die Tür{end}", add_special_tokens=False).ids
    own = [*ours.encode("die Rede", "start"), ours.end_of_text, *ours.encode("die Tür", "after_special")]
    assert [*own, ours.end_of_text] == whole


def test_text_is_written_as_the_tokenizer_normalises_it(tmp_path):
    nfc = read_tokenizer(folder_of(tmp_path, "qwen"))
    assert nfc.encode("a\u0308") == nfc.encode("ä")
    assert (nfc.written("a\u0308"), nfc.written("ä b")) == ("ä".encode(), "ä b".encode())
    spaces = read_tokenizer(folder_of(tmp_path, "mistral"))
    assert (spaces.written("a▁b", "start"), spaces.written(" a", "start")) == (b" a b", b" a")


def test_a_byte_that_is_no_token_is_left_out_as_the_library_does(tmp_path):
    def drop(value):
        for token in ("Ĉ", "ñ"):  # of the bytes 8 and 241
            del value["model"]["vocab"][token]

    folder = folder_of(tmp_path, "smollm2", drop)
    ours, theirs = read_tokenizer(folder), Library.from_file(str(folder / "tokenizer.json"))
    assert ours.encoder == "tiktoken"
    text = "die\x08 Rede \U00050000."
    assert ours.encode(text) == theirs.encode(text).ids
    assert ours.decode_bytes(ours.encode(text)) == ours.written(text) == b"die Rede \x90\x80\x80."


def test_rows_that_differ_end_the_use_of_tiktoken_for_good(tmp_path, monkeypatch):
    monkeypatch.setenv("IFT_CACHE_DIR", str(tmp_path / "cache"))  # where the verdict stays
    folder = folder_of(tmp_path, "smollm2")
    ours = read_tokenizer(folder)
    assert ours.differs(["die Rede 12", "\n 3"]) == ""
    exact = ours._fast
    ours._fast = type(exact)(exact.encoding, normalise=str.lower, words={}, raw=False, lacks=None)
    assert ours.differs(["die", "Die Tür"]) == "Die Tür"
    ours.distrust("Die Tür")
    assert (ours.encoder, read_tokenizer(folder).encoder) == ("tokenizers", "tokenizers")
    assert ours.encode("Die Tür") == Library.from_file(str(folder / "tokenizer.json")).encode("Die Tür").ids


def test_another_process_gets_the_same(kind):
    _, _, ours = kind
    again = pickle.loads(pickle.dumps(ours))
    text = "die Räder a\u0308  12\n\n\n"
    assert (again.encode(text, "start"), again.encoder) == (ours.encode(text, "start"), ours.encoder)


def test_the_file_goes_along_as_it_is_and_transformers_gives_equal_ids_with_the_beginning(kind, tmp_path):
    _, folder, ours = kind
    ours.save(tmp_path, context_length=64, chat_template="{{ messages }}")
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    theirs, again = AutoTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    text = "die Räder  der 12\n\n  Tür"
    begin = [] if ours.beginning is None else [ours.beginning]
    assert theirs(text).input_ids == [*begin, *ours.encode(text, "start")]
    assert (again.hash, again.beginning, again.encode(text)) == (ours.hash, ours.beginning, ours.encode(text))
    assert (theirs.eos_token_id, theirs.chat_template, theirs.model_max_length) == (
        ours.end_of_text,
        "{{ messages }}",
        64,
    )
    assert "auto_map" not in read_json(tmp_path / "tokenizer_config.json")  # code of others


def test_runs_of_spaces_are_words_and_the_longest_is_taken(tmp_path):
    ours = read_tokenizer(folder_of(tmp_path, "neox"))
    seven = next(id for id, entry in ours.published.words.items() if entry["content"] == " " * 7)
    assert ours.encode("a" + " " * 7 + "b")[1] == seven
    assert seven not in ours.special
