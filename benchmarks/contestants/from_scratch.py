"""The package of the book "Build a Large Language Model (From Scratch)", as it comes: its GPTModel and its loop.

The loop is that of its train_model_simple, with its calc_loss_batch: fp32, AdamW in its plain form, the head on every
position. Changed so that the work is the same, each in the package's favour or neutral: the head is tied to the
embedding (the package unties it, and so updates 38 million weights more), the evaluation after every fifth step is left
out, targets of the prompt are -100 (its collate function makes only padding so), the gradient is clipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from llms_from_scratch.ch04 import GPTModel
from llms_from_scratch.ch05 import calc_loss_batch, generate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from workload import Job, decay_groups


def load(job: Job) -> GPTModel:
    folder = job.workload.model
    config = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size": "vocab_size", "context_length": "n_positions", "emb_dim": "n_embd", "n_heads": "n_head"}
    values = {theirs: config[name] for theirs, name in (sizes | {"n_layers": "n_layer"}).items()}
    model = GPTModel({**values, "drop_rate": 0.0, "qkv_bias": True})
    model.out_head.weight = model.tok_emb.weight
    with torch.no_grad():
        for parameter, stored in _pairs(model, load_file(folder / "model.safetensors")):
            parameter.copy_(stored)
    return model


def save(model: GPTModel, job: Job) -> None:
    tensors = load_file(job.workload.model / "model.safetensors")
    for parameter, stored in _pairs(model, tensors):
        stored.copy_(parameter.detach())
    save_file(tensors, job.job["save"])


def _pairs(model: GPTModel, tensors: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter and the view of the stored tensor that it is: there Linears are transposed, q, k and v are one."""

    def linear(module: nn.Linear, name: str, part: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        yield module.weight, tensors[f"transformer.{name}.weight"][:, part].t()
        yield module.bias, tensors[f"transformer.{name}.bias"][part]

    yield model.tok_emb.weight, tensors["transformer.wte.weight"]
    yield model.pos_emb.weight, tensors["transformer.wpe.weight"]
    norms = [(model.final_norm, "ln_f")]
    for layer, block in enumerate(model.trf_blocks):
        C = block.att.d_out
        for place, module in enumerate((block.att.W_query, block.att.W_key, block.att.W_value)):
            yield from linear(module, f"h.{layer}.attn.c_attn", slice(place * C, place * C + C))
        yield from linear(block.att.out_proj, f"h.{layer}.attn.c_proj")
        yield from linear(block.ff.layers[0], f"h.{layer}.mlp.c_fc")
        yield from linear(block.ff.layers[2], f"h.{layer}.mlp.c_proj")
        norms += [(block.norm1, f"h.{layer}.ln_1"), (block.norm2, f"h.{layer}.ln_2")]
    for norm, name in norms:
        yield norm.scale, tensors[f"transformer.{name}.weight"]
        yield norm.shift, tensors[f"transformer.{name}.bias"]


def train(job: Job, model: GPTModel) -> None:
    optim = job.optim
    optimizer = torch.optim.AdamW(
        decay_groups(model, optim["weight_decay"]), lr=optim["lr"], betas=optim["betas"], eps=optim["eps"]
    )
    computed = []
    model.train()
    for rows in job.steps:
        input_batch, target_batch = job.workload.padded(rows)
        optimizer.zero_grad()
        loss = calc_loss_batch(input_batch, target_batch, model, "cpu")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
        optimizer.step()
        job.step_done(loss.item(), norm.item())
        computed.append(input_batch.numel())
    job.finish(computed=computed)
    if job.job["save"]:
        save(model, job)


def answer(job: Job, model: GPTModel) -> None:
    """Its `generate`: one prompt at a time, everything computed again for each token."""
    model.eval()

    def answers(new_tokens: int) -> list[list[int]]:
        ids = []
        for question in job.questions():
            context, end = job.workload.plan["context_length"], job.options["end"]
            out = generate(model, torch.tensor([question]), new_tokens, context, eos_id=end)
            ids.append(out[0, len(question) :].tolist())
        return ids

    job.answer(answers)


def main() -> None:
    job = Job()
    model = load(job)
    if job.job["logits"]:
        model.eval()
        job.compare_logits(model)
    elif "new_tokens" in job.options:
        answer(job, model)
    else:
        train(job, model)


if __name__ == "__main__":
    main()
