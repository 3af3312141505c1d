"""The step: its loss and gradients are those of its rows, however they were cut up; validation counts tokens."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers.logger import DummyLogger
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity

from ift.data.batches import StepSampler, collate_padded, collate_unpadded
from ift.data.contract.examples import Example
from ift.errors import DivergedError
from ift.training.module import SFTModule
from ift.training.objectives import CrossEntropy

VOCABULARY, END = 50, 49
ROWS, STEPS = 22, 6  # steps of 8, 8 and 6 rows, twice


def batch_of(examples):
    return collate_padded(examples, end_of_text=END)


def by_hand(model, optim, examples, *, rows_in_a_step):
    """Two epochs in plain torch: mean cross-entropy over what is supervised, AdamW, no accumulation."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr)
    sampler = StepSampler(len(examples), batch_size=rows_in_a_step, seed=11)
    losses, gradients = [], []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for indices in sampler:
            batch = batch_of([examples[i] for i in indices])
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch.input_ids).flatten(0, 1), batch.targets.flatten(), ignore_index=-100)
            loss.backward()
            losses.append(loss.item())
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
            if optim.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
            optimizer.step()
    return losses, gradients


class Numbers(DummyLogger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append({"step": step, **metrics})


# -- a step is its rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "accumulate"),
    # 22 rows: steps of 8, 8 and 6, or of 9, 9 and 4, so that the last window has short and blank micro-batches:
    [(8, 1), (4, 2), (2, 4), (1, 8), (3, 3)],  # 6 rows as 4 + 2, 2 + 2 + 2 + 0, 1 * 6 + 0 + 0; 4 rows as 3 + 1 + 0
)
def test_loss_and_gradients_of_a_step_do_not_depend_on_how_it_is_cut_up(
    fit, make_examples, make_model, make_optim, batch_size, accumulate
):
    examples = make_examples(22)
    losses, gradients = by_hand(make_model(), make_optim(), examples, rows_in_a_step=batch_size * accumulate)
    _, seen = fit(examples, steps=6, batch_size=batch_size, accumulate=accumulate)
    assert seen.losses == pytest.approx(losses, abs=1e-6)
    assert len({round(loss, 3) for loss in losses}) == 6  # no two steps alike
    for expected, found in zip(gradients, seen.gradients, strict=True):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=0)


def test_the_loss_is_the_mean_over_supervised_tokens_of_all_rows_not_the_mean_of_rows(fit, make_examples, make_model):
    examples = make_examples(8)
    model = make_model()
    sums, counts = [], []
    for example in examples:
        batch = batch_of([example])
        at = batch.targets[0] != -100
        logits = model(batch.input_ids)[0].log_softmax(dim=-1)
        sums.append(-sum(logits[at, batch.targets[0, at]].tolist()))
        counts.append(example.targets)
    _, seen = fit(examples, steps=1)
    assert seen.losses == pytest.approx([sum(sums) / sum(counts)], abs=1e-6)
    mean_of_means = sum(s / n for s, n in zip(sums, counts, strict=True)) / 8
    assert abs(seen.losses[0] - mean_of_means) > 1e-3


@pytest.mark.parametrize("blank", [collate_padded([], end_of_text=END), collate_unpadded([], end_of_text=END)])
def test_a_blank_batch_weighs_nothing(make_model, blank):
    model = make_model()
    loss, weight, _ = CrossEntropy()(model, blank)
    loss.backward()
    assert (loss.item(), weight) == (0.0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_weights_decay_and_move_as_in_plain_torch(fit, make_examples, make_model, make_optim):
    examples, optim, model = make_examples(8), make_optim(weight_decay=5.0), make_model()
    by_hand(model, optim, examples, rows_in_a_step=8)
    module, _ = fit(examples, steps=2, weight_decay=5.0)
    for name, value in model.state_dict().items():
        found = module.model.state_dict()[name]
        if name.endswith("c_attn.bias"):  # a bias of keys moves all scores alike: its gradient is rounding noise
            value, found = value.view(3, -1)[[0, 2]], found.view(3, -1)[[0, 2]]
        torch.testing.assert_close(found, value, atol=1e-5, rtol=0)  # a hundredth of one step


# -- clipping -------------------------------------------------------------------------------------------------------


def norm_of(gradients) -> float:
    return math.sqrt(sum(g.double().square().sum().item() for g in gradients.values()))


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (2, 4)])
def test_a_clipped_gradient_has_exactly_the_norm_asked_for_and_its_direction(
    fit, make_examples, batch_size, accumulate
):
    examples = make_examples(8)
    _, free = fit(examples, steps=1)
    norm = norm_of(free.gradients[0])
    assert norm > 0.5
    _, clipped = fit(examples, steps=1, batch_size=batch_size, accumulate=accumulate, clip=0.1)
    assert norm_of(clipped.gradients[0]) == pytest.approx(0.1, rel=1e-5)
    for name, gradient in free.gradients[0].items():
        torch.testing.assert_close(clipped.gradients[0][name], gradient * (0.1 / norm), atol=1e-7, rtol=0)


