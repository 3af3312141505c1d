"""Dividing, clipping and leaving out a step: any optimizer; and how long a step took where it is known later."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger

from ift.data.batches import StepSampler, collate_padded
from ift.training import module as module_file
from ift.training.module import SFTModule
from ift.training.objectives import CrossEntropy
from ift.training.optim import scales_by_itself
from ift.training.optimizers import Lion, Several, _eight_bits

END = 49
OPTIMIZERS = {
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=False),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, lr=1e-3, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-3),
    "Lion": lambda p: Lion(p, lr=1e-5, betas=(0.9, 0.99)),  # where a gradient is next to nothing, its sign may differ
    "Muon": lambda p: torch.optim.Muon(p, lr=1e-3),  # takes matrices only
    "Muon and AdamW": lambda p: Several(
        torch.optim.Muon([x for x in p if x.dim() == 2], lr=1e-3),
        torch.optim.AdamW([x for x in p if x.dim() < 2], lr=1e-3, fused=True),
    ),
}
if importlib.util.find_spec("bitsandbytes"):
    OPTIMIZERS["AdamW of 8 bits"] = lambda p: _eight_bits()(p, lr=1e-3)


def trained(model, name):
    """The parameters that this optimizer takes; the others are frozen."""
    for parameter in model.parameters():
        parameter.requires_grad_(name != "Muon" or parameter.dim() == 2)
    return [p for p in model.parameters() if p.requires_grad]


class With(SFTModule):
    """Trains with an optimizer of this name."""

    name = ""

    def configure_optimizers(self):
        return OPTIMIZERS[self.name](trained(self.model, self.name))


class State(Callback):
    """Weights and the optimizer's state after each step, and the gradients that the optimizer took."""

    def __init__(self):
        self.steps, self.gradients = [], []

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step > len(self.steps):
            state = trainer.optimizers[0].state_dict()["state"]
            moments = {f"{i} {k}": v.clone() for i, s in state.items() for k, v in s.items() if torch.is_tensor(v)}
            self.gradients.append({n: p.grad for n, p in module.model.named_parameters() if p.grad is not None})
            self.steps.append(({n: p.detach().clone() for n, p in module.model.named_parameters()}, moments))


class NotANumberAt(CrossEntropy):
    def __init__(self, call):
        self.calls, self.call = 0, call

    def __call__(self, model, batch):
        self.calls += model.training
        sums = super().__call__(model, batch)
        return sums._replace(loss=sums.loss * float("nan")) if self.calls == self.call else sums


@pytest.fixture
def fit_with(make_model, make_optim, make_data, make_trainer, make_examples):
    def fit_with(name, *, steps, objective=None, clip=0.1, logger=False):
        model = make_model()
        module = With(
            model, optim=make_optim(clip=clip), total_steps=steps, skip_nonfinite=1,
            objective=objective or CrossEntropy(),
        )  # fmt: skip
        module.name = name
        state = State()
        trainer = make_trainer(max_steps=steps, accumulate_grad_batches=2, callbacks=[state], logger=logger)
        trainer.fit(module, make_data(make_examples(22), batch_size=4, accumulate=2))
        module.gradients = state.gradients
        return state.steps, module

    return fit_with


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_gets_the_mean_gradient_clipped(fit_with, make_model, make_examples, name):
    """A step of 2 x 4 rows: the mean over the supervised tokens of 8 rows, clipped by torch's own function."""
    steps, module = fit_with(name, steps=1)
    model, examples = make_model(), make_examples(22)
    parameters = trained(model, name)
    rows = [examples[i] for i in StepSampler(22, batch_size=8, seed=11).order()[:8]]
    loss, weight, _ = CrossEntropy()(model, collate_padded(rows, end_of_text=END))
    (loss / weight).backward()
    before = torch.nn.utils.clip_grad_norm_(parameters, 0.1)
    assert before > 0.5
    by_hand = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert by_hand.keys() == module.gradients[0].keys()
    for parameter, gradient in by_hand.items():
        torch.testing.assert_close(module.gradients[0][parameter], gradient, atol=1e-7, rtol=1e-5)
    OPTIMIZERS[name](parameters).step()
    change = {n: (steps[0][0][n] - p).abs().max().item() for n, p in model.named_parameters() if "attn" not in n}
    assert max(change.values()) < 1e-4  # where a gradient is next to nothing, some divide it by itself


