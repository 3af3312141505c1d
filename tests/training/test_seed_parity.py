"""The same numbers as the seed of this project, chapter 7 of rasbt's "Build a Large Language Model From Scratch".

Its model is untied, its loss asks for the prompt too, its AdamW decays every parameter; no schedule, no clipping.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from ift.data.batches import StepSampler, collate_padded
from ift.data.contract.examples import Example
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.training.module import SFTModule

pytest.importorskip("llms_from_scratch", reason="needs the seed itself: pip install llms-from-scratch")

VOCABULARY, CONTEXT, EMBEDDING, END = 512, 48, 64, 511


@pytest.fixture
def chapter(monkeypatch):
    """A module of the seed by its number. psutil, with which chapter 7 looks for Ollama, need not be installed."""
    if importlib.util.find_spec("psutil") is None:
        monkeypatch.setitem(sys.modules, "psutil", ModuleType("psutil"))
    return lambda number: importlib.import_module(f"llms_from_scratch.ch{number:02}")


def our_model() -> GPT:
    torch.manual_seed(123)
    return GPT(GPTConfig(VOCABULARY, CONTEXT, n_layer=2, n_head=4, n_embd=EMBEDDING, tie_weights=False))


def their_model(chapter, model: GPT) -> torch.nn.Module:
    """The seed's GPTModel with our weights. It keeps queries, keys and values apart."""
    config = {
        "vocab_size": VOCABULARY, "context_length": CONTEXT, "emb_dim": EMBEDDING,
        "n_heads": 4, "n_layers": 2, "drop_rate": 0.0, "qkv_bias": True,
    }  # fmt: skip
    theirs = chapter(4).GPTModel(config)
    state = {
        "tok_emb.weight": model.wte.weight,
        "pos_emb.weight": model.wpe.weight,
        "final_norm.scale": model.ln_f.weight,
        "final_norm.shift": model.ln_f.bias,
        "out_head.weight": model.lm_head.weight,
    }
    for i, block in enumerate(model.h):
        for kind in ("weight", "bias"):
            q, k, v = getattr(block.attn.c_attn, kind).split(EMBEDDING)
            state |= {
                f"trf_blocks.{i}.att.W_query.{kind}": q,
                f"trf_blocks.{i}.att.W_key.{kind}": k,
                f"trf_blocks.{i}.att.W_value.{kind}": v,
                f"trf_blocks.{i}.att.out_proj.{kind}": getattr(block.attn.c_proj, kind),
                f"trf_blocks.{i}.ff.layers.0.{kind}": getattr(block.mlp.c_fc, kind),
                f"trf_blocks.{i}.ff.layers.2.{kind}": getattr(block.mlp.c_proj, kind),
            }
        for theirs_name, norm in (("norm1", block.ln_1), ("norm2", block.ln_2)):
            state |= {
                f"trf_blocks.{i}.{theirs_name}.scale": norm.weight,
                f"trf_blocks.{i}.{theirs_name}.shift": norm.bias,
            }
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("att.mask") for name in missing)
    return theirs


def token_lists(rows: int) -> list[list[int]]:
    random = np.random.default_rng(123)
    return [random.integers(0, END, size=int(n)).tolist() for n in random.integers(5, CONTEXT + 1, size=rows)]


def our_example(ids: list[int]) -> Example:
    """With the prompt in the loss, as prompt.mask=false makes it."""
    return Example(np.array(ids, dtype=np.int32), np.ones(len(ids), dtype=bool))


def test_our_collate_makes_the_tensors_of_the_seed(chapter):
    rows = token_lists(8)
    inputs, targets = chapter(7).custom_collate_fn(rows, pad_token_id=END)
    batch = collate_padded([our_example(ids) for ids in rows], end_of_text=END)
    assert torch.equal(batch.input_ids, inputs)
    assert torch.equal(batch.targets, targets)
    assert (targets == -100).sum() > 50  # there was padding


def test_our_collate_gives_the_example_of_the_book(chapter):
    rows = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
    batch = collate_padded([our_example(ids) for ids in rows], end_of_text=50256)
    assert batch.input_ids.tolist() == [[0, 1, 2, 3, 4], [5, 6, 50256, 50256, 50256], [7, 8, 9, 50256, 50256]]
    assert batch.targets.tolist() == [[1, 2, 3, 4, 50256], [6, 50256, -100, -100, -100], [8, 9, 50256, -100, -100]]
    inputs, targets = chapter(7).custom_collate_fn(rows)
    assert torch.equal(batch.input_ids, inputs)
    assert torch.equal(batch.targets, targets)


def test_our_model_with_the_same_weights_has_the_same_logits(chapter):
    model = our_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        ids = torch.randint(VOCABULARY, (4, CONTEXT))
        torch.testing.assert_close(model(ids), their_model(chapter, model)(ids), atol=1e-4, rtol=0)


def test_ten_steps_have_the_losses_of_the_seed(chapter, fit, make_optim):
    """lr 5e-5, weight decay 0.1 on everything, batches of 8, fp32; their loop against our module under Lightning."""
    rows = token_lists(80)
    theirs = their_model(chapter, our_model())
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=5e-5, weight_decay=0.1)
    expected = []
    for indices in StepSampler(80, batch_size=8, seed=11):
        inputs, targets = chapter(7).custom_collate_fn([rows[i] for i in indices], pad_token_id=END)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        expected.append(loss.item())

    optim = make_optim(lr=5e-5, weight_decay=0.1, decay="all", schedule="constant", clip=None)
    module = SFTModule(our_model(), optim=optim, total_steps=10)
    _, seen = fit([our_example(ids) for ids in rows], steps=10, module=module, end_of_text=END)
    assert len(expected) == 10
    assert seen.losses == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01  # steps that can be told apart
