"""When tiktoken is let in: a known cut, merges in the order of ids, and the same ids on all texts that are compared."""

import json

import pytest
import regex

from ift.text import fast_encoding, folder_tokenizer
from ift.text.bpe import GPT2_PATTERN
from ift.text.fast_encoding import DIGITS, HARD, cut_of, hard_texts, verdict_file
from ift.text.tokenizer_files import read_tokenizer
from tests.text.kinds import LLAMA3, folder_of

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2_LEVEL = {**LEVEL, "use_regex": True}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": [*parts]}


@pytest.mark.parametrize(
    ("cut", "pattern"),
    [
        (GPT2_LEVEL, GPT2_PATTERN),
        (sequence(GPT2_LEVEL), GPT2_PATTERN),
        (sequence({"type": "Digits", "individual_digits": True}, GPT2_LEVEL), DIGITS[True]),
        (sequence({"type": "Digits", "individual_digits": False}, GPT2_LEVEL), DIGITS[False]),
        (sequence(split({"Regex": LLAMA3}), LEVEL), LLAMA3),
        (sequence(split({"Regex": LLAMA3}, "Removed", True), LEVEL), LLAMA3),
        (sequence(split({"Regex": LLAMA3}, "Removed"), LEVEL), None),
        (sequence(split({"Regex": r"\w+|\W"}), LEVEL), None),  # not the same in both libraries
        (sequence(split({"Regex": "^a|$"}), LEVEL), None),
        (sequence(split({"String": " "}), LEVEL), None),
        (sequence(split({"Regex": r"\p{N}{1,3}"}), split({"Regex": LLAMA3}), LEVEL), None),
        (sequence({"type": "Whitespace"}, GPT2_LEVEL), None),
        ({**GPT2_LEVEL, "add_prefix_space": True}, None),
        ({"type": "Metaspace"}, None),
        (None, None),
    ],
)
def test_a_cut_that_both_libraries_know_is_one_regular_expression(cut, pattern):
    assert cut_of(cut) == pattern


def test_white_space_before_a_digit_ends_a_part():
    assert regex.findall(DIGITS[True], "a  12 b") == ["a", "  ", "1", "2", " b"]
    assert regex.findall(DIGITS[False], "a  12 b") == ["a", "  ", "12", " b"]


def swapped(model):
    first, second, *rest = model["merges"]
    return {**model, "merges": [second, first, *rest]}


def flagged(entries):
    return [{**entry, "single_word": not entry["special"]} for entry in entries]


@pytest.mark.parametrize(
    ("name", "part", "changed"),
    [
        ("gpt2", "model", swapped),  # merges in another order than ids
        ("neox", "added_tokens", flagged),
        ("qwen", "normalizer", lambda _: {"type": "NFD"}),
    ],
)
def test_what_looks_different_is_the_librarys(tmp_path, name, part, changed):
    def change(value):
        value[part] = changed(value[part])

    assert read_tokenizer(folder_of(tmp_path, name, change)).encoder == "tokenizers"


def test_a_difference_in_the_proof_is_kept_and_the_ids_stay_right(tmp_path, monkeypatch):
    monkeypatch.setenv("IFT_CACHE_DIR", str(tmp_path / "before"))
    folder = folder_of(tmp_path, "smollm2")
    right = read_tokenizer(folder)
    monkeypatch.setitem(DIGITS, True, DIGITS[True].replace(r"|\s+(?=\p{N})", ""))
    monkeypatch.setenv("IFT_CACHE_DIR", str(tmp_path / "cache"))
    wrong = read_tokenizer(folder)
    assert (right.encoder, wrong.encoder) == ("tiktoken", "tokenizers")
    assert wrong.encode("a  12") == right.encode("a  12")
    verdict = json.loads(verdict_file(wrong.published).read_text(encoding="utf-8"))
    assert verdict["exact"] is False
    assert regex.search(r"\s\s\d", verdict["differs"])


def test_a_vocabulary_is_compared_once(tmp_path, monkeypatch):
    monkeypatch.setenv("IFT_CACHE_DIR", str(tmp_path / "cache"))
    folder = folder_of(tmp_path, "qwen")
    compared = []
    monkeypatch.setattr(folder_tokenizer, "difference", lambda *_: compared.append(1) or "")
    assert [read_tokenizer(folder).encoder for _ in range(3)] == ["tiktoken"] * 3
    assert compared == [1]


def test_the_hard_texts_hold_what_is_hard(tmp_path):
    known = read_tokenizer(folder_of(tmp_path, "neox")).published
    texts = hard_texts(known)
    assert texts == hard_texts(known)  # always the same
    assert len(texts) > 2000
    joined = "".join(texts)
    assert all(mark["content"] in joined for mark in known.added.values())
    assert all(part in joined for part in (" " * 7, "e\u0301", "\U000105d2", "\x00", "'ſ"))
    assert len(HARD) == len(set(HARD))
    assert fast_encoding.difference(len, len, texts) == ""