def test_a_gradient_within_the_limit_is_left_alone(fit, make_examples):
    examples = make_examples(8)
    _, free = fit(examples, steps=1)
    _, within = fit(examples, steps=1, clip=norm_of(free.gradients[0]) * 1.01)
    assert all(torch.equal(within.gradients[0][name], gradient) for name, gradient in free.gradients[0].items())


# -- what is logged -------------------------------------------------------------------------------------------------


def test_every_step_logs_its_numbers_once(make_examples, make_model, make_optim, make_data, make_trainer):
    examples, logger = make_examples(22), Numbers()
    optim = make_optim(schedule="cosine", warmup=0.5, min_lr=0.1)
    module = SFTModule(make_model(), optim=optim, total_steps=6)
    trainer = make_trainer(max_steps=6, accumulate_grad_batches=2, logger=logger)
    trainer.fit(module, make_data(examples, batch_size=4, accumulate=2))
    lines = [line for line in logger.lines if "train/loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1]
    # warm-up over ceil(0.5 * 6) = 3 steps to 1e-3, then the cosine from 1 towards 0.1: 1, 0.775, 0.325
    assert [line["lr"] for line in lines] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 0.775e-3, 0.325e-3])
    # each row once an epoch: no padding, no row twice
    tokens, targets = sum(e.tokens for e in examples), sum(e.targets for e in examples)
    assert (lines[2]["tokens"], lines[2]["supervised_tokens"]) == (tokens, targets)
    assert (lines[5]["tokens"], lines[5]["supervised_tokens"]) == (2 * tokens, 2 * targets)


def test_the_gradient_norm_that_is_logged_is_the_one_before_clipping(
    fit, make_examples, make_model, make_optim, make_data, make_trainer
):
    examples, logger = make_examples(8), Numbers()
    _, free = fit(examples, steps=1)
    module = SFTModule(make_model(), optim=make_optim(clip=0.1), total_steps=1)
    make_trainer(max_steps=1, logger=logger).fit(module, make_data(examples))
    (line,) = [line for line in logger.lines if "grad_norm" in line]
    assert line["grad_norm"] == pytest.approx(norm_of(free.gradients[0]), rel=1e-5)


# -- validation and test --------------------------------------------------------------------------------------------


