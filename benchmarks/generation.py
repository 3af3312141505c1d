"""Greedy answers of `ift` beside those of others: the same weights and prompts, generated tokens per second.

python benchmarks/generation.py --rows FILE                    bf16, GPT-2 small, 110 test prompts, 256 new tokens
python benchmarks/generation.py --rows FILE --precision fp32
python benchmarks/generation.py --rows FILE --model FOLDER     a model of another family, with its own tokenizer
python benchmarks/generation.py --layers 2 --width 64 --heads 2 --prompts 20 --new-tokens 16 --rounds 1      a trial

Weights are random, the matrices of the blocks large enough that answers wander through the vocabulary. First no
token ends an answer, so every row runs to the length. Then a token does that most answers of `ift` come to say, some
early and some late, so rows end as differently as real ones do; in bf16 two programs wander apart, so the rows that end
are not the same ones, only as many.

ift                ift.generation.engine.generate, with the batch size of conf/train.yaml
HF, batch N        transformers' generate, prompts sorted by length; N is the fastest of a few, found first
HF, one by one     transformers' generate, a sample of the prompts
llms-from-scratch  the package's own loop: no cache, fp32, one by one, a sample of the prompts

Rounds are added, up to --most, until the interval of each ratio of whole
answers is narrower than 15 %. A sample is another part of the prompts each round, spread over their lengths; its rate
is taken for that of all.
Before anything is timed all answer a few prompts in fp32. INVALID is whose tokens are not those of transformers one by
one; a single answer may turn off at a tie.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from side_by_side import (
    CACHE,
    Column,
    Contestant,
    Lines,
    Outcome,
    plot,
    python_of,
    refuse,
    run,
    settled,
    table,
    threads,
    turns,
)

BATCHES = (8, 16, 32, 64, 110)  # of transformers, the best of which is compared with
EQUAL = 0.9  # share of tokens that must be the same in fp32
CHECKED = 8  # prompts of that comparison
ENDING = 0.7  # share of the answers that are to end before their length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="a file of instructions (generated ones)")
    parser.add_argument("--model", type=Path, help="a folder of weights and tokenizer (a fresh GPT-2)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=5, help="at least (%(default)s)")
    parser.add_argument("--most", type=int, default=10, metavar="ROUNDS", help="at most (%(default)s)")
    parser.add_argument("--prompts", type=int, default=110)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="of transformers; the best one stays")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument(
        "--sample", type=int, default=4, help="prompts a round of transformers one by one (%(default)s)"
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--scale", type=float, default=4.0, help="of the blocks' fresh matrices (%(default)s)")
    parser.add_argument("--tokenizer", default="gpt2", help="gpt2, or demo: 2,049 tokens, nothing to fetch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1200, help="seconds that a process may take")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where peers are installed (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/generation"))
    Race(parser.parse_args()).run()


class Race:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.began = arguments, time.monotonic()
        self.lines = Lines(arguments.output / "results.jsonl")
        self.pythons = {name: python_of(name, arguments.cache) for name in (None, "trl")}
        if not arguments.model:
            self.pythons["llms-from-scratch"] = python_of("llms-from-scratch", arguments.cache)
        self.job: dict[str, Any] = {"precision": arguments.precision, "round": 0}
        self.questions: list[list[int]] = []

    def run(self) -> None:
        from plan import make_plan

        a = self.arguments
        with tempfile.TemporaryDirectory() as folder:
            workload = Path(folder) / "workload"
            sizes = {"n_layer": a.layers, "n_head": a.heads, "n_embd": a.width, "context_length": 1024}
            plan = make_plan(
                workload,
                rows=a.rows,
                tokenizer=a.tokenizer,
                sizes=sizes,
                model=a.model,
                batch_size=8,
                warmup=0,
                steps=1,
                rounds=1,
                lr=1e-3,
                seed=a.seed,
                scale=a.scale,
            )
            self.job["workload"] = str(workload)
            self.questions = plan["questions"]
            fitting = [i for i, q in enumerate(self.questions) if len(q) + a.new_tokens <= sizes["context_length"]]
            prompts = fitting[: a.prompts]
            self.say(f"{len(prompts)} prompts of {sum(len(self.questions[i]) for i in prompts):,} tokens")
            batch = self.best_batch(prompts)
            best = Contestant(f"HF, batch {batch}", "hugging_face.py", "trl", {"batch": batch}, "its best batch size")
            contestants = [
                Contestant("ift", "ours.py"),
                best,
                Contestant(
                    "HF, one by one",
                    "hugging_face.py",
                    "trl",
                    {"batch": 1, "sample": a.sample},
                    "a sample of the prompts",
                ),
            ]
            if not a.model:
                contestants.append(
                    Contestant(
                        "llms-from-scratch",
                        "from_scratch.py",
                        "llms-from-scratch",
                        {"sample": 1},
                        "its own loop without a cache, fp32, a sample of the prompts",
                        precision="fp32",
                    )
                )
            self.what = f"{plan['family']}, {plan['n_layer']} layers of {plan['n_embd']}"
            equal = self.check(contestants, prompts)
            whole, first = self.race(contestants, prompts, None, equal)
            end, early = ending_token(first)
            note = f"token {end} ends an answer; in ift's, {early:.0%} of them"
            names = {"ift": "ift, rows end", best.name: f"{best.name}, rows end"}
            ending = [dataclasses.replace(c, name=names[c.name], note=note) for c in contestants[:2]]
            ended, _ = self.race(ending, prompts, end, {names[name]: equal[name] for name in names})
            self.finish(contestants, whole, ending, ended, equal)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    def answer(
        self, contestant: Contestant, prompts: list[int], *, new_tokens: int, end: int | None, **job: Any
    ) -> Outcome:
        options = {"prompts": prompts, "new_tokens": new_tokens, "end": end}
        return run(
            contestant,
            {**self.job, **job, "options": options},
            python=self.pythons[contestant.environment],
            timeout=self.arguments.timeout,
        )

    def best_batch(self, prompts: list[int]) -> int:
        """On a quarter of the new tokens."""
        rates: dict[int, float] = {}
        for batch in sorted({min(batch, len(prompts)) for batch in self.arguments.batches}):
            contestant = Contestant(f"HF, batch {batch}", "hugging_face.py", "trl", {"batch": batch})
            outcome = self.answer(contestant, prompts, new_tokens=max(1, self.arguments.new_tokens // 4), end=None)
            self.lines.add("batch", {"batch": batch, **numbers(outcome)})
            if not outcome.invalid:
                rates[batch] = rate(outcome.values)
            self.say(f"{contestant.name}: {outcome.invalid or f'{rates[batch]:,.0f} tokens/s'}")
        return max(rates, key=lambda batch: rates[batch]) if rates else self.arguments.batches[0]

    def check(self, contestants: list[Contestant], prompts: list[int]) -> dict[str, float | str]:
        """Share of each one's tokens in fp32 that are those of transformers one by one, or why there are none."""
        some = spread(prompts, CHECKED, 0, self.questions)
        new_tokens = min(32, self.arguments.new_tokens)
        answers = {c.name: self.answer(c, some, new_tokens=new_tokens, end=None, precision="fp32") for c in contestants}
        expected = answers["HF, one by one"]
        equal: dict[str, float | str] = {}
        for name, outcome in answers.items():
            wrong = outcome.invalid or expected.invalid
            equal[name] = wrong or equal_share(outcome.values["ids"], expected.values["ids"])
            self.say(f"{name}: {equal[name] if wrong else f'{equal[name]:.1%}'} of {CHECKED * new_tokens} tokens equal")
        self.lines.add("equal", {"share": equal})
        return equal

    def race(
        self, contestants: list[Contestant], prompts: list[int], end: int | None, equal: dict[str, float | str]
    ) -> tuple[list[Outcome], list[list[int]]]:
        """All outcomes, and the first answers of the first contestant."""
        outcomes: list[Outcome] = []
        first: list[list[int]] = []
        least = self.arguments.rounds
        for number in range(max(least, self.arguments.most) if least > 1 else 1):  # one round is a trial
            running = [c for c in contestants if c.name not in refuse(outcomes)]
            for contestant in turns(running, number):
                sample = contestant.options.get("sample")
                asked = spread(prompts, sample, number, self.questions) if sample else prompts
                outcome = self.answer(contestant, asked, new_tokens=self.arguments.new_tokens, end=end, round=number)
                share = equal[contestant.name]
                if isinstance(share, str):
                    outcome.invalid = outcome.invalid or share
                elif share < EQUAL:
                    outcome.invalid = outcome.invalid or f"{share:.1%} of its fp32 tokens are those of the reference"
                if not outcome.invalid and contestant.name.startswith("ift") and not first:
                    first = outcome.values["ids"]
                self.lines.add("outcome", numbers(outcome))
                outcomes.append(outcome)
                self.say(f"round {number + 1}  {contestant.name:<24} {shown(outcome)}")
            ours, *others = (c.name for c in contestants if "sample" not in c.options)
            if number + 1 >= least and settled(outcomes, ours, others, rate):
                break
        return outcomes, first

    def finish(
        self,
        contestants: list[Contestant],
        whole: list[Outcome],
        ending: list[Contestant],
        ended: list[Outcome],
        equal: dict[str, float | str],
    ) -> None:
        a = self.arguments
        text = [
            f"{a.rows.name if a.rows else 'generated rows'}, {a.prompts} prompts, {a.new_tokens} new tokens, "
            f"{self.what}, {a.precision}, {threads()} threads, {1 + max(o.round for o in whole)} rounds; medians, "
            "95 % intervals\n",
            table(contestants, whole, COLUMNS, rate=rate, ours="ift"),
            table(ending, ended, COLUMNS, rate=rate, ours=ending[0].name),
            "Tokens equal to those of transformers one by one, in fp32: "
            + ", ".join(
                f"{name} {share if isinstance(share, str) else f'{share:.1%}'}" for name, share in equal.items()
            ),
            f"{(time.monotonic() - self.began) / 60:.1f} minutes in all",
        ]
        report = "\n".join(text)
        (a.output / "table.md").write_text(report + "\n")
        plot(
            [*contestants, *ending],
            [*whole, *ended],
            a.output / "plot.png",
            rate=rate,
            title=f"Greedy answers of {self.what}, {a.precision}, {threads()} CPU threads",
            label="generated tokens per second",
        )
        print(f"\n{report}\n{a.output}/table.md, plot.png, results.jsonl")


