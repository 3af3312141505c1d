"""Words shared with the reference: by hand, Google's and torchmetrics' ROUGE-L; pieces that join to the whole."""

import random
import time
from difflib import SequenceMatcher
from itertools import pairwise
from unicodedata import normalize

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.functional.text import rouge_score

from ift.data.demo import demo_rows
from ift.evaluation import overlap
from ift.evaluation.overlap import chunks, common_subsequence, common_words, rouge_l, same, word_diff, words

GOOGLE = RougeScorer(["rougeL"])
ENGLISH = "abcXYZ019 \n.,;:?\"'()_$&@#"  # what plain sentences are made of

# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's hat - it cost $3.50, well-known!", "the cat s hat it cost 3 50 well known"),
        ("Привет, мир! Ёлка", "привет мир ёлка"),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया"),  # marks stay in their word
        ("مرحباً بالعالم، كيف؟", "مرحباً بالعالم كيف"),
        ("我爱北京。2024年", "我 爱 北 京 2024 年"),
        ("東京タワーは333m", "東 京 タ ワ ー は 333m"),
        ("ﾊﾟﾝ ＡＢＣ１２", "パ ン abc12"),  # half-width and full-width forms
        ("ภาษาไทย", "ภ า ษ า ไ ท ย"),
        ("น้ำ", "น้ำ"),  # a letter with its marks is one character
        ("ភាសា", "ភា សា"),
        ("안녕하세요 세계", "안녕하세요 세계"),  # Korean has spaces
        ("naïve café", "naïve café"),
        ("STRASSE Straße", "strasse strasse"),
        ("İstanbul ΣΟΦΟΣ σοφος", "istanbul σοφοσ σοφοσ"),
        ("👩‍💻 👍🏽 🇫🇷 ❤️", "👩‍💻 👍🏽 🇫🇷 ❤"),  # one word each, however many code points
        ("x += 1", "x + = 1"),
        ("x -= 1", "x - = 1"),
        ("(a + b) * c", "( a + b ) * c"),
        ("a[0] = -1", "a [ 0 ] = - 1"),
        ("i++ && !done", "i ++ && ! done"),
        ("a well-known fact\nE = mc^2", "a well known fact e = mc ^ 2"),  # line by line
        ("* one\n* **two**\n- three - four", "one two three four"),  # Markdown is no formula
        (":-)", ": - )"),  # of a text without words every character
        ("...", ". . ."),
        (" \n", ""),
        ("", ""),
    ],
)
def test_words_are_unicodes_and_operators_in_formulas_are_too(text, expected):
    assert words(text) == expected.split()


def test_words_of_plain_english_are_those_of_published_rouge():
    texts = [row["output"] for row in demo_rows(200, seed=3)]
    plain = [text for text in texts if not overlap.OPERATOR.search(text) and words(text)]
    assert len(plain) > 100
    for text, other in zip(plain, reversed(plain), strict=True):
        assert rouge_l(text, other) == pytest.approx(GOOGLE.score(other, text)["rougeL"].fmeasure, abs=1e-12)


@given(st.text(ENGLISH, max_size=60), st.text(ENGLISH, max_size=60))
@settings(max_examples=150, deadline=None)
@example("it's 3.5, (not) 4", "It's $3,5; not 4?")
def test_rouge_of_english_is_googles(response, reference):
    if not any(c.isalnum() for c in response) and not any(c.isalnum() for c in reference):
        return  # which for Google are no words, so 0
    if overlap.OPERATOR.search(response.lower()) or overlap.OPERATOR.search(reference.lower()):
        return
    assert rouge_l(response, reference) == pytest.approx(
        GOOGLE.score(reference, response)["rougeL"].fmeasure, abs=1e-12
    )


def test_rouge_is_torchmetrics():
    rng = random.Random(1)
    some = "the The cat, sat mat! on 12 (nine) it's".split()
    for longest in (12, 12, 60, 60, 150):
        for _ in range(6):
            response, reference = (" ".join(rng.choices(some, k=rng.randrange(longest))) for _ in range(2))
            theirs = rouge_score(response, reference, rouge_keys="rougeL")["rougeL_fmeasure"]
            assert rouge_l(response, reference) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        ("法国的首都是巴黎。", "法国的首都是巴黎", 1),
        ("法国首都是巴黎", "法国的首都是巴黎", 2 * 7 / 15),
        ("Столица Франции — Париж", "столица франции париж", 1),
        ("फ्रांस की राजधानी पेरिस है", "फ्रांस की राजधानी पेरिस है।", 1),
        ("عاصمة فرنسا هي باريس", "عاصمة فرنسا هي باريس.", 1),
        ("\u200fعاصمة فرنسا", "عاصمة فرنسا\u200e", 1),
        ("می\u200cخواهم", "میخواهم", 1),
        (normalize("NFD", "Ça coûte"), "ça coûte", 1),
        ("x += 1", "x -= 1", 3 / 4),
        ("return a / b", "return a * b", 3 / 4),
        ("i < n", "i > n", 2 / 3),
        ("a == b", "a = b", 2 / 3),
        ("-5", "5", 2 / 3),
        ("{}", "[]", 0),
        ("😀", "😀", 1),
        ("😀", "😢", 0),
        ("", "", 0),
    ],
)
def test_rouge_of_other_scripts_and_of_code(response, reference, expected):
    assert rouge_l(response, reference) == rouge_l(reference, response) == pytest.approx(expected)


