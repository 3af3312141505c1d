"""A real model tuned by ift and by transformers' Trainer: the same rows in the same order, template, batch, rate, fp32.

    python benchmarks/real_model.py untuned            --rows FILE            the model as it is
    python benchmarks/real_model.py ift     --seed 1   --rows FILE          goes on where the call before stopped
    python benchmarks/real_model.py trainer --seed 1   --rows FILE
    python benchmarks/real_model.py show                                      what follows from the lines so far

The rows are split by position, 85 % training, 10 % test, 5 % validation, as in chapter 7 of "Build a Large Language
Model (From Scratch)"; two epochs at a constant rate, all weights. Each side keeps the better of its two epochs. Losses
of both are computed here by one function, on transformers; answers are greedy, by ift's engine.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ift import entry
from ift.artifacts.model_template import open_template
from ift.artifacts.model_tokenizer import model_tokenizer
from ift.artifacts.smollm2 import smollm2
from ift.artifacts.weights import find_folder, inspect_folder, load_model
from ift.data.batches import StepSampler, targets_of
from ift.data.contract.prepare import Prepared, prepare
from ift.evaluation.overlap import rouge_l
from ift.evaluation.responses import Answerer
from ift.evaluation.statistics import POSITIVE, UNIT, compare_pairs, mean_interval
from ift.run import RunFolder, read_json, read_jsonl, write_json
from ift.settings import Settings
from ift.text.encoding import made_for, turn_end
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer

ROOT = Path(__file__).parents[1]
EPOCHS, CONTEXT, NEW_TOKENS = 2, 512, 128
RECIPE = [
    "experiment=real", "data.split=positional", "data.duplicates=keep", "data.drop_last=true", "data.batch_size=8",
    f"data.max_length={CONTEXT}", "optim.schedule=constant", "optim.warmup=0", f"trainer.max_epochs={EPOCHS}",
    "trainer.precision=fp32", "trainer.val_every=1.0", "trainer.early_stopping.patience=null",
    f"generate.max_new_tokens={NEW_TOKENS}", "samples.rows=1", "samples.max_new_tokens=1", "logger=none",
]  # fmt: skip
FILES = ("config.json", "*.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


class Work:
    """What all sides have in common."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.output = Path(arguments.output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.model = arguments.model or smollm2()[0]
        self.words = [
            *RECIPE,
            f"model.pretrained={self.model}",
            f"data.path={arguments.rows}",
            f"seed={arguments.seed}",
        ]
        self.settings: Settings = entry.composed("train", self.words, Settings)

    def prepared(self) -> tuple[Template, Tokenizer, Prepared]:
        prompt = self.settings.prompt
        template = open_template(prompt, self.settings.model)
        tokenizer = model_tokenizer(self.settings.model, template)
        template = made_for(template, tokenizer, special_tokens=prompt.special_tokens)
        data = prepare(self.settings.data, template, tokenizer, context_length=CONTEXT, run=None)
        return template, tokenizer, data

    def write(self, line: dict[str, Any]) -> None:
        with (self.output / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print({key: value for key, value in line.items() if not isinstance(value, list)}, flush=True)


def losses(model: Any, examples: Sequence[Any], end_of_text: int) -> tuple[list[float], list[int]]:
    """Of each example the sum of its losses, and over how many tokens. model: transformers', in fp32"""
    sums, counts = [], []
    with torch.inference_mode():
        for example in examples:
            targets = torch.from_numpy(targets_of(example, end_of_text).astype(np.int64))
            logits = model(input_ids=torch.from_numpy(example.ids.astype(np.int64))[None]).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=-100, reduction="sum")
            sums.append(float(loss))
            counts.append(int((targets != -100).sum()))
    return sums, counts


def mean_loss(sums: Sequence[float], counts: Sequence[int]) -> float:
    return sum(sums) / sum(counts)


def loaded(folder: str | Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def measure(work: Work, candidates: Sequence[Path]) -> dict[str, Any]:
    """Test loss and ROUGE-L of the folder with the lowest validation loss."""
    template, tokenizer, data = work.prepared()
    end, best, validation = turn_end(template, tokenizer), candidates[0], float("inf")
    for folder in candidates:
        found = mean_loss(*losses(loaded(folder), data.examples["val"], end))
        if found < validation:
            best, validation = folder, found
    sums, counts = losses(loaded(best), data.examples["test"], end)
    answer = Answerer(template, tokenizer, work.settings.generate, seed=work.settings.seed)
    model = load_model(inspect_folder(best), tokens=tokenizer.vocab_size).eval()
    said = answer(model, data.rows["test"])
    return {
        "val_loss": validation,
        "test_loss": mean_loss(sums, counts),
        "test_losses": [each / count for each, count in zip(sums, counts, strict=True)],
        "rouge_l": [rouge_l(each["response"], each["reference"]) for each in said],
        "rows": {name: len(examples) for name, examples in data.examples.items()},
        "folder": str(best),
    }


def untuned(work: Work) -> None:
    folder = find_folder(work.model, FILES)
    work.write({"side": "untuned", "seed": None, **measure(work, [folder])})


def ift(work: Work) -> None:
    """train.py, stopped in good time; the same command goes on."""
    run = RunFolder(work.output / f"ift-{work.arguments.seed}")
    command = [sys.executable, str(ROOT / "train.py"), *work.words, f"output_dir={run.path}"]
    begun = time.perf_counter()
    if not run.finished:
        with subprocess.Popen(command) as child:
            try:
                code = child.wait(timeout=work.arguments.minutes * 60)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGTERM)
                code = child.wait()
        if code == 75:
            print(f"stopped after {time.perf_counter() - begun:.0f} s (the same command goes on)")
            sys.exit(75)
        if code:
            sys.exit(code)
    summary = read_json(run.summary)
    about = {"minutes": summary["train_seconds"] / 60, "steps": summary["steps"]}
    work.write({"side": "ift", "seed": work.arguments.seed, **measure(work, [run.model]), **about})