def spread(prompts: list[int], count: int, number: int, questions: list[list[int]]) -> list[int]:
    """So many of the prompts, evenly over their lengths, others in each round."""
    by_length = sorted(prompts, key=lambda i: len(questions[i]))
    count = min(count, len(by_length))
    return [by_length[int(((k + 0.5 + 0.37 * number) % count) * len(by_length) / count)] for k in range(count)]


def ending_token(answers: list[list[int]]) -> tuple[int, float]:
    """The token that about ENDING of the answers come to say, and how many do."""
    said = Counter(token for ids in answers for token in set(ids))
    if not said:
        return 0, 0.0
    token = min(said, key=lambda token: (abs(said[token] / len(answers) - ENDING), token))
    return token, said[token] / len(answers)


def equal_share(found: list[list[int]], expected: list[list[int]]) -> float:
    """Share of the expected tokens that stand in the same place."""
    pairs = list(zip(found, expected, strict=True))
    same = sum(a == b for ids, wanted in pairs for a, b in zip(ids, wanted, strict=False))
    return same / max(1, sum(len(wanted) for _, wanted in pairs))


def generated(values: dict[str, Any]) -> int:
    return sum(len(ids) for ids in values["ids"])


def rate(values: dict[str, Any]) -> float:
    return generated(values) / values["seconds"]


