"""BLEU and chrF are sacrebleu's, and what one counts by hand."""

import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from ift.evaluation.ngrams import bleu, bleu_words, chrf, counted

ENGLISH = [
    ("The capital of France is Paris.", "Paris is the capital of France."),
    ("There were 1,234.5 apples left on the table - 3-4 of them red", "1,234.5 apples were left on the table"),
    ("", "something"),
    ("A quiet river runs through the old town.", "A quiet river runs through the old town."),
    ('He said "no" & left (at 5).\nThen it rained.', "He said &quot;no&quot; &amp; left, at 5. Then it rained"),
]
CHINESE = [
    ("法国的首都是巴黎。", "法国的首都是巴黎"),
    ("我在2024年去过北京，很喜欢！", "我2024年去了北京，非常喜欢！"),
    ("你好", "再见"),
]


def test_words_are_13a_and_for_chinese_zh():
    for pair in ENGLISH:
        for text in pair:
            assert bleu_words(text) == Tokenizer13a()(text).split()
    for pair in CHINESE:
        for text in pair:
            assert bleu_words(text) == TokenizerZh()(text).split()
    assert bleu_words("ภาษาไทย 10.5") == ["ภ", "า", "ษ", "า", "ไ", "ท", "ย", "10.5"]
    assert bleu_words("東京タワー") == ["東", "京", "タ", "ワ", "ー"]
    assert bleu_words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]


@given(st.text("ab1,.-& \n'é(<", max_size=30))
@settings(max_examples=150, deadline=None)
@example("1,,2 ..5 3-4 -1")
def test_words_are_13a_whatever_the_text(text):
    assert bleu_words(text) == Tokenizer13a()(text.rstrip()).split()


@given(st.text("abcé 世\ud800", max_size=12), st.text("abcé 世\ud800", max_size=12))
@settings(max_examples=150, deadline=None)
@example("abcdef", "abc")
def test_chrf_of_any_texts_is_sacrebleus(response, reference):
    assert 100 * chrf(counted([(response, reference)])[1][0]) == pytest.approx(
        CHRF().sentence_score(response, [reference]).score, abs=1e-9
    )


@pytest.mark.parametrize("pairs", [ENGLISH, ENGLISH[:1], ENGLISH[2:3], ENGLISH[3:]], ids=["all", "one", "empty", "two"])
def test_bleu_of_english_is_sacrebleus(pairs):
    ours, right = zip(*pairs, strict=True)
    theirs = BLEU(effective_order=len(pairs) == 1).corpus_score(ours, [right])  # of one, sacrebleu warns of the default
    assert 100 * bleu(counted(pairs)[0].sum(axis=0)) == pytest.approx(theirs.score, abs=1e-9)


def test_bleu_of_chinese_is_sacrebleus_zh():
    ours, right = zip(*CHINESE, strict=True)
    theirs = BLEU(tokenize="zh").corpus_score(ours, [right])
    assert 100 * bleu(counted(CHINESE)[0].sum(axis=0)) == pytest.approx(theirs.score, abs=1e-9)


def test_both_are_sacrebleus_on_random_sets():
    rng = random.Random(4)
    some = "the cat, sat on 12 mats; it's a ünïcode — мир 世 界".split()
    for size in (1, 2, 5, 40):
        pairs = [
            (" ".join(rng.choices(some, k=rng.randrange(25))), " ".join(rng.choices(some, k=rng.randrange(1, 25))))
            for _ in range(size)
        ]
        ours, right = zip(*pairs, strict=True)
        bleus, chrfs = counted(pairs)
        theirs = BLEU(effective_order=True).corpus_score(ours, [right])
        assert 100 * bleu(bleus.sum(axis=0)) == pytest.approx(theirs.score, abs=1e-9)
        assert 100 * chrf(chrfs.sum(axis=0)) == pytest.approx(CHRF().corpus_score(ours, [right]).score, abs=1e-9)
        each = [CHRF().sentence_score(a, [b]).score for a, b in pairs]
        assert 100 * chrf(chrfs) == pytest.approx(np.array(each), abs=1e-9)


def test_bleu_counts_n_grams_up_to_four_and_punishes_brevity():
    """8 words of 9; 8/8 words, 6/7 pairs, 5/6 triples and 4/5 quadruples are in the reference."""
    said, wanted = "the quick brown fox jumps over the dog", "the quick brown fox jumps over the lazy dog"
    expected = math.exp(1 - 9 / 8) * (1 * 6 / 7 * 5 / 6 * 4 / 5) ** (1 / 4)
    assert bleu(counted([(said, wanted)])[0][0]) == pytest.approx(expected)


def test_right_answers_of_one_or_two_words_have_a_bleu():
    short = [("Paris", "Paris"), ("New York", "New York"), ("four", "five")]
    assert bleu(counted(short[:1])[0].sum(axis=0)) == 1
    # 3 of 4 words, 1 of 1 pair; no answer has three words, so no longer runs
    assert bleu(counted(short)[0].sum(axis=0)) == pytest.approx(math.sqrt(3 / 4 * 1))
    # of four words one is there; half of 1 of 3 pairs, a quarter of 1 of 2 triples, an eighth of 1 of 1 quadruple
    expected = (1 / 4 * 0.5 / 3 * 0.25 / 2 * 0.125 / 1) ** (1 / 4)
    assert bleu(counted([("one big red car", "a house of one")])[0].sum(axis=0)) == pytest.approx(expected)
    assert bleu(counted([("", ""), ("a", "b")])[0].sum(axis=0)) == 0


def test_chrf_is_counted_by_hand():
    """abc in abd: 2 of 3 characters, 1 of 2 pairs, 0 of 1 triple on both sides: precision and recall 7/18."""
    assert chrf(counted([("abc", "abd")])[1][0]) == pytest.approx(7 / 18)
    # a b in a b c: precision 1 over two orders; recall 2/3 and 1/2, mean 7/12: F2 = 5 * 7/12 / (4 + 7/12)
    assert chrf(counted([("ab", "a b c")])[1][0]) == pytest.approx(5 * 7 / 12 / (4 + 7 / 12))
    assert chrf(counted([("巴黎", "巴黎")])[1][0]) == 1
    assert chrf(counted([("", "x"), ("y", "x")])[1]).tolist() == [0, 0]
    assert 0 < chrf(counted([("x += 1", "x -= 1")])[1][0]) < 1


def test_no_rows_have_counts_of_no_rows():
    assert [counts.shape for counts in counted([])] == [(0, 9), (0, 18)]
