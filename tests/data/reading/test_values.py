"""What a value in a record is."""

import pytest

from ift.data.reading.values import is_wordy, mark_of, texts_in


@pytest.mark.parametrize(
    ("text", "wordy"),
    [
        ("PASSAGE 1: needle pepper goblet", True),
        ("これは文脈の文章です。", True),
        ("open question answering", False),
        ("https://example.com/with/many/words/in/it", False),
        ("2026-11-28T21:00:00 Central European Time zone", False),
        ("1234 5678 9012 3456 7890", False),
        ("", False),
    ],
)
def test_what_could_be_a_part_of_a_prompt(text, wordy):
    assert is_wordy(text) == wordy


@pytest.mark.parametrize(
    ("value", "mark"),
    [(True, True), (0, False), (1.0, True), (" False ", False), ("1", True), (2, None), ("yes", None), (None, None)],
)
def test_a_mark_is_true_or_false_however_it_is_written(value, mark):
    assert mark_of(value) is mark


def test_texts_stand_at_any_depth_without_the_names_that_structure_them():
    assert list(texts_in({"role": "user", "content": ["a", {"text": "b", "type": "text", "n": 1}]})) == ["a", "b"]
