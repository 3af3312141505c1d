"""Training steps of `ift` beside those of others: the same weights, tokens, rows in each step and optimizer.

python benchmarks/training.py --rows FILE                    bf16, GPT-2 small, five rounds
python benchmarks/training.py --rows FILE --precision fp32
python benchmarks/training.py --rows FILE --model FOLDER     a model of another family, with its own tokenizer
python benchmarks/training.py --list                         who there is
python benchmarks/training.py --only "ift" "TRL"             some of them
python benchmarks/training.py --overhead                     Lightning's part: the same module in a bare loop
python benchmarks/training.py --rows FILE --adapters         LoRA of rank 16 beside all weights and TRL with PEFT
python benchmarks/training.py --scaling                      time and memory of train.py from 1,000 to 16,000 rows
python benchmarks/training.py --layers 2 --width 64 --heads 2 --rounds 1     a trial of the machinery

Without --rows: generated ones. Peers are installed on first use, each into an environment of its own in --cache.
Before anything is timed all must agree on the logits of four prompts. Then each round gives every contestant, in a
fresh process, the next few steps; the first ones warm up. Rows that are nobody's best leave after --side-rounds.
Rounds are added, up to --most, until the interval of each ratio is narrower than 15 %.
A row is INVALID if in any round its first step's loss or gradient norm is not that of a plain fp32 reference, or if its
validation loss after the steps of the first round is not (with --model the validation loss is left out).
What each row means is at the contestants below; --output gets results.jsonl, table.md and plot.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from side_by_side import (
    CACHE,
    Column,
    Contestant,
    Gate,
    Lines,
    Outcome,
    best_of,
    compare,
    environment,
    plot,
    python_of,
    refuse,
    run,
    settled,
    slope,
    table,
    threads,
    turns,
)

ROOT = Path(__file__).parents[1]
SFT = {"trainer": "trl"}
NO_CHECKPOINTS = {"gradient_checkpointing": False}
PACKED = NO_CHECKPOINTS | {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
CONTESTANTS = [
    Contestant("ift", "ours.py"),
    Contestant(
        "ift, padded",
        "ours.py",
        options={"overrides": ["data.batching=padded"]},
        note="our own plain reference",
        side=True,
    ),
    Contestant("bare loop", "bare.py", note="nanoGPT's way: padded, head everywhere, fused AdamW", side=True),
    Contestant(
        "llms-from-scratch",
        "from_scratch.py",
        "llms-from-scratch",
        precision="fp32",
        note="as it comes, fp32; head tied and no evaluation, in its favour",
    ),
    Contestant("Trainer", "hugging_face.py", "trl", {"trainer": "transformers"}, "as it comes, padded"),
    Contestant(
        "Trainer, by length",
        "hugging_face.py",
        "trl",
        {"trainer": "transformers", "order": "grouped"},
        "its best: other rows in a step, sorted by length",
        side=True,
    ),
    Contestant("TRL", "hugging_face.py", "trl", SFT | {"config": {}}, "as it comes: padded, gradient checkpointing"),
    Contestant(
        "TRL, padded", "hugging_face.py", "trl", SFT | {"config": NO_CHECKPOINTS}, "without checkpointing", side=True
    ),
    Contestant(
        "TRL, by length",
        "hugging_face.py",
        "trl",
        SFT | {"config": NO_CHECKPOINTS, "order": "grouped"},
        "other rows in a step, sorted by length",
        side=True,
    ),
    Contestant(
        "TRL, padding-free",
        "hugging_face.py",
        "trl",
        SFT | {"config": NO_CHECKPOINTS | {"padding_free": True, "max_length": None}},
        "the rows of a step as one",
        side=True,
    ),
    Contestant(
        "TRL, packed",
        "hugging_face.py",
        "trl",
        SFT | {"config": PACKED, "gates": "packed"},
        "other rows in a step, 2 x 1,024 tokens: validation loss alone is compared, loosely",
        side=True,
    ),
    Contestant(
        "LitGPT",
        "lit.py",
        "litgpt",
        {"micro_batch": 1, "gates": "none"},
        "pythia-160m, not GPT-2: no loss is compared; micro-batch 1 as it comes",
    ),
    Contestant(
        "LitGPT, batch 8",
        "lit.py",
        "litgpt",
        {"micro_batch": 8, "gates": "none"},
        "pythia-160m; padded, one micro-batch",
        side=True,
    ),
    Contestant("torchtune", "tune.py", "torchtune", note="as it comes: padded, checkpointing, weights in bf16 alone"),
    Contestant(
        "torchtune, no checkpointing",
        "tune.py",
        "torchtune",
        {"checkpointing": False},
        "weights in bf16 alone",
        side=True,
    ),
]
GPT2_ONLY = ("bare.py", "from_scratch.py", "tune.py")
LITGPT = {  # what is different about it where it has the model itself
    "LitGPT": "the same weights, its head untied: logits are compared; micro-batch 1 as it comes",
    "LitGPT, batch 8": "padded, one micro-batch",
}
OVERHEAD = [
    Contestant("ift, bare loop", "ours.py", options={"bare": True}, note="the same module without Lightning's Trainer"),
    Contestant("ift", "ours.py", note="L.Trainer around it"),
]
LORA = {"rank": 16, "gates": "logits"}  # on all matrices of the blocks, alpha 32
ADAPTERS = [
    Contestant("ift", "ours.py", note="all weights"),
    Contestant("ift, LoRA", "ours.py", options={"overrides": ["adapter=lora"], "gates": "logits"}),
    Contestant("TRL, LoRA", "hugging_face.py", "peft", SFT | LORA | {"config": {}}, "as it comes, with PEFT"),
    Contestant("TRL, LoRA, padded", "hugging_face.py", "peft", SFT | LORA | {"config": NO_CHECKPOINTS}, side=True),
    Contestant(
        "TRL, LoRA, padding-free",
        "hugging_face.py",
        "peft",
        SFT | LORA | {"config": NO_CHECKPOINTS | {"padding_free": True, "max_length": None}},
        "the rows of a step as one",
        side=True,
    ),
]
LOGITS, LOGITS_OF_MODEL = 1e-3, 1e-4  # fp32, at the last position of four prompts; the second with --model
GATES = {
    "fp32": (Gate("first loss", 1e-3), Gate("first gradient norm", 1e-3, relative=True)),
    "bf16": (Gate("first loss", 1e-2), Gate("first gradient norm", 2e-2, relative=True)),
}
VALIDATION = Gate("validation loss", 0.01)
PACKED_VALIDATION = Gate("validation loss", 0.25)  # other rows in each step: that it learns as fast, no more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="a file of instructions (generated ones)")
    parser.add_argument("--model", type=Path, help="a folder of weights and tokenizer (a fresh GPT-2)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=5, help="at least (%(default)s)")
    parser.add_argument("--most", type=int, default=10, metavar="ROUNDS", help="at most (%(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a process (%(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them (%(default)s)")
    parser.add_argument(
        "--side-rounds", type=int, default=2, help="rounds of rows that are nobody's best (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--adapters", action="store_true")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--tokenizer", default="gpt2", help="gpt2, or demo: 2,049 tokens, nothing to fetch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a process may take")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where peers are installed (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/training"))
    arguments = parser.parse_args()
    if arguments.list:
        for contestant in CONTESTANTS:
            print(f"{contestant.name:<20} {contestant.note}")
    elif arguments.scaling:
        scaling(arguments)
    else:
        race(arguments)


def race(arguments: argparse.Namespace) -> None:
    most = max(arguments.rounds, arguments.most) if arguments.rounds > 1 else 1  # one round is a trial
    named = OVERHEAD if arguments.overhead else ADAPTERS if arguments.adapters else None
    contestants = named or chosen(arguments.only, arguments.model)
    lines = Lines(arguments.output / "results.jsonl")
    began = time.monotonic()
    pythons = {c.name: python_of(c.environment, arguments.cache) for c in contestants}
    with tempfile.TemporaryDirectory() as temporary:
        from plan import make_plan

        workload = Path(temporary) / "workload"
        sizes = {"n_layer": arguments.layers, "n_head": arguments.heads, "n_embd": arguments.width}
        plan = make_plan(
            workload,
            rows=arguments.rows,
            tokenizer=arguments.tokenizer,
            sizes=sizes | {"context_length": arguments.context},
            model=arguments.model,
            batch_size=arguments.batch_size,
            warmup=arguments.warmup,
            steps=arguments.steps,
            rounds=most,
            lr=arguments.lr,
            seed=arguments.seed,
        )
        say(f"plan: {len(plan['train']):,} rows; padded batches are {plan['padding']:.0%} tokens", began)
        job = {"workload": str(workload), "precision": arguments.precision, "round": 0}
        reference = check(contestants, pythons, job, plan, arguments, began)
        lines.add("reference", reference)
        outcomes: list[Outcome] = []
        ceilings: list[dict[str, Any]] = []
        for number in range(most):
            running = contestants if number < arguments.side_rounds else still_in(contestants, outcomes)
            running = [c for c in running if c.name not in refuse(outcomes)]  # one bad round is enough
            for contestant in turns(running, number):
                saved = Path(temporary) / f"{contestants.index(contestant)}.safetensors"
                kept = str(saved) if number == 0 and reference["validation"] and compares(contestant) else None
                this = {**job, "round": number, "save": kept}
                outcome = run(contestant, this, python=pythons[contestant.name], timeout=arguments.timeout)
                complete(outcome, contestant, workload, plan, arguments.warmup)
                outcome.invalid = (
                    outcome.invalid
                    or reference["disagree"].get(contestant.name)
                    or first_step_gate(outcome, contestant, arguments.precision, reference)
                )
                outcomes.append(outcome)
                lines.add("outcome", dataclasses.asdict(outcome))
                say(f"round {number + 1}  {contestant.name:<20} {shown(outcome)}", began)
                if contestant.name == "ift" and not arguments.overhead:
                    ceilings.append(measure_ceilings(outcome, job, number, workload, plan, arguments))
                    lines.add("ceilings", ceilings[-1])
            if number == 0 and reference["validation"]:
                validation_gates(contestants, outcomes, Path(temporary), job, reference, lines)
            others = [c.name for c in running if c.name != "ift"]
            if number + 1 >= arguments.rounds and settled(outcomes, "ift", others, useful):
                break
    finish(arguments, contestants, outcomes, ceilings, plan, reference, began)


def still_in(contestants: list[Contestant], outcomes: list[Outcome]) -> list[Contestant]:
    """Who runs on after the side rows have left: of TRL's, Trainer's and LitGPT's configurations the best one."""
    best = best_of(rivals(contestants), outcomes, useful)
    return [c for c in contestants if not c.side or c.name == best]


