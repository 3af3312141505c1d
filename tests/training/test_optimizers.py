"""Which optimizer a name gives, what it decays and keeps, and that a run goes on with it bit for bit."""

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F

from ift.errors import ConfigError, MachineError
from ift.model.adapters import adapted
from ift.model.low_rank import LowRank
from ift.model.low_rank import chosen as chosen_matrices
from ift.rules import OPTIMIZERS
from ift.training.optim import make_schedule
from ift.training.optimizers import Lion, Several, make_optimizer, show_rates, state_bytes
from tests.training.small_run import EndAt, Killed, compare, train

HAS_8_BITS = importlib.util.find_spec("bitsandbytes") is not None
SETTINGS = {  # what each needs, beside AdamW's betas and eps
    "adamw": {},
    "adafactor": {"beta1": None, "beta2": None, "eps": None},
    "sgd": {"beta1": None, "beta2": None, "eps": None, "momentum": 0.9},
    "lion": {"eps": None},
    "muon": {"momentum": 0.95},
    "adamw8bit": {},
}


@pytest.fixture(params=OPTIMIZERS)
def chosen(request):
    """The settings of one optimizer after the other."""
    if request.param == "adamw8bit" and not HAS_8_BITS:
        pytest.skip("bitsandbytes is not installed")
    return {"name": request.param, **SETTINGS[request.param]}


