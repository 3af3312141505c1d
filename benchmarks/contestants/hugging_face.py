"""transformers' Trainer, TRL's SFTTrainer and transformers' generate on the same weights and tokens.

Labels go in unshifted, with the end-of-text as a token of the row, as these libraries want them: a row of n positions
elsewhere has n + 1 here. The order of rows is the plan's (train_sampling_strategy="sequential").
"""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from workload import IGNORE_INDEX, Job

PACK = 1024  # tokens of a packed row, TRL's own max_length


class Laps(TrainerCallback):
    def __init__(self, job: Job):
        self.job = job

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.job.step_done()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "loss" in logs:
            self.job.losses.append(float(logs["loss"]))
            self.job.norms.append(float(logs["grad_norm"]))


def main() -> None:
    job = Job()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    disable_progress_bars()
    model = AutoModelForCausalLM.from_pretrained(job.workload.model, dtype=torch.float32)
    if job.job["logits"]:
        job.compare_logits(lambda ids: model.eval()(ids).logits)
    elif "new_tokens" in job.options:
        answer(job, model)
    else:
        train(job, model)


def arguments(job: Job, kind: type, steps: int, **more: Any) -> Any:
    """What is the same for both trainers; all else is their default unless the contestant says otherwise."""
    optim = job.optim
    given = {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "bf16": job.precision == "bf16",
        "per_device_train_batch_size": job.workload.plan["batch_size"],
        "max_steps": steps,
        "learning_rate": optim["lr"],
        "lr_scheduler_type": "constant",
        "weight_decay": optim["weight_decay"],
        "adam_beta1": optim["betas"][0],
        "adam_beta2": optim["betas"][1],
        "adam_epsilon": optim["eps"],
        "max_grad_norm": optim["clip"],
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return kind(**given | more)


def train(job: Job, model: Any) -> None:
    rows = [job.workload.whole(i) for step in job.steps for i in step]
    table = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]})
    tokenizer = AutoTokenizer.from_pretrained(job.workload.model)
    tokenizer.pad_token = tokenizer.eos_token
    steps = len(job.steps)
    per_step = 1  # micro-batches in an optimizer step
    if job.options["trainer"] == "transformers":
        table = table.add_column("attention_mask", [[1] * len(ids) for ids, _ in rows])
        collator = DataCollatorForSeq2Seq(tokenizer)
        trainer = Trainer(model, arguments(job, TrainingArguments, steps), collator, table)
    else:
        from trl import SFTConfig, SFTTrainer, pack_dataset

        more: dict[str, Any] = dict(job.options["config"])
        if more.get("packing"):
            pool = [job.workload.whole(i) for i in job.workload.plan["train"]]
            columns = {"input_ids": [ids for ids, _ in pool], "labels": [labels for _, labels in pool]}
            packs = pack_dataset(Dataset.from_dict(columns), PACK, "bfd").shuffle(seed=job.job["round"])
            per_step = more["gradient_accumulation_steps"]
            table = packs.select(range(min(len(packs), steps * per_step)))
        config = arguments(job, SFTConfig, steps, **more, dataset_kwargs={"skip_prepare_dataset": True})
        adapter = None
        if rank := job.options.get("rank"):
            from peft import LoraConfig

            adapter = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=32, target_modules="all-linear")
        trainer = SFTTrainer(model, config, train_dataset=table, processing_class=tokenizer, peft_config=adapter)
    computed, useful, supervised, examples = [], [], [], []
    collate = trainer.data_collator

    def counting(features: list[Any]) -> Any:
        batch = collate(features)
        ids, labels = batch["input_ids"], batch["labels"]
        count = int((batch["position_ids"] == 0).sum()) if "position_ids" in batch else len(ids)
        tokens = int(batch["attention_mask"].sum()) if "attention_mask" in batch else ids.numel()
        computed.append(ids.numel())
        useful.append(tokens - count)  # an end-of-text a row is no position elsewhere
        supervised.append(int((labels != IGNORE_INDEX).sum()))
        examples.append(count)
        return batch

    trainer.data_collator = counting
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Laps(job))
    trainer.train()

    def by_step(values: list[int]) -> list[int]:
        return [sum(values[at : at + per_step]) for at in range(0, steps * per_step, per_step)]

    job.finish(
        computed=by_step(computed),
        useful=by_step(useful),
        supervised=by_step(supervised),
        examples=by_step(examples),
    )
    if job.job["save"]:
        from safetensors.torch import save_file

        state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
        save_file(state, job.job["save"])


def answer(job: Job, model: Any) -> None:
    """Prompts sorted by length, in batches padded on the left; nothing stops a row but `end` and the length."""
    options = job.options
    model = model.to(job.dtype).eval()
    questions = job.questions()
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
    # the configuration's own end-of-text goes, unless it is asked for
    model.generation_config.eos_token_id = options["end"]
    pad = job.workload.end_of_text
    end = options["end"]  # a finished row is filled up with padding

    @torch.inference_mode()
    def answers(new_tokens: int) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for at in range(0, len(order), options["batch"]):
            part = order[at : at + options["batch"]]
            length = max(len(questions[i]) for i in part)
            ids = torch.tensor([[pad] * (length - len(questions[i])) + questions[i] for i in part])
            mask = torch.tensor([[0] * (length - len(questions[i])) + [1] * len(questions[i]) for i in part])
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=pad,
            )
            found |= dict(zip(part, out[:, length:].tolist(), strict=True))
        whole = [found[i] for i in range(len(questions))]
        return [ids[: ids.index(end)] if end in ids else ids for ids in whole]

    job.answer(answers)


if __name__ == "__main__":
    main()
