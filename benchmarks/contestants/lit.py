"""LitGPT's full fine-tuning. Instead of GPT-2, which it has not, its nearest shape, pythia-160m: rotary positions, an
untied head of 50,304 rows, attention and MLP side by side. Its loss is then not compared; its arithmetic is the same in
size but for the head's weights, which are updated besides the embedding's. Llama's form it has itself, with the weights
of the workload and an untied head too.

The loop is that of litgpt.finetune.full: Fabric, chunked_cross_entropy after the whole logits, AdamW in its plain form.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from litgpt.model import GPT, Config
from litgpt.utils import chunked_cross_entropy
from workload import Job, decay_groups

PRECISION = {"bf16": "bf16-mixed", "fp32": "32-true"}


def main() -> None:
    job = Job()
    fabric = L.Fabric(accelerator="cpu", devices=1, precision=PRECISION[job.precision])
    with fabric.init_module():
        model = GPT(config_of(job))
    if job.workload.plan["family"] != "gpt2":
        load(model, job)
    if job.job["logits"]:
        job.compare_logits(model.eval())
    else:
        train(job, fabric, model)


def config_of(job: Job) -> Config:
    plan = job.workload.plan
    shape = {"n_layer": plan["n_layer"], "n_head": plan["n_head"], "n_embd": plan["n_embd"]}
    if plan["family"] == "gpt2":
        return Config.from_name("pythia-160m", **shape, intermediate_size=4 * plan["n_embd"])
    stored = job.config()
    return Config(
        **shape,
        n_query_groups=plan["n_kv_head"],
        head_size=plan["head_dim"],
        intermediate_size=plan["mlp_dim"],
        vocab_size=plan["vocab_size"],
        padded_vocab_size=plan["vocab_size"],
        block_size=plan["context_length"],
        rotary_percentage=1.0,
        rope_base=stored.get("rope_theta", 10000),
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=stored["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
    )


def load(model: GPT, job: Job) -> None:
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    copy_weights_hf_llama(model.config, {}, state, load_file(job.workload.model / "model.safetensors"))
    model.load_state_dict(state)


def train(job: Job, fabric: L.Fabric, model: Any) -> None:
    optim = job.optim
    model = fabric.setup(model.train())
    groups = decay_groups(model, optim["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=optim["lr"], betas=optim["betas"], eps=optim["eps"])
    optimizer = fabric.setup_optimizers(optimizer)
    computed = []
    for rows in job.steps:
        count, loss_of_step = 0, 0.0
        micro = job.options["micro_batch"]
        parts = [rows[at : at + micro] for at in range(0, len(rows), micro)]
        for place, part in enumerate(parts):
            whole = [job.workload.whole(i) for i in part]
            length = max(len(ids) for ids, _ in whole)
            input_ids = torch.tensor([ids + [job.workload.end_of_text] * (length - len(ids)) for ids, _ in whole])
            labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in whole])
            with fabric.no_backward_sync(model, enabled=place + 1 < len(parts)):
                logits = model(input_ids)
                loss = chunked_cross_entropy(logits[..., :-1, :], labels[..., 1:])
                fabric.backward(loss / len(parts))
            loss_of_step += loss.item() / len(parts)
            count += input_ids.numel()
        fabric.clip_gradients(model, optimizer, max_norm=optim["clip"])
        optimizer.step()
        optimizer.zero_grad()
        job.step_done(loss_of_step)
        computed.append(count)
    job.finish(computed=computed)


if __name__ == "__main__":
    main()
