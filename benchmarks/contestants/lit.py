"""LitGPT's full fine-tuning at the nearest shape that it has, pythia-160m: rotary positions, an untied head of 50,304
rows, attention and MLP side by side. Not GPT-2, so its loss is not compared; its arithmetic is the same in size but for
the head's weights, which are updated besides the embedding's.

The loop is that of litgpt.finetune.full: Fabric, chunked_cross_entropy after the whole logits, AdamW in its plain form.
"""

from __future__ import annotations

import lightning as L
import torch
from litgpt.model import GPT, Config
from litgpt.utils import chunked_cross_entropy
from workload import Job, decay_groups

PRECISION = {"bf16": "bf16-mixed", "fp32": "32-true"}


def main() -> None:
    job = Job()
    plan, optim = job.workload.plan, job.optim
    shape = {"n_layer": plan["n_layer"], "n_head": plan["n_head"], "n_embd": plan["n_embd"]}
    fabric = L.Fabric(accelerator="cpu", devices=1, precision=PRECISION[job.precision])
    with fabric.init_module():
        model = GPT(Config.from_name("pythia-160m", **shape, intermediate_size=4 * plan["n_embd"]))
    model = fabric.setup(model)
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
