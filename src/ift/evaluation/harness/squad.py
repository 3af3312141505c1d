"""How an answer to a question of SQuAD is scored, as the official evaluations do it.

Rajpurkar et al. 2016 (arXiv 1606.05250) and Rajpurkar, Jia and Liang 2018 (arXiv 1806.03822). Scores are shares from 0
to 1, where the papers give them times 100. Where neither the text nor the right answer has a word besides articles, F1
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


class ScoredAnswer(NamedTuple):
    """One score of the model's answer, and the probability that it gives to "there is no answer"."""

    no_answer: float  # 0 to 1
    score: float
    has_answer: bool  # the question
    answered: bool  # the model wrote something


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and surplus white space."""
    return " ".join(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1 where the text is one of the answers, else 0. answers: one at least, "" where the right answer is none."""
    return float(normalized(text) in {normalized(answer) for answer in answers})


def f1(text: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the text's words, for the answer that gives the highest."""
    return max(_f1(normalized(text).split(), normalized(answer).split()) for answer in answers)


def gold_answers(answers: Sequence[str]) -> Sequence[str]:
    """Those that version 2.0 compares with: answers with a word in them, or "" where there are none."""
    return [answer for answer in answers if normalized(answer)] or [""]


def _f1(words: list[str], answer: list[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    common = sum((Counter(words) & Counter(answer)).values())
    return 2 * common / (len(words) + len(answer))


def best_over_thresholds(questions: Sequence[ScoredAnswer]) -> float:
    """The mean score if the model gave no answer wherever `no_answer` is above a threshold, for the best threshold.

    All thresholds are tried on the questions themselves, so this is the best possible number, not the expected one.
    """
    score = float(sum(not question.has_answer for question in questions))  # no answer anywhere
    best = score
    for question in sorted(questions, key=lambda question: question.no_answer):
        score += question.score if question.has_answer else -float(question.answered)
        best = max(best, score)
    return best / len(questions)
