import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ift.data.contract.twins import BANDS, NgramIndex, band_hashes, find_twins, fold, similarity

SHARED = Path(__file__).parents[4] / "shared" / "data"


def clusters(texts, **options):
    return find_twins(band_hashes(texts), texts.__getitem__, **options).tolist()


def all_cosines(texts):
    """(N, N): the whole matrix, with 0 on its diagonal, by another way than the module's."""
    grams = [Counter(zip(text, text[1:], text[2:], strict=False)) for text in map(fold, texts)]
    columns = {gram: column for column, gram in enumerate(sorted(set().union(*grams)))}
    counts = np.zeros((len(texts), len(columns)))
    for row, found in enumerate(grams):
        counts[row, [columns[gram] for gram in found]] = list(found.values())
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    cosines = counts @ counts.T
    np.fill_diagonal(cosines, 0)
    return cosines


def assert_clusters_are_those_of_all_pairs(texts):
    """Each pair above 0.9 in one cluster, and no two clusters without such a pair between them."""
    linked = np.arange(len(texts))
    for a, b in np.argwhere(np.triu(all_cosines(texts) > 0.9)).tolist():
        one, other = sorted((linked[a], linked[b]))
        linked[linked == other] = one
    assert clusters(texts) == linked.tolist()


# ----------------------------------------------------------------------------------------------------------------------
# similarity


@pytest.mark.parametrize(
    ("a", "b", "cosine"),
    [
        ("abcd", "abcde", 2 / sqrt(2 * 3)),  # abc bcd; abc bcd cde
        ("aaaab", "aaaac", 4 / 5),  # aaa aaa aab; aaa aaa aac: counts 2 1 0 and 2 0 1
        ("abc", "xyz", 0),
        ("Name  a\nBIRD", "name a bird", 1),
        ("ab", "AB", 1),
        ("ab", "abc", 0),
        ("a", "b", 0),
        ("", "", 1),
        ("", "a", 0),
        ("\ud83d", "\ud83d", 1),
    ],
)
def test_similarity_is_the_cosine_of_trigram_counts(a, b, cosine):
    assert similarity(a, b) == pytest.approx(cosine, abs=1e-12)
    assert similarity(b, a) == similarity(a, b)


# ----------------------------------------------------------------------------------------------------------------------
# twins


def test_a_cluster_is_named_after_its_smallest_row():
    texts = [
        "Name three large rivers of Europe.",
        "Convert 7 kilometers to meters, and show how.",
        "Translate this sentence into French.",
        "Convert 9 kilometers to meters, and show how.",
        "translate this  sentence into french.",
    ]
    assert clusters(texts) == [0, 1, 2, 1, 2]
    # 33 trigrams once and 5 twice, 33 + 5 * 4 = 53; three hold the digit
    assert similarity(texts[1], texts[3]) == pytest.approx(50 / 53)
    assert similarity(texts[2], texts[4]) == 1


def test_the_threshold_is_above_and_not_at():
    texts = ["abcdefghij klmnopqrst uvwxyz", "abcdefghij klmnopqrst uvwxyz"]
    assert clusters(texts, threshold=0.99) == [0, 0]
    assert clusters(texts, threshold=1.0) == [0, 1]


def test_short_and_empty_texts_are_twins_where_they_are_equal():
    assert clusters(["", "a", "ab", "", "A", "ac", "ab"]) == [0, 1, 2, 0, 1, 5, 2]


@pytest.mark.parametrize("texts", [[], ["alone"], [""]])
def test_nothing_to_compare_is_no_error(texts):
    bands = band_hashes(texts)
    assert bands.shape == (len(texts), BANDS)
    assert bands.dtype == np.uint64
    assert find_twins(bands, texts.__getitem__).tolist() == list(range(len(texts)))


