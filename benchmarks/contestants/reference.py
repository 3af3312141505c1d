"""What contestants are checked against, in fp32 and untimed: logits, the first step of every round, validation loss.

Of GPT-2 the network is the one of bare.py; of another family transformers' own, in its plain form ("eager"), and a
step is a minute's work there: only the first one of every round is made, and no validation loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bare import BareGPT
from torch import Tensor, nn
from workload import Job, Workload, decay_groups, say


class Published(nn.Module):
    """A model of any family as transformers has it, from a folder, as fp32."""

    def __init__(self, folder: Path):
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)"""
        logits: Tensor = self.model(ids).logits
        return logits


def gradient(model: nn.Module, workload: Workload, rows: list[int]) -> dict[str, float]:
    """Leave the gradient of a step in the model, each row computed alone and without padding; its loss and norm."""
    total, count = 0.0, workload.supervised(rows)
    for i in rows:
        ids, targets = workload.padded([i])
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="sum")
        (loss / count).backward()
        total += loss.item()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    return {"loss": total / count, "norm": norm.item()}


@torch.no_grad()
def validation_loss(model: nn.Module, workload: Workload) -> float:
    """Mean over the supervised tokens of the validation rows."""
    total, rows = 0.0, workload.plan["val"]
    for i in rows:
        ids, targets = workload.padded([i])
        total += F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / workload.supervised(rows)


def train(model: BareGPT, job: Job, steps: list[list[int]]) -> dict[str, float]:
    """Take the steps from the first weights; return loss and norm of the first one."""
    model.load(job.workload.model / "model.safetensors")
    optim = job.optim
    optimizer = torch.optim.AdamW(
        decay_groups(model, optim["weight_decay"]), lr=optim["lr"], betas=optim["betas"], eps=optim["eps"], fused=True
    )
    seen = []
    for rows in steps:
        seen.append(gradient(model, job.workload, rows))
        nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
        optimizer.step()
        optimizer.zero_grad()
    return seen[0]


def main() -> None:
    job = Job()
    workload, rounds = job.workload, job.workload.plan["rounds"]
    if workload.plan["family"] != "gpt2":
        return first_steps(Published(workload.model), job)
    model = BareGPT(workload.model)
    if job.options["what"] == "validation":  # of weights that contestants saved
        losses = {}
        for name, file in job.options["files"].items():
            model.load(Path(file))
            losses[name] = validation_loss(model, workload)
        return say(losses)
    save_logits(model, job)
    orders = job.options["orders"]
    validation, first = {"start": validation_loss(model, workload)}, []
    for steps in rounds[1:]:
        first.append({})
        for order in orders:
            first[-1][order] = gradient(model, workload, steps[order][0])
            model.zero_grad()
    first.insert(0, {})
    for order in orders:
        first[0][order] = train(model, job, rounds[0][order])
        validation[order] = validation_loss(model, workload)
    say({"first": first, "validation": validation})


@torch.no_grad()
def save_logits(model: nn.Module, job: Job) -> None:
    np.save(job.job["logits"], torch.stack([model(ids)[0, -1] for ids in job.prompts()]).numpy())


def first_steps(model: nn.Module, job: Job) -> None:
    save_logits(model, job)
    first: list[dict[str, dict[str, float]]] = []
    for steps in job.workload.plan["rounds"]:
        first.append({})
        for order in job.options["orders"]:
            model.zero_grad()
            first[-1][order] = gradient(model, job.workload, steps[order][0])
    say({"first": first})


if __name__ == "__main__":
    main()
