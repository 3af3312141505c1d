"""Byte-level BPE: merges a reader can do by hand, GPT-2's own vocabulary, and text that comes back whole."""

from __future__ import annotations

import os

import pytest
import tiktoken

from ift.data.demo import demo_rows
from ift.text.bpe import GPT2_PATTERN, byte_to_unicode, merges, train_bpe


def new_tokens(texts: list[str], n: int) -> list[bytes]:
    return list(train_bpe(texts, size=256 + n))[256:]


def encoding(ranks: dict[bytes, int]) -> tiktoken.Encoding:
    return tiktoken.Encoding("test", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


def test_bytes_come_first_in_the_order_of_gpt2():
    ranks = train_bpe([], size=256)
    assert list(ranks.values()) == list(range(256))
    assert (ranks[b"!"], ranks[b"A"], ranks[b"\xff"], ranks[b"\x00"], ranks[b" "]) == (0, 32, 187, 188, 220)


def test_every_byte_has_a_character_of_its_own_that_can_be_seen():
    unicode = byte_to_unicode()
    assert (unicode[ord("A")], unicode[ord(" ")], unicode[ord("\n")]) == ("A", "Ġ", "Ċ")
    assert len(set(unicode.values())) == len(unicode) == 256
    assert all(character.isprintable() and not character.isspace() for character in unicode.values())


def test_the_most_frequent_pair_is_merged_first():
    # pairs: l-o 5 times, o-w 5, then in "lower" w-e, e-r 2 each; l-o sorts before o-w
    assert new_tokens(["low", "low", "low", "lower", "lower"], 4) == [b"lo", b"low", b"er", b"lower"]


def test_of_pairs_seen_equally_often_the_bytes_decide():
    assert new_tokens(["ba", "dc", "ab"], 3) == [b"ab", b"ba", b"dc"]
    assert new_tokens(["dc", "ab", "ba"], 3) == [b"ab", b"ba", b"dc"]


def test_a_run_is_merged_from_the_left():
    # a a a a a has a-a 4 times -> aa aa a: aa-a and aa-aa once each, and a sorts before aa
    assert new_tokens(["aaaaa"], 2) == [b"aa", b"aaa"]


def test_no_merge_crosses_a_word():
    assert new_tokens(["ab ab ab"], 99) == [b"ab", b" ab"]  # and then nothing is left to merge


def test_merges_are_the_pairs_in_order():
    assert merges(train_bpe(["low", "low", "low", "lower", "lower"], size=260)) == [
        (b"l", b"o"),
        (b"lo", b"w"),
        (b"e", b"r"),
        (b"low", b"er"),
    ]


def test_a_token_that_no_merge_gives_is_named():
    ranks = train_bpe([], size=256) | {b"abc": 256}
    with pytest.raises(ValueError, match="token 256 b'abc'"):
        merges(ranks)


@pytest.mark.skipif("TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR is unset: no GPT-2 vocabulary")
def test_merges_of_gpt2_give_its_ranks_and_its_bytes_are_ours():
    gpt2 = tiktoken.get_encoding("gpt2")
    pairs = merges(gpt2._mergeable_ranks)
    assert len(pairs) == 50_000
    assert pairs[:3] == [(b" ", b"t"), (b" ", b"a"), (b"h", b"e")]
    single = {bytes([byte]): rank for rank, byte in enumerate(byte_to_unicode())}
    joined = {left + right: rank for rank, (left, right) in enumerate(pairs, start=256)}
    assert single | joined == gpt2._mergeable_ranks
    assert gpt2._pat_str == GPT2_PATTERN


def test_demo_text_comes_back_whole_from_fewer_tokens():
    texts = [text for row in demo_rows(1_000) for text in (row["instruction"], row["input"], row["output"])]
    ranks = train_bpe(texts, size=1024)
    assert list(ranks.values()) == list(range(1024))
    assert len(merges(ranks)) == 768
    tokenizer = encoding(ranks)
    for text in [*texts, "Grüße, 世界 🙂\n\n\t  x  ", "<|endoftext|>", ""]:
        assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text
    tokens = sum(len(tokenizer.encode_ordinary(text)) for text in texts)
    assert tokens < 0.3 * sum(len(text.encode()) for text in texts)
