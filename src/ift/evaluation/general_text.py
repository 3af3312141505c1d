"""How well a model still reads text that has nothing to do with its rows: what tuning cost, measured without a network.

The text is Python's own documentation (pydoc_data.topics), which lies on every machine that runs this: English with
code in it, as pretraining has it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ift.generation.likelihoods import log_likelihoods

if TYPE_CHECKING:
    from ift.model.gpt import GPT
    from ift.text.tokenizers import Tokenizer

PASSAGES, CHARACTERS = 40, 1_000  # some 10,000 tokens in all


def passages(count: int | None = None) -> list[str]:
    """The beginnings of topics that are long enough, the same for every model; none where Python has no such file."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):
        return []
    long = [text[:CHARACTERS] for _, text in sorted(topics.items()) if len(text) >= CHARACTERS]
    return list(dict.fromkeys(long))[: PASSAGES if count is None else min(count, PASSAGES)]


def bits_per_byte(model: GPT, tokenizer: Tokenizer, texts: Sequence[str], *, batch_tokens: int = 4096) -> list[float]:
    """Of each text, by itself, after the token that begins one: comparable across tokenizers.

    Of a text that is longer than the context the first part counts.
    """
    start = np.array([tokenizer.end_of_text if tokenizer.beginning is None else tokenizer.beginning])
    every = [np.array(tokenizer.encode(text, "start"))[: model.config.context_length] for text in texts]
    found = log_likelihoods(
        model,
        [(start, ids) for ids in every],
        batch_tokens=batch_tokens,
    )
    return [
        -total / math.log(2) / len(tokenizer.decode(ids.tolist()).encode())
        for ids, (total, _) in zip(every, found, strict=True)
    ]
