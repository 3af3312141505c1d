"""Words shared with the reference: hand counts, torchmetrics' ROUGE-L, and pieces that join to the whole."""

import random

import pytest
from torchmetrics.functional.text import rouge_score

from ift.evaluation.overlap import common_subsequence, rouge_l, word_diff


def test_the_longest_common_subsequence_is_counted():
    assert common_subsequence("the cat sat on the mat".split(), "the cat lay on a mat".split()) == 4
    assert common_subsequence([], ["a"]) == common_subsequence(["a"], []) == common_subsequence(["a"], ["b"]) == 0
    assert common_subsequence(list("abcbdab"), list("bdcaba")) == 4  # the textbook's bcba


def test_rouge_is_torchmetrics():
    rng = random.Random(1)
    words = "the The cat, sat mat! on 12 naïve".split()
    for _ in range(30):
        said, right = (" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(2))
        theirs = rouge_score(said, right, rouge_keys="rougeL")["rougeL_fmeasure"]
        assert rouge_l(said, right) == pytest.approx(float(theirs), abs=1e-6)


def test_pieces_show_what_is_shared():
    reference, response = word_diff("The capital is Paris.", "The city is Paris!")
    assert reference == [(True, "The "), (False, "capital"), (True, " is Paris"), (False, ".")]
    assert response == [(True, "The "), (False, "city"), (True, " is Paris"), (False, "!")]
    assert word_diff("seven old men", "no one at all") == ([(False, "seven old men")], [(False, "no one at all")])
    assert word_diff("", "a") == ([], [(False, "a")])


@pytest.mark.parametrize("pair", [("a b\n c", "b\tc "), ("日本語", "日本"), ("x " * 900, "x " * 800), ("", "")])
def test_pieces_join_to_the_whole(pair):
    assert tuple("".join(text for _, text in pieces) for pieces in word_diff(*pair)) == pair
