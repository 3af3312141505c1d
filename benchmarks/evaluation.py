"""lm-evaluation-harness over our adapter and over its own, side by side: requests per second on the same requests.

python benchmarks/evaluation.py                                    a random GPT-2 small, fp32
python benchmarks/evaluation.py --layers 2 --width 64 --heads 2 --questions 8 --texts 8 --rounds 1      a trial

letters          questions with four choices, a letter each: one token after a context
letters, 5-shot  the same after five solved ones
choices          questions with four answers of several tokens
texts            generations of at most 48 tokens, to the end of a line

ift             ift.evaluation.harness.adapter with the batch size of conf/eval/keys.yaml
HFLM, batch N   the harness's own adapter (lm_eval --model hf) over the exported model, for each N

Both run in this process on the same weights and strings, in turns. INVALID is whose log-likelihoods are more than 1e-3
from those of HFLM one by one, whose greedy flags differ, or who writes other texts; a text may turn off at a tie.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import ratio, threads, turns

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

APART = 1e-3  # of a log-likelihood, in fp32
EQUAL = 0.9  # share of the texts that must be the same
NEW_TOKENS = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="of HFLM (%(default)s)")
    parser.add_argument("--only", nargs="+", help="workloads, by their first word with what follows a comma")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokenizer", default="gpt2", help="gpt2, or demo: 2,049 tokens, nothing to fetch")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    adapters = make_adapters(a)
    workloads = {name: w for name, w in make_workloads(a).items() if a.only is None or name in a.only}
    print(
        f"{a.questions} questions, {a.texts} texts, {a.layers} layers of {a.width}, fp32, {threads()} threads, "
        f"{a.rounds} rounds; medians, 95 % intervals\n"
    )
    print("| | requests | requests/s | ift is faster by | |\n|---|---:|---:|---:|---|")
    for name, (kind, arguments) in workloads.items():
        show(name, len(arguments), *race(adapters, kind, arguments, a.rounds))


def make_adapters(a: argparse.Namespace) -> dict[str, Any]:
    """By the name of the contestant, over one random model. The first is ours, the second HFLM one by one."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from omegaconf import OmegaConf

    from ift.artifacts.model_folder import save_model_folder
    from ift.data.vocabulary import load_tokenizer
    from ift.evaluation.harness.adapter import IftLM
    from ift.evaluation.subject import Subject
    from ift.model.config import GPTConfig
    from ift.model.gpt import GPT
    from ift.text.templates import Segment, Template

    torch.manual_seed(a.seed)
    template = Template("plain", (Segment("{instruction}\n{input}\n"), Segment("{output}", supervised=True)))
    tokenizer = load_tokenizer(a.tokenizer, template)
    model = GPT(GPTConfig(tokenizer.vocab_size, 1024, n_layer=a.layers, n_head=a.heads, n_embd=a.width))
    with torch.no_grad():  # so that texts wander through the vocabulary
        for name, parameter in model.named_parameters():
            if name.startswith("h.") and parameter.dim() == 2:
                parameter *= 4
    keys = OmegaConf.load(Path(__file__).parents[1] / "conf" / "eval" / "keys.yaml")
    ours = IftLM(Subject("tuned", model, tokenizer, None), prompt="raw", batch_size=keys.generate.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        save_model_folder(Path(folder) / "model", model, tokenizer, template)
        first = HFLM(f"{folder}/model", device="cpu", dtype="float32", batch_size=1)
    others = {f"HFLM, batch {n}": HFLM(first.model, tokenizer=first.tokenizer, batch_size=n) for n in a.batches}
    return {"ift": ours, "HFLM, one by one": first, **{n: o for n, o in others.items() if n != "HFLM, batch 1"}}


def make_workloads(a: argparse.Namespace) -> dict[str, tuple[str, list[tuple[Any, ...]]]]:
    """Kind of request and the arguments of each, out of the demo's rows."""
    from ift.data.demo import demo_rows

    rows = demo_rows(max(200, 5 * a.questions), seed=a.seed)

    def question(number: int) -> str:
        row, others = rows[number], [rows[(number + step) % len(rows)]["output"] for step in range(4)]
        choices = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", others, strict=True))
        return f"{row['instruction']} {row['input']}".strip() + f"{choices}\nAnswer:"

    asked = [question(number) for number in range(a.questions)]
    solved = "".join(f"{question(len(rows) - number - 1)} {'ABCD'[number % 4]}\n\n" for number in range(5))
    letters = [(text, f" {letter}") for text in asked for letter in "ABCD"]
    choices = [
        (text, f" {rows[(number + step) % len(rows)]['output']}")
        for number, text in enumerate(asked)
        for step in range(4)
    ]
    write = {"until": ["\n"], "max_gen_toks": NEW_TOKENS}
    return {
        "letters": ("loglikelihood", letters),
        "letters, 5-shot": ("loglikelihood", [(solved + text, letter) for text, letter in letters]),
        "choices": ("loglikelihood", choices),
        "texts": ("generate_until", [(rows[-number - 1]["instruction"] + "\n", write) for number in range(a.texts)]),
    }


def race(
    adapters: dict[str, Any], kind: str, arguments: list[tuple[Any, ...]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each contestant in each round, and why it does not count."""
    from lm_eval.api.instance import Instance

    seconds: dict[str, list[float]] = {name: [] for name in adapters}
    answers: dict[str, list[Any]] = {}
    for number in range(rounds):
        for name in turns(list(adapters), number):
            requests = [Instance(kind, {}, argument, 0) for argument in arguments]
            ask: Callable[..., list[Any]] = getattr(adapters[name], kind)
            start = time.perf_counter()
            answers[name] = ask(requests, disable_tqdm=True)
            seconds[name].append(time.perf_counter() - start)
    expected = answers["HFLM, one by one"]
    reasons = {name: differs(kind, found, expected) for name, found in answers.items()}
    return seconds, {name: reason for name, reason in reasons.items() if reason}


def differs(kind: str, found: list[Any], expected: list[Any]) -> str:
    if kind == "generate_until":
        same = sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
        return "" if same >= EQUAL else f"{same:.0%} of its texts are those of the reference"
    apart = max(abs(a[0] - b[0]) for a, b in zip(found, expected, strict=True))
    flags = sum(a[1] != b[1] for a, b in zip(found, expected, strict=True))
    return "" if apart <= APART and not flags else f"log-likelihoods {apart:.2g} apart, {flags} flags differ"


def show(workload: str, requests: int, seconds: dict[str, list[float]], reasons: dict[str, str]) -> None:
    for name, times in seconds.items():
        if name in reasons:
            print(f"| {workload}: {name} | {requests:,} | | | **INVALID**: {reasons[name]} |", flush=True)
            continue
        rate = requests / statistics.median(times)
        faster = "" if "ift" in reasons else str(ratio(times, seconds["ift"]))
        print(f"| {workload}: {name} | {requests:,} | {rate:,.1f} | {faster} | |", flush=True)


if __name__ == "__main__":
    main()
