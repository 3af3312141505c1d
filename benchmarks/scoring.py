"""Scores of answers side by side with the packages that define them: milliseconds for an answer, on the same answers.

python benchmarks/scoring.py                                        200 answers of 60 words
python benchmarks/scoring.py --answers 5 --words 10 --rounds 1      a trial

ROUGE-L           ift.evaluation.overlap, torchmetrics, rouge_score
BLEU, chrF        ift.evaluation.ngrams, sacrebleu
word difference   ift.evaluation.overlap, difflib's SequenceMatcher on the same pieces

All run in this process, in turns. INVALID is whose score of an answer is more than 1e-6 from ours.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from side_by_side import ratio, turns

Pair = tuple[str, str]  # response, reference
Measure = Callable[[Sequence[Pair]], list[float]]
APART = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    pairs = make_pairs(a.answers, a.words, a.seed)
    print(f"{a.answers} answers of {a.words} words, {a.rounds} rounds; medians, 95 % intervals\n")
    print("| | ms an answer | ift is faster by | |\n|---|---:|---:|---|")
    for name, measures in contestants().items():
        show(name, *race(measures, pairs, a.rounds))


def make_pairs(answers: int, length: int, seed: int) -> list[Pair]:
    """References of frequent and rare words, and responses that drop, change and add some of them."""
    draw = random.Random(seed)
    common = "the a of to and in is it that for was on are as with they at be this from".split()

    def word() -> str:
        return draw.choice(common) if draw.random() < 0.5 else f"word{int(draw.paretovariate(0.7)) % 5000}"

    pairs = []
    for _ in range(answers):
        reference = [word() for _ in range(length)]
        kept = [each if draw.random() < 0.8 else word() for each in reference if draw.random() < 0.9]
        pairs.append((" ".join(kept).capitalize() + ".", " ".join(reference).capitalize() + "."))
    return pairs


def contestants() -> dict[str, dict[str, Measure]]:
    """By what is measured and by whom; ours is the first."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF
    from torchmetrics.functional.text import rouge_score

    from ift.evaluation import ngrams
    from ift.evaluation.overlap import PIECE, common_words, rouge_l

    google, their_bleu, their_chrf = RougeScorer(["rougeL"]), BLEU(effective_order=True), CHRF()

    def of_counts(place: int, score: Callable[..., float]) -> Measure:
        return lambda pairs: [float(score(ngrams.counted([pair])[place][0])) for pair in pairs]

    def shared(pairs: Sequence[Pair]) -> list[float]:
        cut = ([PIECE.findall(text) for text in pair] for pair in pairs)
        return [float(len(common_words(a, b))) for a, b in cut]

    def difflib(pairs: Sequence[Pair]) -> list[float]:
        cut = ([PIECE.findall(text) for text in pair] for pair in pairs)
        return [
            float(sum(block.size for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()))
            for a, b in cut
        ]

    return {
        "ROUGE-L": {
            "ift": lambda pairs: [rouge_l(*pair) for pair in pairs],
            "torchmetrics": lambda pairs: [
                float(rouge_score(a, b, rouge_keys="rougeL")["rougeL_fmeasure"]) for a, b in pairs
            ],
            "rouge_score": lambda pairs: [google.score(b, a)["rougeL"].fmeasure for a, b in pairs],
        },
        "BLEU": {
            "ift": of_counts(0, ngrams.bleu),
            "sacrebleu": lambda pairs: [their_bleu.sentence_score(a, [b]).score / 100 for a, b in pairs],
        },
        "chrF": {
            "ift": of_counts(1, ngrams.chrf),
            "sacrebleu": lambda pairs: [their_chrf.sentence_score(a, [b]).score / 100 for a, b in pairs],
        },
        "word difference": {"ift": shared, "difflib": difflib},
    }


def race(
    measures: dict[str, Measure], pairs: Sequence[Pair], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each contestant in each round, and what it measured of each answer."""
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    values: dict[str, list[float]] = {}
    for number in range(rounds):
        for name in turns(list(measures), number):
            start = time.perf_counter()
            values[name] = measures[name](pairs)
            seconds[name].append(time.perf_counter() - start)
    return seconds, values


def show(what: str, seconds: dict[str, list[float]], values: dict[str, list[float]]) -> None:
    for name, times in seconds.items():
        ours, theirs = values["ift"], values[name]
        each = 1000 * statistics.median(times) / len(theirs)
        faster, note = "" if name == "ift" else str(ratio(times, seconds["ift"])), ""
        if what == "word difference":
            note = f"shares {sum(theirs) / max(1, sum(ours)):.1%} of the words that ift does"
        elif (apart := max(abs(x - y) for x, y in zip(ours, theirs, strict=True))) > APART:
            faster, note = "", f"**INVALID**: {apart:.2g} from ours"
        print(f"| {what}: {name} | {each:.3f} | {faster} | {note} |", flush=True)


if __name__ == "__main__":
    main()
