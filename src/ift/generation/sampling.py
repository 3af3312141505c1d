"""From logits to a token: greedy, or sampled with temperature, top-k and top-p.

B rows, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ift.settings import GenerateSettings


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k and top_p (Holtzman et al. 2020) narrow the choice before it is made.

    seed and stream decide what is drawn: answers with the same seed and different streams are independent.
    repetition_penalty is that of CTRL (Keskar et al. 2019, arXiv:1909.05858), as transformers has it.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stream: int = 0
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        top_k_fits = self.top_k is None or self.top_k >= 1
        if self.temperature < 0 or not top_k_fits or not (self.top_p is None or 0 < self.top_p <= 1):
            raise ValueError(f"{self}: temperature must be 0 or more, top_k 1 or more, top_p above 0 and at most 1")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty={self.repetition_penalty}: must be above 0")

    @classmethod
    def of(cls, settings: GenerateSettings, seed: int) -> Sampling:
        narrow = (settings.temperature, settings.top_k, settings.top_p)
        return cls(*narrow, seed=seed, repetition_penalty=settings.repetition_penalty)

    def random(self) -> np.random.Generator | None:
        """Uniform numbers for one answer, whatever is computed beside it; None where nothing is drawn."""
        return np.random.default_rng([self.seed, self.stream]) if self.temperature > 0 else None


GREEDY = Sampling()


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """(B, V) logits with those of tokens that were seen (B, V) divided by penalty (B, 1), or multiplied where below 0.

    A penalty of 1 changes nothing; above 1, tokens of the prompt and of the answer so far become less likely.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def choose(logits: Tensor, sampling: Sampling, u: Tensor | None) -> Tensor:
    """(B, V) logits -> (B,) tokens; u (B,) uniform numbers in [0, 1) decide where temperature is above 0.

    Sampling inverts the cumulative distribution over tokens sorted by probability, so one number makes one choice.
    """
    if sampling.temperature == 0 or u is None:
        return logits.argmax(dim=-1)
    values, tokens = (logits / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        values, tokens = values[:, : sampling.top_k], tokens[:, : sampling.top_k]
    probability = values.double().softmax(dim=-1)
    if sampling.top_p is not None:
        before = probability.cumsum(dim=-1) - probability  # the mass of all that is likelier
        probability = probability.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probability.cumsum(dim=-1)
    place = torch.searchsorted(cumulative, u[:, None].double() * cumulative[:, -1:], right=True)
    return tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))[:, 0]


def choose_each(logits: Tensor, samplings: Sequence[Sampling], u: Tensor | None) -> Tensor:
    """As `choose`, with a Sampling for each of the B rows; u may be None where all are greedy."""
    groups: dict[tuple[float, int | None, float | None], list[int]] = defaultdict(list)
    for row, sampling in enumerate(samplings):
        groups[sampling.temperature, sampling.top_k, sampling.top_p].append(row)
    if len(groups) == 1:
        return choose(logits, samplings[0], u)
    chosen = torch.empty(len(samplings), dtype=torch.long, device=logits.device)
    for members in groups.values():
        rows = torch.tensor(members, device=logits.device)
        chosen[rows] = choose(logits[rows], samplings[members[0]], None if u is None else u[rows])
    return chosen
