"""What becomes of a prompt that is too long for the model: decided here and nowhere else.

Two policies, chosen by the caller:

REFUSE    a prompt that fills the context is not answered: its answer is empty, with the stop reason "context". One that
          leaves a position is answered, though the answer may end early.
KEEP_END  a prompt that does not leave max_new_tokens positions loses its beginning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ift.generation.engine import Generated


class Overlong(Enum):
    REFUSE = "refuse"
    KEEP_END = "keep_end"

    def longest(self, context_length: int, max_new_tokens: int) -> int:
        """Tokens of the longest prompt that is taken as it is."""
        return context_length - (1 if self is Overlong.REFUSE else max_new_tokens)


@dataclass(frozen=True)
class Fitted:
    """
    prompts   what is generated from, each short enough
    places    where each of them stands in the list that was given
    too_long  places of those that were not short enough: not answered, or cut, by the policy
    """

    prompts: list[Sequence[int]]
    places: list[int]
    too_long: list[int]

    def answers(self, generated: Sequence[Generated]) -> list[Generated]:
        """Answers to `prompts` -> answers to all prompts that were given, in their order."""
        refused = set(self.too_long) - set(self.places)
        answers = [Generated([], "context")] * (len(self.places) + len(refused))
        for place, answer in zip(self.places, generated, strict=True):
            answers[place] = answer
        return answers


def fit(prompts: Sequence[Sequence[int]], policy: Overlong, *, context_length: int, max_new_tokens: int) -> Fitted:
    """Make prompts fit into the context. Raises ValueError where KEEP_END leaves no position for a prompt."""
    longest = policy.longest(context_length, max_new_tokens)
    if longest < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: the model has {context_length} positions in all")
    too_long = [place for place, prompt in enumerate(prompts) if len(prompt) > longest]
    refused = set(too_long) if policy is Overlong.REFUSE else set()
    places = [place for place in range(len(prompts)) if place not in refused]
    return Fitted([prompts[place][-longest:] for place in places], places, too_long)
