"""How much text the supervised tokens of some rows stand for, so that losses of different tokenizers can be compared.

A loss is per token, and a tokenizer with long tokens has few of them: its loss is higher for the same text. Bits per
byte is the same for any tokenizer: the loss of all supervised tokens together, in bits, divided by the bytes of the
supervised text in UTF-8 (Gao et al. 2020, The Pile, arXiv:2101.00027, section 3.1: L_T / L_B times loss / ln 2).
Tokens that no text becomes (the end of an answer, the marks of a chat template) count with their loss and have no
bytes: a model pays for the end of its answer too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ift.data.batches import IGNORE_INDEX, targets_of
from ift.data.contract.examples import Example
from ift.text.tokenizers import Tokenizer


class TextSize(NamedTuple):
    tokens: int  # with a loss
    bytes: int  # of their text

    def bits_per_byte(self, loss: float) -> float:
        """loss: the mean of a token, in nats. NaN where the tokens have no text."""
        return loss * self.tokens / (self.bytes * math.log(2)) if self.bytes else math.nan


def text_size(examples: Sequence[Example], tokenizer: Tokenizer) -> TextSize:
    tokens = size = 0
    for example in examples:
        targets = targets_of(example, tokenizer.end_of_text)
        ids = targets[targets != IGNORE_INDEX].tolist()
        tokens += len(ids)
        size += supervised_bytes(ids, tokenizer)
    return TextSize(tokens, size)


def supervised_bytes(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Bytes of the text that these tokens stand for."""
    without = tokenizer.special | {tokenizer.end_of_text}
    return len(tokenizer.decode_bytes([token for token in ids if token not in without]))