def test_what_stands_between_spaces_is_counted_by_character_where_there_are_none():
    assert chunks("it's done, 我爱你。") == ["it's", "done,", "我", "爱", "你", "。"]
    assert chunks("a  b\nc") == ["a", "b", "c"]


# -- exact match ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "reference", "equal"),
    [
        (" Paris\n", "Paris", True),
        ("paris", "Paris", False),
        ("Paris.", "Paris", False),
        (normalize("NFD", "Zoë"), normalize("NFC", "Zoë"), True),
        ("a\r\nb", "a\nb", True),
        ("\ufeffa\u200b", "a", True),  # byte order mark, zero-width space
        ("\u200fשלום\u200f", "שלום", True),  # which way text runs
        ("co\u00adoperate", "cooperate", True),
        ("می\u200cخواهم", "میخواهم", False),  # a joiner is seen in Persian
        ("１", "1", False),  # width is seen
        ("ﬁ", "fi", False),
        ("ß", "ss", False),
        ("👩\u200d💻", "👩💻", False),
        ("\u00a0x", "x", True),
        ("x\u3000", "x", True),
    ],
)
def test_an_exact_match_looks_the_same(response, reference, equal):
    assert same(response, reference) == same(reference, response) == equal


# -- the longest common subsequence -----------------------------------------------------------------------------------


def plain_loop(a, b):
    """The textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], before + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]


def test_the_longest_common_subsequence_is_counted():
    assert common_subsequence("the cat sat on the mat".split(), "the cat lay on a mat".split()) == 4
    assert common_subsequence([], ["a"]) == common_subsequence(["a"], []) == common_subsequence(["a"], ["b"]) == 0
    assert common_subsequence(list("abcbdab"), list("bdcaba")) == 4  # the textbook's bcba


@given(st.text("abc", max_size=40), st.text("abcd", max_size=40))
@settings(max_examples=150, deadline=None)
def test_it_is_as_long_as_the_textbooks_and_really_common(a, b):
    pairs = common_words(a, b)
    assert len(pairs) == common_subsequence(a, b) == plain_loop(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))


def test_texts_of_any_length_are_compared_in_time_that_grows_as_they_do(monkeypatch):
    rng = random.Random(5)
    text = [str(rng.randrange(3000)) for _ in range(40_000)]
    other = [word if rng.random() > 0.1 else "new" for word in text]
    other[9_000:9_000] = ["put", "in"] * 300
    start = time.process_time()
    pairs = common_words(text, other)
    assert time.process_time() - start < 5  # half a second here; the whole table would take minutes
    assert len(pairs) > 0.88 * len(text)
    assert all(text[i] == other[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
    monkeypatch.setattr(overlap, "WINDOW", 40)  # windows lose little
    short, shorter = text[:1000], other[:1000]
    assert len(common_words(short, shorter)) >= 0.98 * common_subsequence(short, shorter)


# -- word by word -----------------------------------------------------------------------------------------------------


def test_pieces_show_what_is_shared():
    reference, response = word_diff("The capital is Paris.", "The city is Paris!")
    assert reference == [(True, "The "), (False, "capital"), (True, " is Paris"), (False, ".")]
    assert response == [(True, "The "), (False, "city"), (True, " is Paris"), (False, "!")]
    assert word_diff("seven old men", "no one at all") == ([(False, "seven old men")], [(False, "no one at all")])
    assert word_diff("", "a") == ([], [(False, "a")])
    assert word_diff("a b", "a  b")[1] == [(True, "a"), (False, "  "), (True, "b")]


def test_of_a_chinese_sentence_one_character_differs():
    reference, response = word_diff("我昨天在北京大学读书。", "我昨天在南京大学读书。")
    assert reference == [(True, "我昨天在"), (False, "北"), (True, "京大学读书。")]
    assert response == [(True, "我昨天在"), (False, "南"), (True, "京大学读书。")]
    assert word_diff("नमस्ते दुनिया", "नमस्ते भारत")[1] == [(True, "नमस्ते "), (False, "भारत")]
    assert word_diff(normalize("NFD", "Zoë é"), "Zoë e")[1] == [(True, "Zoë "), (False, "e")]
    assert word_diff("👩‍💻 ok", "👩‍🔬 ok")[0] == [(False, "👩‍💻"), (True, " ok")]


@pytest.mark.parametrize(
    "pair",
    [
        ("a b\n c", "b\tc "),
        ("日本語", "日本"),
        ("x " * 9000, "x " * 8000),
        ("", ""),
        (" ", "\n"),
        ("\u200f", "a\u200d"),
    ],
)
def test_pieces_join_to_the_whole(pair):
    assert tuple("".join(text for _, text in pieces) for pieces in word_diff(*pair)) == pair


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_pieces_join_to_the_whole_whatever_the_text(a, b):
    for text, pieces in zip((a, b), word_diff(a, b), strict=True):
        assert "".join(piece for _, piece in pieces) == text
        assert all(piece for _, piece in pieces)


def test_as_much_is_shared_as_difflib_finds():
    rng = random.Random(2)
    for _ in range(20):
        a, b = ([rng.choice("the a cat sat on my old mat".split()) for _ in range(30)] for _ in range(2))
        found = sum(block.size for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())
        assert len(common_words(a, b)) >= found