def rivals(contestants: list[Contestant]) -> list[str]:
    """LitGPT where it has the model itself."""
    same = [c for c in contestants if gates_of(c) != "none"]
    return [c.name for c in same if c.name.startswith(("TRL", "Trainer", "LitGPT"))]


def chosen(only: list[str] | None, model: Path | None = None) -> list[Contestant]:
    known = CONTESTANTS
    if model:
        known = [
            dataclasses.replace(c, note=LITGPT[c.name], options=c.options | {"gates": "logits"})
            if c.name in LITGPT
            else c
            for c in known
            if c.script not in GPT2_ONLY
        ]
    unknown = sorted(set(only or []) - {c.name for c in known})
    if unknown:
        raise SystemExit(f"{unknown[0]}: no such contestant (--list shows them)")
    return [c for c in known if not only or c.name in only]


def gates_of(contestant: Contestant) -> str:
    """all; packed: no first step to compare, validation loss loosely; logits: no loss at all; none: another model."""
    return str(contestant.options.get("gates", "all"))


def compares(contestant: Contestant) -> bool:
    """Whether its validation loss is that of the reference."""
    return gates_of(contestant) in ("all", "packed")


def say(text: str, began: float) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)


# -- gates ------------------------------------------------------------------------------------------------------------


def check(
    contestants: list[Contestant],
    pythons: dict[str, str],
    job: dict[str, Any],
    plan: dict[str, Any],
    arguments: argparse.Namespace,
    began: float,
) -> dict[str, Any]:
    """The reference's losses and norms, and under "disagree" who has other logits than it: before anything is timed."""
    import numpy as np

    orders = sorted({c.options.get("order", "plain") for c in contestants if gates_of(c) == "all"} | {"plain"})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.npy"
        referee = Contestant("reference", "reference.py", "trl", {"what": "reference", "orders": orders})
        python = python_of("trl", arguments.cache) if arguments.model else sys.executable
        done = run(referee, {**job, "precision": "fp32", "logits": str(file)}, python=python, timeout=1800)
        if done.invalid:
            raise SystemExit(f"the reference failed: {done.invalid}")
        say("reference: losses and gradient norms in fp32", began)
        expected = np.load(file)
        reference = {"validation": {}, **done.values, "disagree": {}}
        limit = LOGITS_OF_MODEL if arguments.model else LOGITS
        agreed: dict[str, str | None] = {}
        for contestant in contestants:
            if gates_of(contestant) == "none":
                continue
            if contestant.script not in agreed:  # one network a script, however it is trained
                file = Path(folder) / f"{len(agreed)}.npy"
                seen = run(contestant, {**job, "logits": str(file)}, python=pythons[contestant.name], timeout=600)
                apart = math.nan if seen.invalid else float(np.abs(np.load(file) - expected).max())
                say(f"logits of {contestant.script}: at most {apart:.1e} from the reference's", began)
                wrong = None if apart <= limit else f"logits {apart:.2g} apart from the reference's"
                agreed[contestant.script] = seen.invalid or wrong
            if agreed[contestant.script]:
                reference["disagree"][contestant.name] = agreed[contestant.script]
    return reference