def measured(module, data, trainer) -> dict[str, float]:
    trainer.validate(module, data, verbose=False)
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_validation_is_that_of_torchmetrics_over_all_tokens_whatever_the_batch_size(
    make_examples, make_model, make_optim, make_data, make_trainer, batch_size
):
    examples, model = make_examples(23), make_model(seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # sharper than fresh weights, so that rows differ in loss
    perplexity = Perplexity(ignore_index=-100)
    accuracy = MulticlassAccuracy(VOCABULARY, average="micro", ignore_index=-100)
    with torch.no_grad():
        for example in examples:
            batch = batch_of([example])
            logits = model(batch.input_ids)
            perplexity.update(logits, batch.targets)
            accuracy.update(logits.flatten(0, 1), batch.targets.flatten())
    expected = perplexity.compute().item()

    module = SFTModule(model, optim=make_optim(), total_steps=1)
    data = make_data(examples, val=examples, batch_size=batch_size)
    values = measured(module, data.val_dataloader(), make_trainer())
    assert values["val/loss"] == pytest.approx(math.log(expected), abs=1e-6)
    assert values["val/perplexity"] == pytest.approx(expected, rel=1e-6)
    assert values["val/accuracy"] == pytest.approx(accuracy.compute().item(), abs=1e-6)
    assert values["val/accuracy"] > 0


def test_accuracy_counts_supervised_tokens_that_the_model_would_say(make_model, make_optim, make_data, make_trainer):
    model = make_model(tie_weights=False)
    with torch.no_grad():  # says 7, whatever it is asked
        model.ln_f.weight.zero_()
        model.ln_f.bias.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[7] = 1.0
    supervised = np.array([False, False, True, True, True])
    rows = [
        Example(np.array([7, 7, 7, 1, 7], dtype=np.int32), supervised),  # 7 1 7 end: two of four
        Example(np.array([7, 7, 7, 7, 7], dtype=np.int32), supervised, ends=False),  # 7 7 7: three of three
    ]
    module = SFTModule(model, optim=make_optim(), total_steps=1)
    values = measured(module, make_data(rows, val=rows).val_dataloader(), make_trainer())
    assert values["val/accuracy"] == pytest.approx(5 / 7)
    said, other = math.log(1 + 49 * math.exp(-16)), 16 + math.log(1 + 49 * math.exp(-16))  # logits 16 and 0
    assert values["val/loss"] == pytest.approx((5 * said + 2 * other) / 7, rel=1e-6)


def test_the_untuned_model_is_measured_on_validation_and_on_training_rows(
    make_examples, make_model, make_optim, make_data, make_trainer
):
    train, val = make_examples(20, seed=1), make_examples(9, seed=2)
    module = SFTModule(make_model(), optim=make_optim(), total_steps=1)
    both = measured(module, make_data(train, val).baseline_dataloaders(), make_trainer())
    assert set(both) == {f"{name}/{what}" for name in ("val", "train") for what in ("loss", "perplexity", "accuracy")}
    for name, rows in (("val", val), ("train", train[:9])):
        alone = measured(module, make_data(train, rows).val_dataloader(), make_trainer())
        assert both[f"{name}/loss"] == pytest.approx(alone["val/loss"], abs=1e-6)


def test_a_test_is_measured_as_validation_is(make_examples, make_model, make_optim, make_data, make_trainer):
    rows = make_examples(9)
    module = SFTModule(make_model(), optim=make_optim(), total_steps=1)
    values = measured(module, make_data(rows, val=rows).val_dataloader(), make_trainer())
    trainer = make_trainer()
    trainer.test(module, make_data(rows, test=rows), verbose=False)
    tested = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert tested == {key.replace("val", "test"): value for key, value in values.items()}


def test_what_is_logged_is_reduced_already_and_lies_on_the_modules_device(
    make_examples, make_model, make_optim, make_data, make_trainer, monkeypatch
):
    """A number on the CPU that Lightning is to reduce over GPUs ends the run (Lightning issue 18803)."""
    logged = []
    monkeypatch.setattr(SFTModule, "log_dict", lambda self, values, **options: logged.append((values, options)))
    monkeypatch.setattr(SFTModule, "device", torch.device("meta"))
    module = SFTModule(make_model(), optim=make_optim(), total_steps=1)
    module.validation_step(batch_of(make_examples(3)), 0)
    module.trainer = make_trainer()
    module.on_validation_epoch_end()
    ((values, options),) = logged
    assert not options.get("sync_dist", False)
    assert {value.device.type for value in values.values()} == {"meta"}


def test_each_validation_starts_from_nothing(make_examples, make_model, make_optim, make_data, make_trainer):
    rows = make_examples(9)
    module = SFTModule(make_model(), optim=make_optim(), total_steps=1)
    data = make_data(rows, val=rows)
    first, second = (measured(module, data.val_dataloader(), make_trainer()) for _ in range(2))
    assert first == second


def test_a_validation_loss_that_is_no_number_is_shown_as_such(
    make_examples, make_model, make_optim, make_data, make_trainer
):
    """Sums that leave NaN out would make a broken model the best one."""
    rows, model = make_examples(9), make_model(tie_weights=False)
    with torch.no_grad():
        model.lm_head.weight[3] = math.nan
    module = SFTModule(model, optim=make_optim(), total_steps=1)
    values = measured(module, make_data(rows, val=rows).val_dataloader(), make_trainer())
    assert math.isnan(values["val/loss"])


# -- divergence -----------------------------------------------------------------------------------------------------


class Poisoned(CrossEntropy):
    """Row 13 has a loss that is no number."""

    def __call__(self, model, batch):
        sums = super().__call__(model, batch)
        return sums._replace(loss=sums.loss * math.nan) if 13 in batch.rows else sums


class InfiniteGradient(CrossEntropy):
    """Row 13 has a finite loss, but a gradient beyond the largest number."""

    def __call__(self, model, batch):
        sums = super().__call__(model, batch)
        zero = sum(p.sum() for p in model.parameters())
        return sums._replace(loss=sums.loss + (zero - zero.detach()) * 1e30 * 1e30) if 13 in batch.rows else sums


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (2, 4)])
@pytest.mark.parametrize(("kind", "what"), [(Poisoned, "loss nan"), (InfiniteGradient, "gradient norm inf")])
def test_what_is_no_number_stops_the_run_before_it_touches_the_weights(
    fit, make_examples, make_model, make_optim, batch_size, accumulate, kind, what
):
    examples = make_examples(22)
    order = StepSampler(22, batch_size=8, seed=11).order()
    step = order.index(13) // 8 + 1
    assert step > 1  # so that something was learnt before
    rows = ", ".join(map(str, order[8 * (step - 1) : 8 * step]))
    module = SFTModule(make_model(), objective=kind(), optim=make_optim(), total_steps=6)
    with pytest.raises(DivergedError, match=rf"^step {step}: {what} on rows {rows} \(lower optim\.lr"):
        fit(examples, steps=6, module=module, batch_size=batch_size, accumulate=accumulate)
    before, _ = fit(examples, steps=step - 1, batch_size=batch_size, accumulate=accumulate)
    for name, value in module.model.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, before.model.state_dict()[name]), name