def numbers(outcome: Outcome) -> dict[str, Any]:
    """An outcome without its answers."""
    values = {key: value for key, value in outcome.values.items() if key != "ids"}
    if "ids" in outcome.values:
        values |= {"answers": len(outcome.values["ids"]), "tokens": generated(outcome.values)}
    return {"contestant": outcome.contestant, "round": outcome.round, "invalid": outcome.invalid, **values}


def shown(outcome: Outcome) -> str:
    if outcome.invalid:
        return f"INVALID: {outcome.invalid}"
    tokens, seconds = generated(outcome.values), outcome.values["seconds"]
    return f"{tokens / seconds:8,.1f} tokens/s ({tokens:,} in {seconds:.1f} s)"


def after_first(values: dict[str, Any]) -> float | None:
    """Of the tokens behind each answer's first, without the time that prompts and first tokens take."""
    seconds = values["seconds"] - values["first"]
    return (generated(values) - len(values["ids"])) / seconds if seconds > 0 else None


COLUMNS = [
    Column("tokens/s", rate, "{:,.1f}"),
    Column("prompts", lambda v: len(v["ids"])),
    Column("tokens", generated),
    Column("s", lambda v: v["seconds"], "{:.1f}"),
    Column("s for one token each", lambda v: v["first"], "{:.1f}"),
    Column("tokens/s after it", after_first, "{:,.1f}"),
    Column("peak GB", lambda v: v["peak_bytes"] / 1e9, "{:.2f}"),
]


if __name__ == "__main__":
    sys.exit(main())