def first_step_gate(outcome: Outcome, contestant: Contestant, precision: str, reference: dict[str, Any]) -> str | None:
    """Why the first step is not the reference's, or None."""
    if gates_of(contestant) != "all":
        return None
    expected = reference["first"][outcome.round][contestant.options.get("order", "plain")]
    found = [(outcome.values.get(key) or [math.nan])[0] for key in ("losses", "norms")]
    for gate, value, key in zip(GATES[contestant.precision or precision], found, ("loss", "norm"), strict=True):
        if reason := gate.broken_by(value, expected[key]):
            return reason
    return None


def validation_gates(
    contestants: list[Contestant],
    outcomes: list[Outcome],
    folder: Path,
    job: dict[str, Any],
    reference: dict[str, Any],
    lines: Lines,
) -> None:
    """One evaluator on the weights that each saved after the first round; outcomes that fail are marked."""
    files = {c.name: folder / f"{place}.safetensors" for place, c in enumerate(contestants)}
    files = {name: file for name, file in files.items() if file.exists()}
    options = {"what": "validation", "files": {name: str(file) for name, file in files.items()}}
    judge = Contestant("validation", "reference.py", options=options)
    done = run(judge, {**job, "precision": "fp32"}, python=sys.executable, timeout=1800)
    lines.add("validation", dataclasses.asdict(done))
    for outcome in outcomes:
        contestant = next(c for c in contestants if c.name == outcome.contestant)
        if not compares(contestant) or outcome.invalid:
            continue
        gate = VALIDATION if gates_of(contestant) == "all" else PACKED_VALIDATION
        outcome.values["validation"] = done.values.get(contestant.name, math.nan)
        expected = reference["validation"][contestant.options.get("order", "plain")]
        outcome.invalid = done.invalid or gate.broken_by(outcome.values["validation"], expected)
    for file in files.values():
        file.unlink()


