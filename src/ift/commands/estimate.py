"""`ift estimate`: memory, time and a useful number of devices for a training, before anything is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ift import entry
from ift.errors import ConfigError, DataError
from ift.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ift.artifacts.machine import Device
    from ift.data.batches import Batch
    from ift.data.contract.examples import Example
    from ift.model.config import GPTConfig
    from ift.model.gpt import GPT
    from ift.training.estimate import Machine, Plan, Share
    from ift.training.traced import Traced, Work

SAMPLE = 16  # batches that are looked at for one of mean size


@dataclass(frozen=True)
class Described:
    """Rows that are not at hand, in numbers."""

    rows: int
    mean: int  # tokens of a row
    longest: int
    supervised: float  # the share of a row that is learnt


@dataclass(frozen=True)
class Estimate:
    """The cost of a training. Bytes, seconds, numbers of things."""

    parameters: int
    trained: int
    precision: str
    machine: Machine
    plan: Plan
    share: Share
    longest_tokens: int  # computed in the batch that needs most memory
    step_tokens: float  # of rows, in a step on all devices
    step_products: float  # FLOP, in a step on all devices
    cache_bytes: int  # of keys and values, for a token of an answer
    useful_devices: int
    fits: int | None  # the fewest devices on which it fits, sharded; None: not known, or on none

    def as_json(self) -> dict[str, Any]:
        """Everything, and what follows from it."""
        tree = asdict(self)
        tree["share"] |= {"memory": self.share.memory, "needed": self.share.needed}
        tree["share"] |= {"seconds": self.share.seconds, "useful": self.share.useful}
        tree["plan"] |= {"steps": self.plan.steps, "rows_a_step": self.plan.rows_a_step}
        return tree | {"training_seconds": self.training_seconds}

    @property
    def training_seconds(self) -> float:
        return self.plan.steps * self.share.seconds


def estimate(words: Sequence[str], *, described: Described | None = None, machine: Mapping[str, Any]) -> Estimate:
    """words: settings of train.py. described: rows, where they are not at hand.

    machine: what is known of a device: `name` (one of PUBLISHED), or `products`, `moved`, `memory`, `wire`; what is
    not known is measured on this machine. Raises IftError as training does.
    """
    settings = entry.composed("train", words, Settings, values={"output_dir": "runs/estimate"})

    from ift.training.lightning_alone import import_lightning

    import_lightning(alone=not settings.trainer.callbacks)  # as training does, in time and memory

    from ift.data.datamodule import SFTDataModule
    from ift.model.gpt import GPT
    from ift.model.nf4 import in_four_bits, put_in_four_bits
    from ift.text.encoding import turn_end
    from ift.training.adapter import low_rank_of
    from ift.training.blocks import make_ready
    from ift.training.objectives import CrossEntropy
    from ift.training.optimizers import make_optimizer

    config, template, tokenizer, examples = _what_is_trained(settings, described)
    options, optim = settings.trainer, settings.optim
    device = _device(settings, config, machine.get("name"))
    occupied = _occupied()
    # only now, since what these import is no part of a training
    from ift.training.estimate import Plan, cache_bytes, share, useful_devices
    from ift.training.traced import trace_step

    data = SFTDataModule(
        {"train": examples}, settings.data,
        end_of_text=turn_end(template, tokenizer), accumulate=options.accumulate, seed=settings.seed,
        dropout=config.dropout, noise=optim.neftune_alpha, border=config.border,
    )  # fmt: skip

    low_rank = low_rank_of(settings.adapter, config)

    def make_model() -> GPT:
        model = GPT(config)
        if low_rank and low_rank.four_bits:
            put_in_four_bits(model)
            for _, layer in in_four_bits(model):
                layer.allocate()
        make_ready(model, settings, low_rank, device.dtype)
        return model

    objective = CrossEntropy(label_smoothing=optim.label_smoothing, neftune_alpha=optim.neftune_alpha)
    traced = partial(trace_step, make_model, lambda model: make_optimizer(model, optim), objective)
    longest_batch, typical_batch = data.longest_batch(), _typical(data, examples)
    longest = traced(longest_batch)
    typical = longest if described and described.mean == described.longest else traced(typical_batch)
    # the batch is one of a sample: what it does is taken per token of its rows
    mean = _mean_tokens(examples)
    of_mean = mean * min(settings.data.batch_size, len(examples)) / typical_batch.tokens
    typical = replace(typical, batch=typical.batch.times(of_mean))
    found = _machine(device, typical.batch, occupied, machine)
    plan = Plan(
        rows=described.rows if described else len(examples), row_tokens=mean,
        batch_size=settings.data.batch_size, accumulate=options.accumulate,
        epochs=options.max_epochs, max_steps=options.max_steps,
        devices=device.world, sharded=options.strategy == "fsdp",
    )  # fmt: skip
    cost = partial(share, longest, typical, found)

    def with_rows(devices: int, rows: int) -> Share:
        """The rows of a step on so many devices, in as few micro-batches as training would take."""
        micro = min(rows, plan.batch_size)
        fewer = replace(typical, batch=typical.batch.times(micro / plan.batch_size))
        return share(longest, fewer, found, devices=devices, accumulate=-(-rows // micro), sharded=plan.sharded)

    return Estimate(
        parameters=longest.parameters,
        trained=longest.trained,
        precision=device.precision,
        machine=found,
        plan=plan,
        share=cost(devices=plan.devices, accumulate=plan.accumulate, sharded=plan.sharded),
        longest_tokens=longest_batch.input_ids.numel(),
        step_tokens=plan.rows_a_step * mean,
        step_products=typical.batch.products * plan.accumulate * plan.devices,
        cache_bytes=cache_bytes(config, device.dtype.itemsize),
        useful_devices=useful_devices(with_rows, plan.rows_a_step),
        fits=_fits(longest, typical, found),
    )


def described_rows(rows: int | None, mean: int | None, longest: int | None, supervised: float) -> Described | None:
    """From the options of the command; None where rows are at hand. Raises ConfigError."""
    if rows is None and mean is None and longest is None:
        return None
    if rows is None or mean is None:
        raise ConfigError("--rows and --row-tokens go together (or neither: then the rows of data=NAME are read)")
    longest = max(mean, 4 * mean if longest is None else longest)
    if min(rows, mean) < 1 or not 0 < supervised <= 1:
        raise ConfigError("--rows, --row-tokens: must be 1 or more, --supervised more than 0 and at most 1")
    return Described(rows, mean, longest, supervised)


def _what_is_trained(settings: Settings, described: Described | None) -> tuple[GPTConfig, Any, Any, Sequence[Example]]:
    """The sizes of the model, its template and tokenizer, and rows of training."""
    from ift.artifacts.model_template import template_and_tokenizer
    from ift.artifacts.model_tokenizer import own_folder
    from ift.artifacts.weights import Folder, fit_settings, open_config, plan_model
    from ift.data.contract.prepare import prepare
    from ift.training.other_prompt import begin_with_its_own

    settings = begin_with_its_own(settings, [])
    template, tokenizer = template_and_tokenizer(settings.prompt, settings.model)
    folder = own_folder(settings.model)
    if folder is None:  # GPT-2, whose sizes are settings, or fresh weights
        sizes = replace(settings.model, pretrained=None)
        config, _ = plan_model(sizes, vocab_size=tokenizer.vocab_size)
    else:  # config.json alone: no weights are fetched
        its = Folder(folder, open_config(folder)[1], {})
        config = fit_settings(settings.model, its, vocab_size=tokenizer.vocab_size)
    if described:
        return config, template, tokenizer, _examples(described, settings.data.batch_size, config.context_length)
    rows = prepare(settings.data, template, tokenizer, context_length=config.context_length, run=None)
    return config, template, tokenizer, rows.examples["train"]


def _examples(described: Described, batch_size: int, context: int) -> Sequence[Example]:
    """One batch of the longest rows and, for the mean, batches of rows of mean length."""
    import numpy as np

    from ift.data.contract.examples import Example

    if described.longest > context:
        raise ConfigError(f"--longest {described.longest}: the model has {context} positions (give at most that)")

    def example(tokens: int, row: int) -> Example:
        learnt = np.zeros(tokens, dtype=bool)
        learnt[tokens - max(1, round(tokens * described.supervised)) :] = True
        # rows share no beginning: how alike they are is not known
        return Example(np.full(tokens, row, dtype=np.int32), learnt, row=row)

    longest = [example(described.longest, row) for row in range(batch_size)]
    return [*longest, *(example(described.mean, row) for row in range(batch_size, (SAMPLE + 1) * batch_size))]


def _typical(data: Any, examples: Sequence[Example]) -> Batch:
    """Of some batches of the first epoch, the one whose rows have most nearly the mean number of tokens."""
    order = data._sampler(len(examples), train=True, rank=0, world=1, limit=None).order()
    size = data.batch_size
    batches = [
        data.collate([examples[i] for i in order[at : at + size]])
        for at in range(0, min(len(order), SAMPLE * size), size)
    ]
    whole = [batch for batch in batches if len(batch.rows) == min(size, len(examples))] or batches
    mean = sum(batch.tokens for batch in whole) / len(whole)
    return min(whole, key=lambda batch: abs(batch.tokens - mean))


def _mean_tokens(examples: Sequence[Example]) -> float:
    from ift.data.contract.cache import lengths

    if not len(examples):
        raise DataError("no row is left to train on (ift check says why)")
    return float(lengths(examples).mean())


def _device(settings: Settings, config: GPTConfig, name: str | None) -> Device:
    """Those of the settings; with a name, the device of that name."""
    from ift.artifacts.machine import Device, choose_device

    options = settings.trainer
    if options.devices == "auto":
        raise ConfigError("trainer.devices=auto: an estimate is for so many devices (give a number)")
    devices = len(options.devices) if isinstance(options.devices, list) else options.devices or options.devices_alone
    if name is None:
        device = choose_device(options.accelerator, options.precision, n_embd=config.n_embd, devices=1)
    else:
        from ift.training.estimate import PUBLISHED

        if name not in PUBLISHED:
            raise ConfigError(f"--device {name}: not known ({', '.join(PUBLISHED)}; or --peak and --memory of yours)")
        device = Device("gpu", "bf16" if options.precision == "auto" else options.precision)
    return replace(device, count=devices, nodes=options.nodes or 1)


def _machine(device: Device, batch: Work, occupied: float, machine: Mapping[str, Any]) -> Machine:
    """The numbers of the device: named, given or measured."""
    from ift.training.estimate import PUBLISHED
    from ift.training.this_machine import this_machine

    name = machine.get("name")
    found = PUBLISHED[name] if name else this_machine(device, batch, occupied)
    return replace(found, **{key: value for key, value in machine.items() if key != "name" and value is not None})


def _occupied() -> float:
    """Memory of a process that is ready to train: what it imports is imported."""
    import ift.commands.train
    import ift.evaluation.responses
    import ift.pages.report
    import ift.training.finish
    import ift.training.trainer  # noqa: F401
    from ift.artifacts.machine import Device, peak_memory_bytes, resident_memory

    return float((resident_memory() or [peak_memory_bytes(Device("cpu", "fp32"))])[0])


def _fits(longest: Traced, typical: Traced, machine: Machine) -> int | None:
    from ift.training.estimate import share

    if machine.memory is None:
        return None
    for devices in (2**i for i in range(11)):
        if share(longest, typical, machine, devices=devices, accumulate=1, sharded=True).needed <= machine.memory:
            return devices
    return None


def show(found: Estimate) -> None:
    """Print it for a person."""
    from rich.console import Console
    from rich.table import Table

    each, plan, machine = found.share, found.plan, found.machine
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    gb = 1e9

    def line(what: str, value: str, why: str = "") -> None:
        table.add_row(what, value, why)

    line("parameters", f"{found.parameters:,}", f"{found.trained:,} of them trained, products in {found.precision}")
    line("device", f"{plan.devices:,}", f"{machine.name}: {machine.products / 1e12:.3g} TFLOP/s reached in products")
    for name in ("weights", "gradients", "state", "activations", "gathered", "occupied"):
        line(NAMES[name][0], f"{getattr(each, name) / gb:.2f} GB", NAMES[name][1].format(tokens=found.longest_tokens))
    if each.copied:
        line("copy for saving", f"{each.copied / gb:.2f} GB", COPIED[each.beside])
    line("memory of a device", f"{each.memory / gb:.2f} GB", _room(found))
    line("rows of a step", f"{plan.rows_a_step:,}", f"{found.step_tokens:,.0f} tokens of {plan.row_tokens:.0f} a row")
    line("work of a step", f"{found.step_products / 1e12:.3g} TFLOP", "of matrix products, forward and backward")
    line("time of a step", _time(each.seconds), f"{_time(each.compute)} computing, {_time(each.wire)} on the wire")
    line("tokens a second", f"{found.step_tokens / each.seconds:,.0f}", "on all devices")
    line("steps", f"{plan.steps:,}", f"{plan.rows:,} rows, {plan.epochs:g} epochs")
    line("time of training", _time(found.training_seconds), "validation, samples and saving not counted")
    line("useful devices", f"{found.useful_devices:,}", "for as many rows a step; more would wait most of the time")
    line("cache of answers", f"{found.cache_bytes / 1e3:,.1f} kB", "of keys and values, a token")
    console.print(table)


COPIED = {  # whether it lies in the device's own memory
    True: "of weights and optimizer, on the first rank, while a checkpoint is written",
    False: "of the machine's memory and not the device's, while a checkpoint is written",
}
NAMES = {
    "weights": ("weights", "fp32"),
    "gradients": ("gradients", "fp32"),
    "state": ("optimizer", ""),
    "activations": ("activations", "and logits, of the longest batch: {tokens:,} tokens"),
    "gathered": ("gathered", "whole for a moment, and what is sent"),
    "occupied": ("occupied", "by programs and libraries before training"),
}


def _room(found: Estimate) -> str:
    memory, each = found.machine.memory, found.share
    if memory is None:
        return ""
    of = f"of {memory / 1e9:.1f} GB"
    if each.needed > memory:
        return f"{of}: DOES NOT FIT; {_advice(found)}"
    return of if each.memory <= memory else f"{of}: fits without the copy; steps wait until a checkpoint is written"


def _advice(found: Estimate) -> str:
    if found.fits and found.fits > 1:
        return (
            f"trainer=fsdp trainer.devices={found.fits}, a smaller data.batch_size, or model.activation_checkpointing"
        )
    return "a smaller data.batch_size with more trainer.accumulate, or model.activation_checkpointing=true"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def as_text(found: Estimate) -> str:
    return json.dumps(found.as_json(), indent=2)
