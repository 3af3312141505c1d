"""Real vocabularies, where the packages that bring them are installed: the ids of the library and of the vendor.

benchmarks/encoders.py compares more texts, and times both.
"""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]

import encoders  # noqa: E402
from vocabularies import VOCABULARIES  # noqa: E402

from ift.data.reading.rows import read_demo  # noqa: E402

FAST = ("GPT-2", "Llama 3", "Qwen", "SmolLM2", "NeoX style", "tekken")
ROWS = STRINGS = 2000


@pytest.fixture(scope="module")
def rows():
    return [row.text for row in read_demo()][:ROWS]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_of_rows_and_random_strings_are_the_librarys_and_the_vendors(name, rows, tmp_path):
    try:
        report = encoders.compare(name, tmp_path / "vocabulary", rows, STRINGS)
    except encoders.NOT_THERE as error:
        pytest.skip(f"needs {name}'s vocabulary: {error}")
    assert (report.differences, report.undecoded, report.first) == (0, 0, "")
    assert report.of_vendor in (None, 0)
    assert report.encoder == ("tiktoken" if name in FAST else "tokenizers")