# -- figures ----------------------------------------------------------------------------------------------------------


def complete(outcome: Outcome, contestant: Contestant, workload: Path, plan: dict[str, Any], warmup: int) -> None:
    """Add what follows from the plan: rows and tokens of each step, and their products; warm-up steps are left out."""
    values = outcome.values
    if "seconds" not in values:
        return
    steps = plan["rounds"][outcome.round][contestant.options.get("order", "plain")]
    if gates_of(contestant) != "packed":
        work = workload_in(workload)
        values["examples"] = [len(step) for step in steps]
        values["useful"] = [work.useful(step) for step in steps]
        values["supervised"] = [work.supervised(step) for step in steps]
    values["warmup"] = warmup
    timed = {key: sum(values[key][warmup:]) for key in ("seconds", "examples", "useful", "supervised", "computed")}
    values["rate"] = {key: timed[key] / timed["seconds"] for key in timed if key != "seconds"}
    values["step"] = statistics.median(values["seconds"][warmup:])
    values["flops"] = step_flops(plan, timed["useful"], timed["supervised"]) / timed["seconds"]
    values["to_loss"] = sum(values["seconds"]) if gates_of(contestant) == "all" else None


@cache
def workload_in(folder: Path) -> Any:
    from contestants.workload import Workload  # imports torch

    return Workload(folder)


