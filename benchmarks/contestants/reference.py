"""What contestants are checked against, in fp32 and untimed: logits, the first step of every round, validation loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bare import BareGPT
from torch import nn
from workload import Job, Workload, decay_groups, say


def first_step(model: BareGPT, workload: Workload, rows: list[int]) -> dict[str, float]:
    ids, targets = workload.padded(rows)
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    model.zero_grad()
    return {"loss": loss.item(), "norm": norm.item()}


@torch.no_grad()
def validation_loss(model: BareGPT, workload: Workload) -> float:
    """Mean over the supervised tokens of the validation rows."""
    total, count = 0.0, 0
    rows = sorted(workload.plan["val"], key=lambda i: len(workload.row(i)[0]))
    for start in range(0, len(rows), 4):
        ids, targets = workload.padded(rows[start : start + 4])
        total += F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += workload.supervised(rows[start : start + 4])
    return total / count


def train(model: BareGPT, job: Job, steps: list[list[int]]) -> None:
    optim = job.optim
    optimizer = torch.optim.AdamW(
        decay_groups(model, optim["weight_decay"]), lr=optim["lr"], betas=optim["betas"], eps=optim["eps"], fused=True
    )
    for rows in steps:
        ids, targets = job.workload.padded(rows)
        F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    job = Job()
    workload, rounds = job.workload, job.workload.plan["rounds"]
    model = BareGPT(workload.model)
    if job.options["what"] == "validation":  # of weights that contestants saved
        losses = {}
        for name, file in job.options["files"].items():
            model.load(Path(file))
            losses[name] = validation_loss(model, workload)
        return say(losses)
    with torch.no_grad():
        np.save(job.job["logits"], torch.stack([model(ids)[0, -1] for ids in job.prompts()]).numpy())
    orders = job.options["orders"]
    first = [{order: first_step(model, workload, steps[order][0]) for order in orders} for steps in rounds]
    validation = {"start": validation_loss(model, workload)}
    for order in orders:
        model.load(workload.model / "model.safetensors")
        train(model, job, rounds[0][order])
        validation[order] = validation_loss(model, workload)
    say({"first": first, "validation": validation})


if __name__ == "__main__":
    main()
