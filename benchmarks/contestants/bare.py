"""A GPT-2 in plain torch and the loop that a careful person writes first: padded batches, the head on every position,
autocast, fused AdamW. It knows nothing of `ift`: the reference that every contestant must agree with is computed by it.

B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from workload import Job, decay_groups


class Block(nn.Module):
    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.c_attn, self.c_proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.c_fc, self.mlp_proj = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class BareGPT(nn.Module):
    def __init__(self, folder: Path):
        """The weights of a folder in the layout of Hugging Face, as fp32."""
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        C = config["n_embd"]
        self.wte, self.wpe = nn.Embedding(config["vocab_size"], C), nn.Embedding(config["n_positions"], C)
        self.h = nn.ModuleList(Block(C, config["n_head"]) for _ in range(config["n_layer"]))
        self.ln_f = nn.LayerNorm(C)
        self.load(folder / "model.safetensors")

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V); the head is the embedding."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)

    def load(self, file: Path) -> None:
        with torch.no_grad():
            for parameter, stored in self._pairs(load_file(file)):
                parameter.copy_(stored)

    def save(self, file: Path, like: Path) -> None:
        """In the layout of another file of this model."""
        tensors = load_file(like)
        for parameter, stored in self._pairs(tensors):
            stored.copy_(parameter.detach())
        save_file(tensors, file)

    def _pairs(self, tensors: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each parameter and the view of the stored tensor that has its shape: Linears are stored transposed."""
        for name, parameter in self.named_parameters():
            for module, stored in (("c_attn", "attn.c_attn"), ("c_proj", "attn.c_proj"), ("c_fc", "mlp.c_fc")):
                name = name.replace(f".{module}.", f".{stored}.")
            value = tensors["transformer." + name.replace("mlp_proj", "mlp.c_proj")]
            linear = name.startswith("h.") and parameter.dim() == 2
            yield parameter, value.t() if linear else value


def main() -> None:
    job = Job()
    model = BareGPT(job.workload.model)
    if job.job["logits"]:
        return job.compare_logits(model)
    optim = job.optim
    optimizer = torch.optim.AdamW(
        decay_groups(model, optim["weight_decay"]), lr=optim["lr"], betas=optim["betas"], eps=optim["eps"], fused=True
    )
    computed = []
    for rows in job.steps:
        ids, targets = job.workload.padded(rows)
        with job.autocast():
            loss = F.cross_entropy(model(ids).flatten(0, 1).float(), targets.flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
        optimizer.step()
        optimizer.zero_grad()
        job.step_done(loss.item(), norm.item())
        computed.append(ids.numel())
    job.finish(computed=computed)
    if job.job["save"]:
        model.save(job.job["save"], job.workload.model / "model.safetensors")


if __name__ == "__main__":
    main()