def step_flops(plan: dict[str, Any], useful: float, supervised: float) -> float:
    """What a step needs: the blocks at every token, the head at supervised ones; attention, 1 % of it, is left out."""
    block = sum(o * i for o, i in plan["matrices"])
    return 6 * (plan["n_layer"] * block * useful + plan["n_embd"] * plan["vocab_size"] * supervised)


def measure_ceilings(
    outcome: Outcome, job: dict[str, Any], number: int, workload: Path, plan: dict[str, Any], arguments: Any
) -> dict[str, Any]:
    """Peaks, and the products of our step alone, beside the process of `ift` in the same round."""
    valid = not outcome.invalid
    work = workload_in(workload)
    rows = plan["rounds"][number]["plain"][arguments.warmup :] if valid else []
    options = {
        "attended": outcome.values["attended"][arguments.warmup :] if valid else [],
        "computed": outcome.values["computed"][arguments.warmup :] if valid else [],
        "supervised": [work.supervised(step) for step in rows],
    }
    ceiling = Contestant("ceilings", "ceilings.py", options=options)
    done = run(ceiling, {**job, "round": number}, python=sys.executable, timeout=arguments.timeout)
    if done.invalid or not valid:
        return {"round": number, "invalid": done.invalid or "ift is invalid", **done.values}
    seconds = sum(outcome.values["seconds"][arguments.warmup :])
    products = sum(done.values["products"])
    return {
        "round": number,
        **done.values,
        "share_of_products": products / seconds,
        "products_flops": sum(done.values["flops"]) / products,
        "share_of_peak": outcome.values["flops"] / done.values["peaks"][arguments.precision],
    }


def shown(outcome: Outcome) -> str:
    if outcome.invalid:
        return f"INVALID: {outcome.invalid}"
    v = outcome.values
    return (
        f"{v['rate']['useful']:8,.0f} useful tokens/s, {v['step']:.2f} s a step, first step after {v['start_up']:.1f} s"
    )


def useful(values: dict[str, Any]) -> float:
    return float(values["rate"]["useful"])


COLUMNS = [
    Column("rows/s", lambda v: v["rate"]["examples"], "{:,.2f}"),
    Column("useful tokens/s", useful),
    Column("supervised/s", lambda v: v["rate"]["supervised"]),
    Column("computed/s", lambda v: v["rate"]["computed"]),
    Column("s a step", lambda v: v["step"], "{:.2f}"),
    Column("needed GFLOP/s", lambda v: v["flops"] / 1e9),
    Column("peak GB", lambda v: v["peak_bytes"] / 1e9, "{:.2f}"),
    Column("start-up s", lambda v: v["start_up"], "{:.1f}"),
    Column("s to the loss", lambda v: v["to_loss"], "{:.1f}"),
]