def take_a_step(model, optimizer):
    logits = model(torch.arange(32).reshape(2, 16))
    F.cross_entropy(logits.flatten(0, 1), torch.arange(32)).backward()
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()
    optimizer.step()


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_decay_and_biases_and_norms_do_not(make_model, make_optim, tied):
    model = make_model(tie_weights=tied)
    decayed, plain = make_optimizer(model, make_optim(weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    matrices = {"wte", "wpe", "c_attn", "c_proj", "c_fc"} | (set() if tied else {"lm_head"})
    assert {names[id(p)].split(".")[-2] for p in decayed["params"]} == matrices
    assert all(name.endswith("bias") or ".ln_" in f".{name}" for name in (names[id(p)] for p in plain["params"]))
    assert len(decayed["params"]) + len(plain["params"]) == len(names)  # each once, the shared matrix too


def test_decay_all_takes_every_parameter(make_model, make_optim):
    model = make_model()
    (group,) = make_optimizer(model, make_optim(weight_decay=0.1, decay="all")).param_groups
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out(make_model, make_optim):
    model = make_model()
    model.wpe.requires_grad_(False)
    optimizer = make_optimizer(model, make_optim())
    assert all(p is not model.wpe.weight for group in optimizer.param_groups for p in group["params"])


def test_adamw_is_the_fused_one_with_the_settings_asked_for(make_model, make_optim):
    optimizer = make_optimizer(make_model(), make_optim(lr=3e-4, beta1=0.8, beta2=0.95))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["fused"] for group in optimizer.param_groups)
    assert all((group["lr"], group["betas"]) == (3e-4, (0.8, 0.95)) for group in optimizer.param_groups)
    (group,) = make_optimizer(make_model(), make_optim(eps=1e-6, decay="all")).param_groups
    assert group["eps"] == 1e-6


def test_each_has_the_rate_and_the_decay_that_were_asked_for(make_model, make_optim, chosen):
    model = make_model(n_embd=32)
    optimizer = make_optimizer(model, make_optim(lr=1e-2, weight_decay=0.3, **chosen))
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    for group in optimizer.param_groups:
        assert group["lr"] == 1e-2
        assert {group["weight_decay"]} == {0.3 if p.dim() > 1 else 0.0 for p in group["params"]}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    take_a_step(model, optimizer)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


# -- a rate for each layer ---------------------------------------------------------------------------------------------


def rates(model, optimizer):
    """Of each parameter, by name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_each_layer_below_the_top_one_has_a_share_of_the_rate_above_it(make_model, make_optim, chosen):
    """3 layers, a rate of 0.8 and a decay of 0.5; with any optimizer, the highest rate first."""
    model = make_model(n_layer=3, n_embd=32, tie_weights=False)
    settings = make_optim(lr=0.8, weight_decay=0.3, layer_decay=0.5, **chosen)
    optimizer = make_optimizer(model, settings)
    found = rates(model, optimizer)
    assert len(found) == len(list(model.parameters()))  # each once
    expected = {"wte": 0.1, "wpe": 0.1, "h.0": 0.2, "h.1": 0.4, "h.2": 0.8, "ln_f": 0.8, "lm_head": 0.8}
    for name, rate in found.items():
        part = ".".join(name.split(".")[: 2 if name.startswith("h.") else 1])
        assert rate == pytest.approx(expected[part]), name
    for group in optimizer.param_groups:
        assert {group["weight_decay"]} == {0.3 if p.dim() > 1 else 0.0 for p in group["params"]}
    assert optimizer.param_groups[0]["lr"] == 0.8
    assert show_rates(model, settings) == (
        "rates     0.1 embeddings, 0.2 layer 0, 0.4 layer 1, 0.8 layer 2 and last norm and head (optim.layer_decay=0.5)"
    )


def test_the_groups_of_a_decay_are_those_of_each_rate_and_a_decay_of_1_is_none(make_model, make_optim):
    model = make_model(n_layer=3, tie_weights=False)
    groups = make_optimizer(model, make_optim(lr=0.8, weight_decay=0.3, layer_decay=0.5)).param_groups
    found = [(round(group["lr"], 9), group["weight_decay"], len(group["params"])) for group in groups]
    # a block: 4 matrices, 8 biases and norms; beside the top one the head, and weight and bias of the last norm
    assert found == [(0.8, 0.3, 5), (0.8, 0.0, 10), (0.4, 0.3, 4), (0.4, 0.0, 8), (0.2, 0.3, 4), (0.2, 0.0, 8),
                     (0.1, 0.3, 2)]  # fmt: skip
    one, none = (make_optimizer(model, make_optim(layer_decay=decay)).param_groups for decay in (1.0, None))
    assert [(g["lr"], len(g["params"])) for g in one] == [(g["lr"], len(g["params"])) for g in none]


def test_a_head_that_is_the_embedding_has_its_rate_and_what_is_frozen_none(make_model, make_optim):
    model = make_model(n_layer=3)
    model.h[2].requires_grad_(False), model.wpe.requires_grad_(False)
    settings = make_optim(lr=0.8, layer_decay=0.5)
    found = rates(model, make_optimizer(model, settings))
    assert found["wte.weight"] == pytest.approx(0.1)
    assert {name.split(".")[1] for name in found if name.startswith("h.")} == {"0", "1"}
    assert show_rates(model, settings) == (
        "rates     0.1 embeddings and head, 0.2 layer 0, 0.4 layer 1, 0.8 last norm (optim.layer_decay=0.5)"
    )


def test_the_adapter_of_a_layer_has_its_rate_and_rows_of_tokens_that_of_embedding_or_head(make_model, make_optim):
    model = make_model(n_layer=12, tie_weights=False)
    low_rank = LowRank("base", chosen_matrices("all", [0, 10, 11], model.config), rank=2, alpha=4, tokens=(3, 5))
    adapted(model, low_rank)
    settings = make_optim(lr=1.0, layer_decay=0.5)
    found = rates(model, make_optimizer(model, settings))
    assert {(name.split(".")[1], rate) for name, rate in found.items() if name.startswith("h.")} == {
        ("0", 0.5**11), ("10", 0.5), ("11", 1.0),
    }  # fmt: skip
    assert found["own_rows.embedding"] == 0.5**12
    assert found["own_rows.head"] == 1.0
    assert show_rates(model, settings) == (
        "rates     0.000244 embeddings of single tokens, 0.000488 layer 0, 0.5 layer 10, 1 layer 11 and head of "
        "single tokens (optim.layer_decay=0.5)"
    )


def test_sgd_steps_are_as_long_as_the_layer_s_share_of_the_rate(make_model, make_optim):
    """Without momentum and decay a step is the gradient times the rate; the schedule scales all rates alike."""
    model = make_model(n_layer=3, tie_weights=False)
    sgd = {**SETTINGS["sgd"], "momentum": 0.0, "weight_decay": 0.0}
    settings = make_optim(name="sgd", lr=0.8, layer_decay=0.5, schedule="linear", **sgd)
    optimizer = make_optimizer(model, settings)
    schedule = make_schedule(optimizer, settings, total_steps=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    take_a_step(model, optimizer)
    for name, rate in (("h.2", 0.8), ("h.1", 0.4), ("h.0", 0.2)):
        p = model.get_parameter(f"{name}.mlp.c_fc.weight")
        torch.testing.assert_close(p, before[f"{name}.mlp.c_fc.weight"] - rate * p.grad)
    schedule.step()
    assert sorted({round(group["lr"], 9) for group in optimizer.param_groups}) == [0.05, 0.1, 0.2, 0.4]


def test_lion_takes_the_steps_of_its_paper():
    """One weight of 2, a rate of 0.1, a decay of 0.5: gradients 1, then -0.2 (not enough to turn the sign), then -5."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.5), weight_decay=0.5)
    seen = []
    for gradient in (1.0, -0.2, -5.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        seen.append((weight.item(), optimizer.state[weight]["exp_avg"].item()))
    # m: 0.5, 0.15, -2.425; c: 0.1, 0.43, -0.365; w: 2 - 0.1 (1 + 0.5 x 2) = 1.8, ...
    assert seen == [pytest.approx(each) for each in ((1.8, 0.5), (1.61, 0.15), (1.6295, -2.425))]


def test_muon_trains_the_matrices_of_blocks_and_adamw_all_else(make_model, make_optim):
    """The steps are those of torch's two optimizers side by side."""
    model, twin = make_model(), make_model()
    optimizer = make_optimizer(model, make_optim(name="muon", lr=1e-2, weight_decay=0.3, **SETTINGS["muon"]))
    assert isinstance(optimizer, Several)
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = {f"h.{i}.{name}.weight" for i in (0, 1) for name in
                ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip
    assert {names[id(p)] for p in optimizer.param_groups[0]["params"]} == matrices
    own = dict(twin.named_parameters())
    muon = torch.optim.Muon(
        [own[name] for name in own if name in matrices],
        lr=1e-2, weight_decay=0.3, momentum=0.95, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    rest = [p for name, p in own.items() if name not in matrices]
    groups = [
        {"params": [p for p in rest if p.dim() == 2], "weight_decay": 0.3},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), fused=True)
    for _ in range(3):
        take_a_step(model, optimizer)
        take_a_step(twin, muon)
        adamw.step()
        optimizer.zero_grad(), muon.zero_grad(), adamw.zero_grad()
    assert all(torch.equal(p, own[name]) for name, p in model.named_parameters())


def test_muon_without_a_matrix_is_refused_and_with_matrices_alone_is_muon(make_model, make_optim):
    model = make_model()
    model.h.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"^optim=muon: no matrix of a block is trained \(optim=adamw"):
        make_optimizer(model, make_optim(name="muon", **SETTINGS["muon"]))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.h[0].mlp.c_fc.weight.requires_grad_(True)
    assert isinstance(make_optimizer(model, make_optim(name="muon", **SETTINGS["muon"])), torch.optim.Muon)


def test_what_it_will_keep_is_known_before(make_model, make_optim, chosen):
    """Of a model half frozen; counters and, of 8 bits, the two tables of 256 numbers are beside it."""
    model = make_model(n_embd=32)
    model.h[0].requires_grad_(False)
    settings = make_optim(**chosen)
    optimizer = make_optimizer(model, settings)
    take_a_step(model, optimizer)
    kept = [
        v for state in optimizer.state.values() for k, v in state.items()
        if torch.is_tensor(v) and k != "step" and not k.startswith("qmap")
    ]  # fmt: skip
    assert len({p for p in model.parameters() if p.requires_grad}) == len(optimizer.state)
    assert sum(v.nbytes for v in kept) == state_bytes(model, settings)
    assert {v.dtype for v in kept} == {torch.float32} | ({torch.uint8} if settings.name == "adamw8bit" else set())


def test_a_run_goes_on_with_it_bit_for_bit(tmp_path, chosen):
    """Weights, moments, rate and metrics after 8 steps; the second run was ended in the sixth."""
    options = {"optim": {**chosen, "layer_decay": 0.5}, "n_embd": 32}
    (tmp_path / "whole").mkdir(), (tmp_path / "ended").mkdir()
    whole = train(tmp_path / "whole", **options)
    assert whole["moments"]
    with pytest.raises(Killed):
        train(tmp_path / "ended", end=EndAt("on_train_batch_end", 11), **options)
    assert compare(whole, train(tmp_path / "ended", seed=99, **options)) == []


def test_without_its_package_8_bits_are_one_line(monkeypatch, make_model, make_optim):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MachineError, match=r'^this needs the package bitsandbytes \(pip install "ift\[adamw8bit\]"\)$'):
        make_optimizer(make_model(), make_optim(name="adamw8bit"))
