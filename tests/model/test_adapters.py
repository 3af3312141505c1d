"""Adapters against PEFT's on the same weights: loss, gradients and steps; what is frozen, shared and kept."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ift.artifacts.adapter_folder import load_adapter, open_adapter
from ift.artifacts.weights import build_model, inspect_folder
from ift.model.adapters import (
    AdaptedLinear,
    adapted,
    hold_base_in,
    merge_adapters,
    published_adapters,
    rows_as_published,
)
from ift.model.linear import Linear, compute_in
from ift.model.low_rank import LowRank, chosen
from tests.model.families.by_transformers import VOCABULARY, made, tokens

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
    "eos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
SHAPES: dict[str, dict] = {
    "llama": SIZES,
    "qwen3": {**SIZES, "head_dim": 8, "tie_word_embeddings": True},
    "gemma3_text": {**SIZES, "head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 12},
    "phi3": SIZES,
    "gpt2": GPT2,
    "gpt_neox": {**SIZES, "num_key_value_heads": None},
}
KINDS = {
    "lora": {"lora_alpha": 32},
    "rslora": {"lora_alpha": 8, "use_rslora": True},
    "dora": {"lora_alpha": 8, "use_dora": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """model_type -> the folder of a tiny model; each is made once."""
    pytest.importorskip("peft", exc_type=ImportError)
    known = {}

    def folder(kind):
        if kind not in known:
            known[kind] = tmp_path_factory.mktemp(kind)
            made(kind, SHAPES[kind]).save_pretrained(known[kind])
        return known[kind]

    return folder


def of_peft(folder, path, **options):
    """A PEFT model with an adapter whose B is not zero, saved in `path`."""
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4, **options)
    torch.manual_seed(1)
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        if "magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.randn_like(parameter)
    model.save_pretrained(path)
    return model.train()


def ours_of(folder, path):
    base = inspect_folder(folder)
    its = open_adapter(path, base.config)
    model = build_model(base.config, base)
    adapted(model, its.low_rank)
    load_adapter(model, its)
    return model


def loss_of(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_gradients_and_three_steps_are_those_of_peft(folders, tmp_path, shape, kind):
    theirs = of_peft(folders(shape), tmp_path, **KINDS[kind])
    ours = ours_of(folders(shape), tmp_path)
    optimizers = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2, fused=m is ours)
        for m in (theirs, ours)
    ]
    for step in range(3):
        ids = tokens(2, 20, seed=step)
        expected = loss_of(theirs(ids).logits, ids)
        loss = loss_of(ours(ids), ids)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5), step
        for optimizer, value in zip(optimizers, (expected, loss), strict=True):
            optimizer.zero_grad()
            value.backward()
        for name, gradient, wanted in pairs(ours, theirs, lambda p: p.grad):
            assert (gradient - wanted).norm() <= 1e-5 * max(1.0, wanted.norm()) + 1e-6, (step, name)
        for optimizer in optimizers:
            optimizer.step()
    for name, value, wanted in pairs(ours, theirs, lambda p: p.detach()):
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4, msg=name)


def pairs(ours, theirs, of):
    """Name, a value of ours, PEFT's: of every trained parameter."""
    there = {
        name.removeprefix("base_model.model.").replace(".default", ""): of(parameter)
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    seen = 0
    for matrix, piece, adapter in published_adapters(ours):
        parts = {"lora_A.weight": of(adapter.A), "lora_B.weight": rows_as_published(of(adapter.B), piece, ours)}
        if adapter.magnitude is not None:
            parts["lora_magnitude_vector.weight"] = rows_as_published(of(adapter.magnitude), piece, ours)
        for kind, value in parts.items():
            name = next(each for each in there if each.endswith(f"{matrix}.{kind}"))
            seen += 1
            yield name, value.reshape(there[name].shape), there[name]
    assert seen == len(there)


def with_adapters(make_model, *, layers=None, targets="all", **options):
    model = make_model(n_layer=3)
    low_rank = LowRank("base", chosen(targets, layers, model.config), 4, 8.0, **options)
    names = adapted(model, low_rank)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model, names


def test_only_adapters_are_trained_and_what_is_frozen_gets_no_gradient(make_model):
    model, names = with_adapters(make_model, layers=[1], targets=["c_attn", "c_fc"])
    assert names == [f"h.1.{module}.{kind}" for module in
                     ("attn.c_attn.adapters.c_attn", "mlp.c_fc.adapters.c_fc") for kind in "AB"]  # fmt: skip
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == names


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_with_fresh_adapters_is_its_base_and_merged_ones_compute_the_same(make_model, dora):
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = make_model(n_layer=3)
    fresh = make_model(n_layer=3)
    adapted(fresh, LowRank("base", chosen("all", None, fresh.config), 4, 8.0, dora=dora))
    torch.testing.assert_close(fresh(ids), plain(ids), atol=1e-5, rtol=1e-5)
    model, _ = with_adapters(make_model, dora=dora)
    before = model(ids)
    assert (before - plain(ids)).abs().max() > 1e-2
    merge_adapters(model)
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    torch.testing.assert_close(model(ids), before, atol=1e-5, rtol=1e-5)
    assert set(model.state_dict()) == set(plain.state_dict())


def test_lengths_of_rows_follow_each_step_and_are_kept_between_steps(make_model):
    model, _ = with_adapters(make_model, dora=True)
    layer = model.h[0].attn.c_attn
    part = layer.adapters["c_attn"]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    for _ in range(2):
        with torch.inference_mode():
            kept = part.lengths(layer.weight)
            assert part.lengths(layer.weight) is kept
        assert copy.deepcopy(part)._lengths is None
        wanted = torch.linalg.vector_norm(layer.weight + part.scale * part.B @ part.A, dim=1)
        torch.testing.assert_close(kept, wanted.detach(), atol=1e-6, rtol=1e-5)
        model(torch.tensor([[1, 2, 3]])).square().sum().backward()
        optimizer.step()


def test_dropout_acts_on_what_goes_into_A_and_not_in_evaluation(make_model):
    torch.manual_seed(0)
    linear = Linear(6, 4)
    model, _ = with_adapters(make_model, dropout=0.5)
    layer = model.h[0].mlp.c_fc
    x = torch.randn(3, layer.in_features, requires_grad=True)
    part = layer.adapters["c_fc"]
    torch.manual_seed(7)
    out = layer.train()(x)
    out.sum().backward()
    torch.manual_seed(7)
    y = x.detach().clone().requires_grad_()
    expected = F.linear(y, layer.weight, layer.bias) + part.scale * F.dropout(y, 0.5) @ part.A.t() @ part.B.t()
    expected.sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, y.grad)
    assert torch.equal(layer.eval()(x), layer(x))
    assert linear.weight.requires_grad


def test_a_base_that_is_held_in_bf16_computes_bit_for_bit_what_casting_each_time_does(make_model):
    ids = torch.tensor([[5, 6, 7, 8]])
    found = []
    for hold in (False, True):
        model, _ = with_adapters(make_model)
        compute_in(model, torch.bfloat16)
        if hold:
            hold_base_in(model, torch.bfloat16)
            assert model.h[0].attn.c_attn.base.weight.dtype == torch.bfloat16
        assert model.h[0].attn.c_attn.adapters["c_attn"].A.dtype == torch.float32
        model(ids).float().square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
        assert all(gradient.dtype == torch.float32 for gradient in found[-1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