def finish(
    arguments: argparse.Namespace,
    contestants: list[Contestant],
    outcomes: list[Outcome],
    ceilings: list[dict[str, Any]],
    plan: dict[str, Any],
    reference: dict[str, Any],
    began: float,
) -> None:
    ours = "ift, bare loop" if arguments.overhead else "ift"
    text = [
        f"{arguments.rows.name if arguments.rows else 'generated rows'}, {what_of(plan)}, "
        f"batch {arguments.batch_size}, {arguments.precision}, {threads()} threads, "
        f"{1 + max(o.round for o in outcomes)} rounds of {arguments.warmup} + {arguments.steps} steps; "
        "medians, 95 % intervals\n",
        table(contestants, outcomes, COLUMNS, rate=useful, ours=ours),
        *validation_lines(reference["validation"], plan),
        f"Padded batches of these rows are {plan['padding']:.0%} tokens.",
        *(overhead_lines(outcomes) if arguments.overhead else ceiling_lines(ceilings, arguments.precision)),
        *bar_lines(contestants, outcomes, ours),
        f"{(time.monotonic() - began) / 60:.1f} minutes in all",
    ]
    report = "\n".join(text)
    (arguments.output / "table.md").write_text(report + "\n")
    title = f"Fine-tuning {what_of(plan)}, {arguments.precision}, {threads()} CPU threads"
    plot(
        contestants, outcomes, arguments.output / "plot.png", rate=useful, title=title, label="useful tokens per second"
    )
    print(f"\n{report}\n{arguments.output}/table.md, plot.png, results.jsonl")


def what_of(plan: dict[str, Any]) -> str:
    return f"{plan['family']}, {plan['n_layer']} layers of {plan['n_embd']}"


def validation_lines(validation: dict[str, float], plan: dict[str, Any]) -> list[str]:
    if not validation:
        return []
    return [
        f"The loss is {validation['plain']:.4f} on {len(plan['val'])} validation rows, from "
        f"{validation['start']:.4f}: where the steps of a round lead in fp32; seconds to it are from the start of the "
        "process."
    ]


def ceiling_lines(ceilings: list[dict[str, Any]], precision: str) -> list[str]:
    valid = [c for c in ceilings if not c.get("invalid")]
    if not valid:
        return ["Ceilings: not measured (" + "; ".join(sorted({c["invalid"] for c in ceilings}) or ["no ift"]) + ")"]

    def median(value: Any) -> float:
        return statistics.median(value(c) for c in valid)

    return [
        f"Matrix products at best: {median(lambda c: c['peaks']['fp32']) / 1e9:,.0f} GFLOP/s fp32, "
        f"{median(lambda c: c['peaks']['bf16']) / 1e9:,.0f} bf16. ift does what its step needs at "
        f"{median(lambda c: c['share_of_peak']):.0%} of the {precision} one; the products of its step alone run at "
        f"{median(lambda c: c['products_flops']) / 1e9:,.0f} and take {median(lambda c: c['share_of_products']):.0%} "
        "of its time."
    ]


def overhead_lines(outcomes: list[Outcome]) -> list[str]:
    """In milliseconds too: they are the same for a tiny model, whose steps are short enough to tell."""
    if refuse(outcomes):
        return []
    steps: dict[str, list[float]] = {c.name: [] for c in OVERHEAD}
    for outcome in sorted(outcomes, key=lambda o: o.round):
        steps[outcome.contestant].append(outcome.values["step"])
    bare, whole = steps.values()
    added = statistics.median(w - b for w, b in zip(whole, bare, strict=True))
    return [f"Lightning's Trainer adds {1000 * added:.1f} ms to a step of {1000 * statistics.median(bare):.1f} ms"]


