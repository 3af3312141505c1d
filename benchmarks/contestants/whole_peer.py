"""transformers' Trainer or TRL's SFTTrainer from start to end, on the rows of benchmarks/whole_command.py.

The prompt is Alpaca's, the loss is on the response and its end alone, as ours is.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
BOTH = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    began = float(job["started"])
    import torch
    import transformers
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    options: dict[str, Any] = job["options"]
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
    first: list[float] = []

    class First(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            first.append(time.monotonic() - began)

    rows = {name: json.loads(Path(options[name]).read_text()) for name in ("train", "val")}
    is_trl = options["trainer"] == "trl"
    made = {name: Dataset.from_list([example(row, tokenizer, is_trl) for row in part]) for name, part in rows.items()}
    trainer = (sft if is_trl else plain)(job, model, tokenizer, made)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(First())
    trainer.train()
    trainer.save_model(f"{options['output']}/model")
    tokenizer.save_pretrained(f"{options['output']}/model")
    losses = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("RESULT", json.dumps({"val_loss": min(losses), "first_step": first[0], "memory": memory}))


def example(row: dict[str, str], tokenizer: Any, is_trl: bool) -> dict[str, Any]:
    given = row.get("input") or ""
    text = f"{BOTH if given else BELOW}\n\n### Instruction:\n{row['instruction']}"
    text += (f"\n\n### Input:\n{given}" if given else "") + "\n\n### Response:\n"
    if is_trl:
        return {"prompt": text, "completion": row["output"]}
    prompt = tokenizer(text)["input_ids"]
    answer = [*tokenizer(row["output"])["input_ids"], tokenizer.eos_token_id]
    ids = [*prompt, *answer]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [*[-100] * len(prompt), *answer]}


def arguments(job: dict[str, Any], kind: type, **more: Any) -> Any:
    """What both are told; all else is their default."""
    options = job["options"]
    return kind(
        output_dir=options["output"],
        use_cpu=True,
        bf16=job["precision"] == "bf16",
        per_device_train_batch_size=options["batch"],
        per_device_eval_batch_size=options["batch"],
        num_train_epochs=options["epochs"],
        learning_rate=options["lr"],
        eval_strategy="steps",
        eval_steps=options["every"],
        save_strategy="steps",
        save_steps=options["every"],
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def plain(job: dict[str, Any], model: Any, tokenizer: Any, rows: dict[str, Any]) -> Any:
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    told = arguments(job, TrainingArguments, train_sampling_strategy="group_by_length")
    return Trainer(model, told, DataCollatorForSeq2Seq(tokenizer), rows["train"], rows["val"])


def sft(job: dict[str, Any], model: Any, tokenizer: Any, rows: dict[str, Any]) -> Any:
    from trl import SFTConfig, SFTTrainer

    told = arguments(job, SFTConfig)
    return SFTTrainer(model, told, train_dataset=rows["train"], eval_dataset=rows["val"], processing_class=tokenizer)


if __name__ == "__main__":
    main()
