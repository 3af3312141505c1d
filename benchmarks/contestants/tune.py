"""torchtune's parts at GPT-2's shape: its decoder, attention and chunked loss, and the loop of its recipe for full
fine-tuning on one device. It has no builder for GPT-2; learned positions are added in an embedding of our own.

As its recipe has it, bf16 means that weights, gradients and the optimizer's moments are bf16 too, with no fp32 copy:
less memory and less work than the others do, and small updates are rounded away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchtune.data import padded_collate_sft
from torchtune.modules import FeedForward, MultiHeadAttention, TiedLinear, TransformerDecoder
from torchtune.modules import TransformerSelfAttentionLayer as Layer
from torchtune.modules.loss import CEWithChunkedOutputLoss
from torchtune.training import scale_grads, set_activation_checkpointing
from workload import Job, decay_groups


class Embedding(nn.Embedding):
    """Of tokens, with that of their positions: torchtune's decoder asks for one of tokens alone."""

    def __init__(self, vocabulary: int, channels: int, positions: int):
        super().__init__(vocabulary, channels)
        self.positions = nn.Embedding(positions, channels)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + self.positions(torch.arange(ids.shape[1]))


def build(job: Job) -> TransformerDecoder:
    config = json.loads((job.workload.model / "config.json").read_text())
    C, heads, length = config["n_embd"], config["n_head"], config["n_positions"]
    embedding = Embedding(config["vocab_size"], C, length)

    def layer() -> Layer:
        q, k, v, out = (nn.Linear(C, C) for _ in range(4))
        attention = MultiHeadAttention(
            embed_dim=C, num_heads=heads, num_kv_heads=heads, head_dim=C // heads, max_seq_len=length,
            q_proj=q, k_proj=k, v_proj=v, output_proj=out,
        )  # fmt: skip
        mlp = FeedForward(
            gate_proj=nn.Linear(C, 4 * C), down_proj=nn.Linear(4 * C, C), activation=nn.GELU(approximate="tanh")
        )
        return Layer(attention, mlp, sa_norm=nn.LayerNorm(C), mlp_norm=nn.LayerNorm(C))

    model = TransformerDecoder(
        tok_embeddings=embedding, layers=nn.ModuleList(layer() for _ in range(config["n_layer"])), max_seq_len=length,
        num_heads=heads, head_dim=C // heads, norm=nn.LayerNorm(C), output=TiedLinear(embedding),
    )  # fmt: skip
    with torch.no_grad():
        for parameter, stored in _pairs(model, load_file(job.workload.model / "model.safetensors")):
            parameter.copy_(stored)
    return model


def save(model: TransformerDecoder, job: Job) -> None:
    tensors = load_file(job.workload.model / "model.safetensors")
    for parameter, stored in _pairs(model, tensors):
        stored.copy_(parameter.detach())
    save_file(tensors, job.job["save"])


def _pairs(model: TransformerDecoder, tensors: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter and the view of the stored tensor that it is: there Linears are transposed, q, k and v are one."""
    yield model.tok_embeddings.weight, tensors["transformer.wte.weight"]
    yield model.tok_embeddings.positions.weight, tensors["transformer.wpe.weight"]
    norms, linears = [(model.norm, "ln_f")], []
    for i, layer in enumerate(model.layers):
        C = layer.attn.embed_dim
        for place, module in enumerate((layer.attn.q_proj, layer.attn.k_proj, layer.attn.v_proj)):
            linears.append((module, f"h.{i}.attn.c_attn", slice(place * C, place * C + C)))
        linears.append((layer.attn.output_proj, f"h.{i}.attn.c_proj", slice(None)))
        linears.append((layer.mlp.w1, f"h.{i}.mlp.c_fc", slice(None)))
        linears.append((layer.mlp.w2, f"h.{i}.mlp.c_proj", slice(None)))
        norms += [(layer.sa_norm, f"h.{i}.ln_1"), (layer.mlp_norm, f"h.{i}.ln_2")]
    for module, name, part in linears:
        yield module.weight, tensors[f"transformer.{name}.weight"][:, part].t()
        yield module.bias, tensors[f"transformer.{name}.bias"][part]
    for norm, name in norms:
        yield norm.weight, tensors[f"transformer.{name}.weight"]
        yield norm.bias, tensors[f"transformer.{name}.bias"]


def main() -> None:
    job = Job()
    model = build(job)
    if job.job["logits"]:
        return job.compare_logits(model)
    model = model.to(job.dtype)
    if job.options.get("checkpointing", True):
        set_activation_checkpointing(model, auto_wrap_policy={Layer})
    loss_fn, optim = CEWithChunkedOutputLoss(), job.optim
    model.set_num_output_chunks(loss_fn.num_output_chunks)
    optimizer = torch.optim.AdamW(
        decay_groups(model, optim["weight_decay"]), lr=optim["lr"], betas=optim["betas"], eps=optim["eps"], fused=True
    )
    computed = []
    for rows in job.steps:
        batch = [dict(zip(("tokens", "labels"), job.workload.whole(i), strict=True)) for i in rows]
        padded = padded_collate_sft(batch, padding_idx=job.workload.end_of_text)
        labels = torch.hstack((padded["labels"][..., 1:], torch.full((len(rows), 1), loss_fn.ignore_index)))
        count = (labels != loss_fn.ignore_index).sum()
        loss = loss_fn(model(padded["tokens"]), labels) * count
        loss.backward()
        scale_grads(model, 1 / count)
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=optim["clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        job.step_done((loss.detach() / count).item(), norm.item())
        computed.append(padded["tokens"].numel())
    job.finish(computed=computed)
    if job.job["save"]:
        save(model, job)


if __name__ == "__main__":
    main()