def trainer(work: Work) -> None:
    """transformers' Trainer on the tokens of the same rows, in the order that ift sees them."""
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    folder = work.output / f"trainer-{work.arguments.seed}"
    template, tokenizer, data = work.prepared()
    end = turn_end(template, tokenizer)
    examples, batch = data.examples["train"], work.settings.data.batch_size
    order: list[int] = []
    sampler = StepSampler(len(examples), batch_size=batch, seed=work.settings.seed, drop_last=True)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        order += [number for numbers in sampler for number in numbers]
    a_epoch = len(order) // batch // EPOCHS
    optim = work.settings.optim
    deadline = time.monotonic() + work.arguments.minutes * 60

    class InTime(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if time.monotonic() > deadline:
                control.should_save = control.should_training_stop = True

    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, per_device_train_batch_size=batch, num_train_epochs=1,
        learning_rate=optim.lr, lr_scheduler_type="constant", weight_decay=optim.weight_decay, adam_beta1=optim.beta1,
        adam_beta2=optim.beta2, adam_epsilon=optim.eps, max_grad_norm=optim.clip, save_strategy="steps",
        save_steps=a_epoch, logging_steps=10, report_to="none", disable_tqdm=True, seed=work.settings.seed,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    rows = Dataset.from_list([_unshifted(examples[number], end) for number in order])
    collator = partial(padded, pad=end)
    model = loaded(work.model)
    model.train()
    job = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[InTime()])
    clock = folder / "seconds.json"
    before = float(read_json(clock)) if clock.exists() else 0.0
    begun = time.perf_counter()
    job.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    seconds = before + time.perf_counter() - begun
    write_json(clock, seconds)
    steps = int(job.state.global_step)
    if steps < a_epoch * EPOCHS:
        print(f"stopped at step {steps} of {a_epoch * EPOCHS} (the same command goes on)")
        sys.exit(75)
    del job, model
    ends = [folder / f"checkpoint-{a_epoch * (epoch + 1)}" for epoch in range(EPOCHS)]
    about = {"minutes": seconds / 60, "steps": steps}
    work.write({"side": "trainer", "seed": work.arguments.seed, **measure(work, ends), **about})


def _unshifted(example: Any, end_of_text: int) -> dict[str, list[int]]:
    """As transformers wants a row: its end is one of its tokens, and labels stand below what they are of."""
    ids, targets = example.ids.tolist(), targets_of(example, end_of_text).tolist()
    if example.ends:
        return {"input_ids": [*ids, end_of_text], "labels": [-100, *targets]}
    return {"input_ids": ids, "labels": [-100, *targets[:-1]]}


def padded(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """A batch as a collator of transformers makes it: padded on the right, with a mask."""
    width = max(len(row["input_ids"]) for row in rows)

    def block(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*row[key], *[fill] * (width - len(row[key]))] for row in rows])

    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    mask = (torch.arange(width) < lengths).long()
    return {"input_ids": block("input_ids", pad), "labels": block("labels", -100), "attention_mask": mask}


def show(output: Path) -> list[str]:
    """Losses seed by seed, and what the paired tests say; the last line of a side and a seed counts."""
    found = {(line["side"], line["seed"]): line for line in read_jsonl(output / "results.jsonl")}
    before = found.get(("untuned", None))
    lines = []
    for (side, seed), line in sorted(found.items(), key=str):
        rouge = mean_interval(line["rouge_l"], UNIT)
        took = f", {line['minutes']:.1f} minutes" if "minutes" in line else ""
        lines.append(
            f"{side:<8} {'' if seed is None else f'seed {seed}':<7} test loss {line['test_loss']:.4f}, validation loss "
            f"{line['val_loss']:.4f}, ROUGE-L {rouge.mean:.3f} ({rouge.low:.3f} to {rouge.high:.3f}){took}"
        )
    for (side, seed), line in sorted(found.items(), key=str):
        if side == "untuned":
            continue
        if before:
            lines.append(
                f"{side} seed {seed} against untuned, ROUGE-L: {_tested(before['rouge_l'], line['rouge_l'], UNIT)}"
            )
        other = found.get(("trainer", seed))
        if side == "ift" and other:
            ratio = line["test_loss"] / other["test_loss"]
            lines.append(f"ift against trainer, seed {seed}: test loss {ratio:.4f} times theirs")
            lines.append(f"  by row: {_tested(other['test_losses'], line['test_losses'], POSITIVE)}")
            lines.append(f"  ROUGE-L: {_tested(other['rouge_l'], line['rouge_l'], UNIT)}")
    return lines


def _tested(first: Sequence[float], second: Sequence[float], scale: Any) -> str:
    test = compare_pairs(first, second, scale)
    ends = f" ({test.low:+.4f} to {test.high:+.4f})" if test.has_interval else ""
    return f"{test.difference:+.4f}{ends}, p = {test.p:.2g}, n = {test.n}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("side", choices=("untuned", "ift", "trainer", "show"))
    parser.add_argument("--rows", help="a file of rows")
    parser.add_argument("--model", help="a folder (SmolLM2-135M-Instruct)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training in this call (8)")
    parser.add_argument("--output", default="results/real_model")
    arguments = parser.parse_args()
    if arguments.side == "show":
        print(*show(Path(arguments.output)), sep="\n")
        return
    if not arguments.rows:
        parser.error("--rows FILE: which rows?")
    {"untuned": untuned, "ift": ift, "trainer": trainer}[arguments.side](Work(arguments))


if __name__ == "__main__":
    main()
