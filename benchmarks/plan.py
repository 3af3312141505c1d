"""The work that all contestants do, made once by `ift`'s own code: tokens, weights, and the rows of every step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from contestants.ours import settings_of

POOL = 50  # batches that are sorted by length together, as transformers' group_by_length does it
VALIDATION = 16  # rows
AGREE = 4  # prompts on whose logits all must agree


def make_plan(
    folder: Path,
    *,
    rows: Path | None,
    tokenizer: str,
    sizes: dict[str, int],
    model: Path | None = None,
    batch_size: int,
    warmup: int,
    steps: int,
    rounds: int,
    lr: float,
    seed: int,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Write rows.npz, plan.json and model/ into the folder; return the plan.

    rows            a file of instructions, or None for generated ones
    sizes           n_layer, n_head, n_embd and context_length of a fresh GPT-2
    model           a folder of weights of any family, with its tokenizer, instead of a fresh GPT-2
    warmup, steps   optimizer steps of a round, of which the first are not timed; each round takes the next ones of the
                    order, so that rounds differ in their rows
    scale           of the blocks' fresh matrices: more than 1 gives greedy answers that are not one token for ever
    """
    import torch

    from ift.artifacts.model_tokenizer import model_tokenizer
    from ift.artifacts.weights import build_model, plan_model, save_weights
    from ift.data.batches import StepSampler
    from ift.data.contract.prepare import prepare
    from ift.text.chat_templates import template_from
    from ift.text.encoding import encode_prompt

    context = sizes["context_length"]
    fresh = ["model=gpt2-small", "model.pretrained=null", f"model.tokenizer={tokenizer}"]
    fresh += [f"model.{key}={value}" for key, value in sizes.items()]
    overrides = [
        *(fresh if model is None else ["model=pretrained", f"model.pretrained='{model.resolve()}'"]),
        "prompt=alpaca",
        *(["data=demo", "data.demo_rows=4000"] if rows is None else ["data=json", f"data.path='{rows.resolve()}'"]),
        f"data.max_length={context - 1}",  # peers keep the end-of-text in the row: theirs are one longer
        f"data.batch_size={batch_size}",
        f"optim.lr={lr}",
        "optim.schedule=constant",
        "optim.warmup=0",
        "trainer.accumulate=1",
        f"seed={seed}",
        f"data.split_seed={seed}",
    ]
    settings = settings_of(overrides)
    template = template_from(settings.prompt)
    encoding = model_tokenizer(settings.model, template)
    data = prepare(settings.data, template, encoding, context_length=context)
    examples = {name: list(data.examples[name]) for name in ("train", "val")}
    kept = [*examples["train"], *examples["val"]]
    train, val = list(range(len(examples["train"]))), list(range(len(examples["train"]), len(kept)))

    config, _ = plan_model(settings.model, vocab_size=encoding.vocab_size)
    if model is None:
        torch.manual_seed(seed)
        network = build_model(config, None)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith("h.") and parameter.dim() == 2:
                    parameter.mul_(scale)
        (folder / "model").mkdir(parents=True)
        save_weights(network, folder / "model", end_of_text=encoding.end_of_text)
        encoding.save(folder / "model", context_length=context)
    else:
        shutil.copytree(model, folder / "model")
    np.savez(
        folder / "rows.npz",
        ids=np.concatenate([e.ids for e in kept]),
        supervised=np.concatenate([e.supervised for e in kept]),
        starts=np.cumsum([0, *(e.tokens for e in kept)]),
        ends=np.array([e.ends for e in kept]),
    )

    sampler = StepSampler(len(train), batch_size=batch_size, seed=seed, drop_last=True)
    each = warmup + steps
    epochs = -(-rounds * each // sampler.steps)
    order: list[list[int]] = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order += list(sampler)
    lengths = [e.tokens for e in kept]
    questions = [encode_prompt(row, template, encoding) for row in data.rows["test"]]
    plan = {
        "end_of_text": encoding.end_of_text,
        "family": config.family,
        "vocab_size": config.vocab_size,
        "context_length": context,
        **{key: getattr(config, key) for key in ("n_layer", "n_head", "n_kv_head", "head_dim", "n_embd", "mlp_dim")},
        # (out, in) of a block's matrices: what its products are
        "matrices": [s for name, s in config.shapes().items() if name.startswith("h.0.") and len(s) == 2],
        "batch_size": batch_size,
        "overrides": overrides,
        "optim": {
            "lr": lr,
            "betas": [settings.optim.beta1, settings.optim.beta2],
            "eps": 1e-8,
            "weight_decay": settings.optim.weight_decay,
            "clip": settings.optim.clip,
        },
        "rounds": [
            {
                "plain": order[number * each : (number + 1) * each],
                "grouped": grouped(order, lengths, warmup, steps, number),
            }
            for number in range(rounds)
        ],
        "train": train,
        "val": val[:VALIDATION],
        "prompts": questions[:AGREE],
        "questions": questions,
        "padding": padding(order, lengths),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    return plan


def grouped(order: list[list[int]], lengths: list[int], warmup: int, steps: int, number: int) -> list[list[int]]:
    """Steps as sorting by length makes them: POOL batches sorted together, and of the sorted ones evenly spaced ones.

    A round of a few steps cannot take what sorting gives first (the longest), since it would stand for nothing else.
    Batches of middle length warm up.
    """
    begin = number * POOL % max(1, len(order) - POOL + 1)
    pool = sorted((i for step in order[begin : begin + POOL] for i in step), key=lambda i: -lengths[i])
    size = len(order[0])
    batches = [pool[at : at + size] for at in range(0, len(pool), size)]
    shift = (0.5 + 0.37 * number) % 1  # other lengths each round
    places = [int((k + shift) * len(batches) / steps) for k in range(steps)]
    return [batches[(len(batches) // 2 + k) % len(batches)] for k in range(warmup)] + [batches[k] for k in places]


def padding(order: list[list[int]], lengths: list[int]) -> float:
    """Share of the positions of padded batches that are tokens, over all the steps."""
    useful = sum(lengths[i] for step in order for i in step)
    return useful / sum(len(step) * max(lengths[i] for i in step) for step in order)