def test_a_thousand_equal_rows_cost_999_comparisons(monkeypatch):
    texts = ["Write a short poem about the sea and the wind."] * 1000
    asked, compared = [], []
    monkeypatch.setattr("ift.data.contract.twins._cosine", lambda a, b: compared.append((a, b)) or 1.0)

    def text(row):
        asked.append(row)
        return texts[row]

    assert find_twins(band_hashes(texts), text).tolist() == [0] * 1000
    assert len(compared) == 999
    assert len(asked) == 1000


def test_a_bucket_of_strangers_is_compared_16_rows_wide_and_a_pair_only_once(monkeypatch):
    compared = []
    monkeypatch.setattr("ift.data.contract.twins._cosine", lambda a, b: compared.append((a, b)) or 0.0)
    bands = np.ones((500, BANDS), np.uint64)  # all rows share all bands, as if the hashes had failed
    assert find_twins(bands, "row number {}".format).tolist() == list(range(500))
    assert len(compared) == 500 * 16 - 16 * 17 / 2  # the last 16 rows have fewer behind them


def test_in_a_crowd_made_from_one_template_no_twins_are_lost():
    things = ["kilometers", "miles", "yards", "feet", "inches", "light years", "furlongs"]
    texts = [f"Convert {7 * n * n} {thing} to {other}." for n in range(12) for thing in things for other in things]
    assert_clusters_are_those_of_all_pairs(texts)


def test_hashes_depend_on_the_text_alone():
    texts = ["a", "", "Name a bird.", "x" * 300_000, "東京は日本の首都です。", "🙂🙃🙂"] * 3
    whole = band_hashes(texts)
    assert (whole == np.concatenate([band_hashes([text]) for text in texts])).all()
    code = "from ift.data.contract.twins import band_hashes; print(band_hashes(['Name a bird.']).tolist())"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        other = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert json.loads(other.stdout) == whole[2:3].tolist()


def test_these_hashes_are_those_that_stored_ones_were_made_with():
    """A change here (another seed, another rensa) means that hashes kept on disk are to be made again."""
    assert band_hashes(["Name a bird."])[0, :2].tolist() == [4893755437784436005, 17315874444503750906]


def test_each_failure_asks_one_slot_more_of_a_rows_next_partner(monkeypatch):
    """80 of 128 slots are equal in every pair: after 9 failures, at a bar of 72 to 80, a row is compared no more."""
    compared = Counter()
    monkeypatch.setattr("ift.data.contract.twins._cosine", lambda a, b: compared.update([*a[0], *b[0]]) or 0.0)
    bands = np.ones((500, BANDS), np.uint64)
    bands[:, 20:] = np.arange(500, dtype=np.uint64)[:, None] * np.uint64(2**40 + 0x01010101)  # another in each slot
    find_twins(bands, "{:03d}".format)
    assert max(compared.values()) <= 9
    assert sum(compared.values()) > 8 * 500


def test_hashes_may_lie_on_disk(tmp_path):
    texts = ["Name a bird that cannot fly.", "Name a fish.", "Name a bird that cannot fly!"]
    np.save(tmp_path / "bands.npy", band_hashes(texts))
    bands = np.load(tmp_path / "bands.npy", mmap_mode="r")
    assert find_twins(bands, texts.__getitem__).tolist() == [0, 1, 0]


def test_progress_is_told_band_by_band():
    steps = []
    clusters(["a", "b"], advance=steps.append)
    assert steps == [1] * 32


def test_pairs_whose_texts_were_compared_are_counted():
    counts = []
    words = "one two three four five six seven eight nine ten "
    clusters([words + "a", words + "b", "something else altogether"], counted=counts.append)
    assert (len(counts), counts[-1]) == (32, 1)


SENTENCES = st.text("abcdefghijklmnop ", min_size=30, max_size=80)
EDITS = st.lists(st.tuples(st.integers(0, 79), st.sampled_from(["", "z", "yy", " "])), max_size=4)


@st.composite
def mutated_strings(draw):
    originals = draw(st.lists(SENTENCES, min_size=1, max_size=3))
    texts = []
    for edits in draw(st.lists(EDITS, min_size=2, max_size=12)):
        text = draw(st.sampled_from(originals))
        for place, letters in edits:
            place %= len(text)
            text = text[:place] + letters + text[place + 1 :]
        texts.append(text)
    return texts


