"""Rows of a corpus of talks: the opening and the first answer."""

import json
import zipfile

from ift.data import small_talk
from ift.data.small_talk import FILE, talks


def test_a_row_is_the_opening_and_the_first_answer():
    corpus = {
        "conversations": [["Who?", "Me.", "Or I."], ["When was it?", 1963], "lost its dash", ["alone"], ["", "a"]]
    }
    assert list(talks(corpus)) == [
        {"instruction": "Who?", "output": "Me."},
        {"instruction": "When was it?", "output": "1963"},
    ]


def test_rows_are_the_english_ones_with_the_name_of_their_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as files:
        files.writestr(
            "chatterbot_corpus/data/english/tech_support.yml", "conversations:\n- - It is slow.\n  - Restart it."
        )
        files.writestr("chatterbot_corpus/data/german/ai.yml", "conversations:\n- - Was?\n  - Nichts.")
        small_talk._write(files, tmp_path)
    [line] = (tmp_path / FILE).read_text().splitlines()
    assert json.loads(line) == {"instruction": "It is slow.", "output": "Restart it.", "category": "tech support"}