@pytest.mark.parametrize("spoilt", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_a_number_changes_nothing(fit_with, make_model, capsys, name, spoilt):
    """Neither the first step, which has no state yet, nor a later one; the step after it is one like any other."""
    steps, module = fit_with(name, steps=3, objective=NotANumberAt(2 * spoilt))
    untrained = {n: p.detach() for n, p in make_model().named_parameters()}
    before = (untrained, {}) if spoilt == 1 else steps[spoilt - 2]
    weights, state = steps[spoilt - 1]
    assert all(torch.equal(weights[n], value) for n, value in before[0].items())
    assert all(torch.equal(state[key], value) for key, value in before[1].items())
    moved = [n for n, value in weights.items() if not torch.equal(value, steps[spoilt][0][n])]
    assert moved
    largest = max((steps[spoilt][0][n] - weights[n]).abs().max().item() for n in moved)
    assert 0 < largest < 0.1
    assert module.skipped == 1
    assert f"step {spoilt}: loss nan on rows " in capsys.readouterr().out


def test_both_ways_of_dividing_and_clipping_give_the_same_weights(fit_with, monkeypatch):
    assert scales_by_itself(OPTIMIZERS["AdamW fused"]([torch.zeros(1)]))
    itself, _ = fit_with("AdamW fused", steps=6)
    monkeypatch.setattr("ift.training.optim.scales_by_itself", lambda optimizer: False)
    plainly, _ = fit_with("AdamW fused", steps=6)
    for name, value in itself[-1][0].items():
        torch.testing.assert_close(plainly[-1][0][name], value, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("AdamW fused", "Adagrad fused")])
def test_only_fused_optimizers_scale_by_themselves(name):
    parameters = [torch.zeros(2, 2), torch.zeros(2)]
    assert not scales_by_itself(OPTIMIZERS[name](parameters[:1] if name == "Muon" else parameters))


# -- time -----------------------------------------------------------------------------------------------------------


class Late(SFTModule):
    """As on a GPU: numbers of a step are read one step later."""

    steps_behind = 1


class Numbers(DummyLogger):
    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append({"step": step, **metrics})


def test_a_step_lasts_as_long_as_the_device_works_not_as_long_as_it_takes_to_queue_it(
    monkeypatch, make_model, make_optim, make_data, make_trainer, make_examples
):
    """Queueing a step takes 1 s, the device 10 s; 8 rows of the same length a step, so the speed is tokens / 10 s."""
    clock = {"now": 100.0, "device": 100.0}
    real = module_file._read_later

    def read_later(numbers):
        clock["now"] += 1
        clock["device"] = done = max(clock["device"], clock["now"]) + 10

        def read():
            clock["now"] = max(clock["now"], done)
            return real(numbers)()

        return read

    monkeypatch.setattr(module_file, "_read_later", read_later)
    monkeypatch.setattr(module_file, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))
    logger, examples = Numbers(), make_examples(8)
    module = Late(make_model(), optim=make_optim(), total_steps=6)
    make_trainer(max_steps=6, logger=logger).fit(module, make_data(examples))
    tokens = sum(example.tokens for example in examples)
    speeds = [line["tokens_per_second"] for line in logger.lines if "tokens_per_second" in line]
    assert [line["step"] for line in logger.lines if "train/loss" in line] == [1, 2, 3, 4, 5, 6]
    assert speeds[1:] == pytest.approx([tokens / 10] * 5)
    assert speeds[0] == pytest.approx(tokens / 11)  # nothing was queued before the first


# -- steps that are left out ----------------------------------------------------------------------------------------


def test_a_step_that_is_no_finite_number_changes_nothing_where_that_is_allowed(
    capsys, make_examples, make_model, make_optim, make_data, make_trainer
):
    """Step 2 of 4 is spoilt: weights, moments and their count of steps stay; the rate goes on by the step's number."""

    class Spoilt(SFTModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if self.trainer.global_step == 1 else loss

    class Keep(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            moments = trainer.optimizers[0].state_dict()["state"]
            kept.append(
                (
                    [p.detach().clone() for p in module.parameters()],
                    [s["exp_avg"].clone() for s in moments.values()],
                    moments[0]["step"].item(),
                    trainer.global_step,
                )
            )

    kept = []
    module = Spoilt(make_model(), optim=make_optim(), total_steps=4, skip_nonfinite=1)
    make_trainer(max_steps=4, callbacks=[Keep()]).fit(module, make_data(make_examples(40)))
    first, second, third, _ = kept
    for a, b in zip(first[0] + first[1], second[0] + second[1], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(second[0][0], third[0][0])
    assert [each[2:] for each in kept] == [(1.0, 1), (1.0, 2), (2.0, 3), (3.0, 4)]
    assert module.skipped == 1
    assert "step 2: gradient norm nan on rows " in capsys.readouterr().out
