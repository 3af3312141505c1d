"""How likely a token was and which ones were likelier: log-probabilities as a model gives them, before any sampling.

n positions, V rows of the head, k tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Likely(NamedTuple):
    """A token with its log-probability, and the likeliest tokens with theirs, likeliest first.

    Where the token is one of these it has the very same number there.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


class Scores(NamedTuple):
    """On the device: (n,) tokens, their (n,) log-probabilities, (n, k) likeliest tokens and theirs."""

    tokens: Tensor
    logprobs: Tensor
    top_tokens: Tensor
    top_logprobs: Tensor

    def likely(self, tops: Sequence[int]) -> list[Likely]:
        """tops: how many of the likeliest each position gets."""
        columns = [part.tolist() for part in self]
        return [
            Likely(token, logprob, list(zip(ids[:top], values[:top], strict=True)))
            for token, logprob, ids, values, top in zip(*columns, tops, strict=True)
        ]


def likeliest(logits: Tensor, tokens: Tensor, top: int, vocabulary: int | None) -> Scores:
    """(n, V) logits and the (n,) tokens that followed.

    The softmax is over all that the head has, as in likelihoods.py; only ids below `vocabulary` are tokens.
    """
    logits = logits.float()
    total = logits.logsumexp(dim=-1, keepdim=True)
    values, ids = torch.topk(logits[:, :vocabulary], min(top, logits.shape[1]), dim=-1)
    return Scores(tokens, (logits.gather(1, tokens[:, None]) - total)[:, 0], ids, values - total)
