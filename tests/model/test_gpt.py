"""The network: what it computes, what it never sees, and how many numbers it holds."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from ift.errors import ConfigError
from ift.model.config import GPTConfig
from ift.model.families.gpt2 import GPT2
from ift.model.gpt import GPT
from ift.model.layouts import PADDED, Flat

CONF = Path(__file__).parents[2] / "conf" / "model"
GPT2_VOCABULARY = 50_257


def tiny(*, std: float | None = None, **changes) -> GPT:
    """vocab 40, context 16, 3 layers of 2 heads, width 24; with std every number is drawn anew, biases too."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 40, "context_length": 16, "n_layer": 3, "n_head": 2, "n_embd": 24} | changes
    model = GPT(GPTConfig(**sizes))
    if std is not None:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def published(name: str, *, tie_weights: bool) -> GPT:
    """A model of conf/model without memory for its numbers."""
    sizes = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))["model"]
    keys = ("context_length", "n_layer", "n_head", "n_embd")
    with torch.device("meta"):
        return GPT(GPTConfig(GPT2_VOCABULARY, *(sizes[key] for key in keys), tie_weights=tie_weights))


@pytest.mark.parametrize(
    ("name", "tied", "parameters"),
    [
        ("gpt2-small", True, 124_439_808),
        ("gpt2-medium", True, 354_823_168),
        ("gpt2-large", True, 774_030_080),
        ("gpt2-xl", True, 1_557_611_200),
        ("gpt2-small", False, 163_037_184),  # + 50,257 * 768
        ("gpt2-medium", False, 406_286_336),  # + 50,257 * 1,024
    ],
)
def test_the_published_sizes_have_the_published_number_of_parameters(name, tied, parameters):
    model = published(name, tie_weights=tied)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(map(math.prod, GPT2.shapes(model.config).values())) == parameters


def test_tied_weights_are_one_matrix_and_untied_ones_are_two():
    tied, untied = tiny(tie_weights=True), tiny(tie_weights=False)
    assert tied.lm_head.weight is tied.wte.weight
    assert untied.lm_head.weight.data_ptr() != untied.wte.weight.data_ptr()


def test_fresh_weights_are_normal_with_std_002_and_residual_projections_are_smaller():
    model = tiny(n_embd=256, n_layer=8, vocab_size=400, context_length=128, tie_weights=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name
        elif parameter.dim() == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            expected = 0.005 if "c_proj" in name else 0.02  # 0.02 / sqrt(2 * 8 layers)
            assert parameter.std().item() == pytest.approx(expected, rel=0.02), name
            assert abs(parameter.mean().item()) < 0.02 * expected, name


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"model\.n_head=5: does not divide model\.n_embd=24"):
        GPTConfig(40, 16, n_layer=1, n_head=5, n_embd=24)


def test_a_later_token_never_changes_an_earlier_logit():
    model = tiny(std=0.3)
    ids = torch.randint(40, (1, 16), generator=torch.Generator().manual_seed(2))
    logits = model(ids)
    for place in range(16):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % 40
        difference = (model(changed) - logits).abs().amax(dim=-1)[0]  # (T,)
        assert torch.equal(difference[:place], torch.zeros(place))
        assert (difference[place:] > 1e-4).all()  # and every later one depends on it


def test_padding_on_the_right_does_not_change_a_row():
    model = tiny(std=0.3)
    short, long = torch.tensor([[3, 1, 4]]), torch.tensor([[2, 7, 1, 8, 2, 8]])
    padded = torch.tensor([[3, 1, 4, 39, 39, 39], [2, 7, 1, 8, 2, 8]])
    together = model(padded)
    torch.testing.assert_close(together[:1, :3], model(short), atol=1e-5, rtol=0)
    torch.testing.assert_close(together[1:], model(long), atol=1e-5, rtol=0)


def test_dropout_acts_in_training_only():
    plain, dropping = tiny(dropout=0.0), tiny(dropout=0.5)
    ids = torch.arange(16)[None]
    assert torch.equal(dropping(ids), plain(ids))
    assert torch.equal(plain.train()(ids), plain.eval()(ids))
    dropping.train()
    first, second = dropping(ids), dropping(ids)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, plain(ids))


def test_dropout_acts_on_embeddings_attention_and_both_residuals(monkeypatch):
    """A rate near 1 leaves nothing of what it acts on, the bias of a projection included."""
    ids = torch.arange(16)[None]
    block = tiny(n_layer=1, std=0.3).h[0].train()
    x = torch.randn(1, 16, 24)
    block.attn.dropout = block.mlp.dropout = 1 - 1e-7
    assert block.attn(x, PADDED).abs().max() == 0
    assert block.mlp(x).abs().max() == 0
    nothing = GPT(GPTConfig(40, 16, 1, 2, 24, dropout=1 - 1e-7)).train()
    assert nothing.hidden(ids).abs().max() == 0

    monkeypatch.setattr("torch.nn.functional.dropout", lambda x, *args: x)
    model = tiny(std=0.3, dropout=0.5)
    assert not torch.allclose(model.train()(ids), model.eval()(ids))  # what is left: dropout of attention weights


def test_the_context_is_as_long_as_said():
    model = tiny()
    assert model(torch.zeros(2, 16, dtype=torch.long)).shape == (2, 16, 40)
    with pytest.raises(IndexError):
        model(torch.zeros(2, 17, dtype=torch.long))


@pytest.mark.parametrize("tied", [True, False])
def test_states_that_are_wanted_are_those_of_the_whole_and_so_are_the_gradients(tied):
    torch.manual_seed(5)
    model = GPT(GPTConfig(30, 12, n_layer=2, n_head=2, n_embd=16, tie_weights=tied)).train()
    ids, wanted = torch.randint(30, (11,)), torch.tensor([2, 3, 9])
    gradients = []
    for some in (None, wanted):
        states = model.hidden(ids, Flat([4, 7]), some)
        states = states[wanted] if some is None else states
        model.zero_grad()
        (model.lm_head(states) ** 2).sum().backward()
        gradients.append((states, *(parameter.grad for parameter in model.parameters())))
    for whole, part in zip(*gradients, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)
        assert not part.is_sparse
