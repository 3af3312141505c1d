"""How an answer to a question of SQuAD is scored, as the official evaluations do it.

Rajpurkar et al. 2016 (arXiv 1606.05250) and Rajpurkar, Jia and Liang 2018 (arXiv 1806.03822). Scores are shares from 0
to 1, where the papers give them times 100. Where neither the answer nor what is wanted has a word besides articles, F1
is 1, as in version 2.0 and in torchmetrics; the older script of version 1.1 gives 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

ARTICLE = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Asked(NamedTuple):
    """A question with one score of its answer, and how likely the model holds that there is no answer."""

    no_answer: float  # 0 to 1
    score: float
    has_answer: bool
    answered: bool  # whether anything was said


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and surplus white space."""
    return " ".join(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact(said: str, answers: Sequence[str]) -> float:
    """1 where it is one of the answers. answers: one at least, "" where nothing must be said."""
    return float(normalized(said) in {normalized(answer) for answer in answers})


def f1(said: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of its words, of the answer where that is highest."""
    return max(_f1(normalized(said).split(), normalized(answer).split()) for answer in answers)


def wanted(answers: Sequence[str]) -> Sequence[str]:
    """What version 2.0 compares with: answers that have a word, or nothing where there are none."""
    return [answer for answer in answers if normalized(answer)] or [""]


def _f1(said: list[str], answer: list[str]) -> float:
    if not said or not answer:
        return float(said == answer)
    common = sum((Counter(said) & Counter(answer)).values())
    return 2 * common / (len(said) + len(answer))


def best_over_thresholds(asked: Sequence[Asked]) -> float:
    """The mean score if the model said nothing wherever `no_answer` is above a threshold, for the best threshold.

    All thresholds are tried on the questions themselves, so this is what could be had, not what is to be expected.
    """
    score = float(sum(not question.has_answer for question in asked))  # nothing is said anywhere
    best = score
    for question in sorted(asked, key=lambda question: question.no_answer):
        score += question.score if question.has_answer else -float(question.answered)
        best = max(best, score)
    return best / len(asked)
