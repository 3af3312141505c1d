import math

import numpy as np
import pytest

from ift.data.contract.examples import Example
from ift.data.text_size import TextSize, supervised_bytes, text_size
from ift.text.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["ab ab ab ä"], size=258, name="small")


def test_only_supervised_text_counts_and_the_end_has_a_loss_and_no_bytes(tokenizer):
    prompt, answer = tokenizer.encode("ab "), tokenizer.encode("ab ä")  # 3 + 2 bytes, of fewer tokens
    assert len(answer) < 5
    ids = np.array([*prompt, *answer], dtype=np.int32)
    supervised = np.array([False] * len(prompt) + [True] * len(answer))
    whole, cut = Example(ids, supervised), Example(ids, supervised, ends=False)
    assert text_size([whole], tokenizer) == (len(answer) + 1, 5)
    assert text_size([whole, cut], tokenizer) == (2 * len(answer) + 1, 10)
    assert supervised_bytes([*answer, tokenizer.end_of_text], tokenizer) == 5


def test_bits_per_byte_by_hand():
    """The Pile's: tokens / bytes times loss / ln 2. 3 tokens of 2 nats for 4 bytes: 6 / ln 2 bits over 4 bytes."""
    assert TextSize(tokens=3, bytes=4).bits_per_byte(2.0) == pytest.approx(6 / math.log(2) / 4)
    assert TextSize(tokens=8, bytes=8).bits_per_byte(math.log(256)) == pytest.approx(8)  # bytes that are drawn alike
    assert math.isnan(TextSize(tokens=1, bytes=0).bits_per_byte(2.0))