def bar_lines(contestants: list[Contestant], outcomes: list[Outcome], ours: str) -> list[str]:
    """The ratios that are asked for most: as each peer comes, and the best of what two of them can do."""
    names = [c.name for c in contestants]
    found = []
    for name in ("llms-from-scratch", "TRL"):
        if name in names and (faster := compare(outcomes, ours, name, useful)):
            found.append(f"{ours} over {name} as it comes: {faster}")
    best = best_of(rivals(contestants), outcomes, useful)
    if "LitGPT" in names and (faster := compare(outcomes, ours, "LitGPT", useful)):
        found.append(f"{ours} over LitGPT as it comes: {faster}")
    if best and (faster := compare(outcomes, ours, best, useful)):
        found.append(f"{ours} over the best of TRL, Trainer and LitGPT ({best}): {faster}")
    memory = compare(outcomes, "TRL", ours, lambda v: 1 / v["peak_bytes"]) if {"TRL", ours} <= set(names) else None
    if memory:
        found.append(f"peak memory of {ours} over that of TRL: {memory}")
    return found


# -- growth -----------------------------------------------------------------------------------------------------------


def scaling(arguments: argparse.Namespace) -> None:
    """train.py itself on a tiny model: one epoch, validated and saved every 125 steps on 50 rows, nothing answered.

    (Ten validations of a share of the rows, the default, cost as many saves at every size: then 1,000 rows look slow.)
    """
    from ift.data.demo import demo_rows

    sizes = (1000, 2000, 4000, 8000, 16000)
    tiny = [
        *("model.n_layer=2", "model.n_head=2", "model.n_embd=64", "data=json", "data.split=random"),
        *("data.batch_size=8", "trainer.max_epochs=1", "trainer.val_every=125"),
        *("trainer.early_stopping.patience=null", "samples.rows=0", "logger=none"),
    ]
    lines = Lines(arguments.output / "scaling.jsonl")
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            (Path(folder) / f"{size}.json").write_text(json.dumps(demo_rows(size)))
        for number, size in [(n, size) for n in range(arguments.rounds) for size in turns(sizes, n)]:
            output = Path(folder) / f"run-{size}-{number}"
            share = 50 / size
            split = f"data.fractions={{train:{1 - share},test:0,val:{share}}}"
            given = [split, f"data.path={folder}/{size}.json", f"data.cache_dir={output}/cache", f"output_dir={output}"]
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, str(ROOT / "train.py"), *tiny, *given],
                env=environment(own=True),
                capture_output=True,
                text=True,
                timeout=arguments.timeout,
            )
            if done.returncode:
                raise SystemExit(f"{size} rows: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
            summary = json.loads((output / "summary.json").read_text())
            figures = {
                "train": summary["train_seconds"],
                "all": time.monotonic() - began,
                "peak": summary["peak_memory_bytes"],
            }
            found[size].append(figures)
            lines.add("run", {"rows": size, "round": number, **figures})
            print(f"{size:6,} rows: {figures['train']:.1f} s of training, {figures['all']:.1f} s in all", flush=True)
    report = ["| rows | training s | all s | peak GB |", "|---:|---:|---:|---:|"]
    middle = {
        size: {key: statistics.median(f[key] for f in runs) for key in ("train", "all", "peak")}
        for size, runs in found.items()
    }
    for size, m in middle.items():
        report.append(f"| {size:,} | {m['train']:.2f} | {m['all']:.2f} | {m['peak'] / 1e9:.3f} |")
    grown = slope(sizes, [middle[size]["train"] for size in sizes])
    memory = middle[sizes[-1]]["peak"] / middle[sizes[0]]["peak"]
    report.append(f"\nslope of log training time over log rows {grown:.3f}; peak memory grows by {memory:.3f}")
    (arguments.output / "scaling.md").write_text("\n".join(report) + "\n")
    print("\n" + "\n".join(report))


if __name__ == "__main__":
    main()