@settings(max_examples=200, deadline=None, derandomize=True)
@given(mutated_strings())
def test_twins_are_those_of_all_pairs(texts):
    # what one trigram repeated often makes of a text is out of reach: see BANDS
    texts = [text for text in texts if len(set(pairwise(fold(text)))) > 20]
    if texts:
        assert_clusters_are_those_of_all_pairs(texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), max_size=6))
def test_no_text_is_too_odd(texts):
    cluster = clusters(texts)
    for a, b in zip(texts, cluster, strict=True):
        assert fold(a) == fold(texts[b]) or len(fold(a)) > 3  # twins of odd short texts are equal
    NgramIndex(texts).overlap("".join(texts))


def read_shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name}: not found (the seed's data are no part of the repository)")
    return json.loads((SHARED / name).read_text())


@pytest.mark.parametrize("name", ["seed_instructions_1100.json", "alpaca_sample_999.json"])
@pytest.mark.parametrize("fields", [["instruction", "input"], ["instruction", "input", "output"]])
def test_all_twins_of_real_rows_are_found_and_no_others(name, fields):
    rows = read_shared(name)
    texts = [" | ".join(row[field] for field in fields) for row in rows]
    assert_clusters_are_those_of_all_pairs(texts)


# ----------------------------------------------------------------------------------------------------------------------
# passages shared with an evaluation

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z"


def test_a_row_is_found_by_13_words_in_a_row_and_not_by_12():
    index = NgramIndex([LETTERS])
    assert index.overlap("1 2 3 c d e f g h i j k l m n o 4 5") == [0]  # c to o: 13
    assert index.overlap("1 2 3 c d e f g h i j k l m n 4 5") == []  # c to n: 12
    assert index.overlap("c d e f g h i j k l m n") == []
    assert index.overlap("") == []


def test_case_and_punctuation_do_not_count():
    index = NgramIndex(
        ["one", LETTERS, "Don't, we said, go to the state-of-the-art museum in the old town of York!"], n=8
    )
    assert index.overlap("dont we said go: to THE stateoftheart museum") == [2]
    assert index.overlap("- A-, B., (C) D E F_ «G» H") == [1]
    assert index.too_short == 1


def test_all_rows_that_share_an_ngram_are_given_in_order():
    rows = [LETTERS, "1 2 3 4 5 6 7 8 9", LETTERS + " a b c d", LETTERS]
    assert NgramIndex(iter(rows), n=5).overlap("v w x y z 1 2 3 4 5") == [0, 1, 2, 3]


def test_a_row_shorter_than_n_counts_whole_down_to_8_words_and_then_is_only_counted():
    index = NgramIndex(["1 2 3 4 5 6 7 8", "1 2 3 4 5 6 7 8 9 10", "1 2 3 4 5 6 7", ""])
    assert index.too_short == 2
    assert index.overlap("0 1 2 3 4 5 6 7 8 0") == [0]
    assert index.overlap("0 1 2 3 4 5 6 7 8 9 10 11") == [0, 1]
    assert index.overlap("1 2 3 4 5 6 7") == []


def test_each_character_of_chinese_or_japanese_is_a_word():
    index = NgramIndex(["今天天气很好,我们一起去公园散步吧。", "🙂🙃!?", "東京タワーはどこですか"])
    assert index.too_short == 1
    assert index.overlap("他说:今天天气很好 我们一起去公园。") == [0]  # 13 of them in a row
    assert index.overlap("他说:今天天气很好。") == []
    assert index.overlap("「東京タワーはどこですか」と聞いた") == [2]  # 11, whole


def test_an_index_of_nothing_finds_nothing():
    index = NgramIndex([])
    assert index.overlap(LETTERS) == []
    assert index.too_short == 0


def test_an_ngram_has_a_word():
    with pytest.raises(ValueError, match="n=0"):
        NgramIndex([], n=0)
