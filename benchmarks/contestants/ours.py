"""`ift`: the objects that train.py and evaluate.py build, in the same way, given rows that are tokens already."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]


def settings_of(overrides: list[str]) -> Any:
    """What `python train.py *overrides` is told."""
    from hydra import compose, initialize_config_dir

    from ift.entry import settings_from
    from ift.settings import Settings

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return settings_from(compose("train", overrides), Settings)


def main() -> None:
    from workload import Job

    job = Job()
    overrides = [f"trainer.precision={job.precision}", *job.options.get("overrides", [])]
    if "adapter=lora" in overrides:
        overrides.append(f"model.pretrained={job.workload.model}")
    settings = settings_of([*job.workload.plan["overrides"], *overrides])
    if job.job["logits"]:
        job.compare_logits(load(job).eval())
    elif "new_tokens" in job.options:
        answer(job, settings)
    elif job.options.get("bare"):
        train_bare(job, settings)
    else:
        train(job, settings)


def load(job: Any) -> Any:
    from ift.artifacts.weights import find_weights, load_model

    return load_model(find_weights(str(job.workload.model)))


def save(job: Any, model: Any) -> None:
    from ift.artifacts.weights import save_weights
    from ift.model.adapters import merge_adapters

    if job.job["save"]:
        folder = Path(job.job["save"]).with_suffix("")
        folder.mkdir()
        merge_adapters(model)
        save_weights(model, folder, end_of_text=job.workload.end_of_text)
        (folder / "model.safetensors").rename(job.job["save"])


# -- training ---------------------------------------------------------------------------------------------------------


def objects(job: Any, settings: Any) -> tuple[Any, Any, Any]:
    """Device, data module and module as train.py makes them; the sampler visits the rows in the order of the plan."""
    from ift.artifacts.machine import choose_device
    from ift.data.batches import StepSampler
    from ift.data.contract.examples import Example
    from ift.data.datamodule import SFTDataModule
    from ift.model.adapters import adapted, hold_base_in
    from ift.model.linear import compute_in
    from ift.training.adapter import low_rank_of
    from ift.training.module import SFTModule

    workload, rows = job.workload, [i for step in job.steps for i in step]
    order = StepSampler(len(rows), batch_size=settings.data.batch_size, seed=settings.seed).order()
    examples: list[Any] = [None] * len(rows)
    for place, i in zip(order, rows, strict=True):
        examples[place] = Example(*workload.row(i), ends=bool(workload.ends[i]), row=i)
    data = SFTDataModule(
        {"train": examples, "val": examples, "test": examples},
        settings.data,
        end_of_text=workload.end_of_text,
        accumulate=settings.trainer.accumulate,
        dropout=settings.model.dropout,
        seed=settings.seed,
    )
    model = load(job)
    device = choose_device("cpu", settings.trainer.precision, n_embd=model.config.n_embd)
    if low_rank := low_rank_of(settings.adapter, model.config):
        adapted(model, low_rank)
        hold_base_in(model, device.dtype)
    compute_in(model, device.dtype)
    module = SFTModule(model, optim=settings.optim, total_steps=len(job.steps))
    return device, data, module


def train(job: Any, settings: Any) -> None:
    import lightning as L
    from lightning.pytorch.callbacks import Callback

    from ift.artifacts.machine import keep_freed_memory
    from ift.training.trainer import quiet_lightning

    quiet_lightning()
    keep_freed_memory()
    device, data, module = objects(job, settings)
    batches: list[Any] = []

    class Laps(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            job.step_done()
            batches.append(batch)

    trainer = L.Trainer(
        accelerator=device.accelerator,
        devices=1,
        precision="32-true",
        max_epochs=-1,
        max_steps=len(job.steps),
        check_val_every_n_epoch=None,
        limit_val_batches=0,
        logger=kept_in(job),
        log_every_n_steps=1,
        callbacks=[Laps()],
        use_distributed_sampler=False,
        inference_mode=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    finish(job, batches, module)


def kept_in(job: Any) -> Any:
    """A logger that keeps loss and gradient norm of each step, as they leave for W&B."""
    from lightning.pytorch.loggers.logger import Logger

    class Kept(Logger):
        name, version = "kept", 0

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if "train/loss" in metrics:
                job.losses.append(float(metrics["train/loss"]))
                job.norms.append(float(metrics["grad_norm"]))

    return Kept()


def train_bare(job: Any, settings: Any) -> None:
    """The same module, hook by hook, in a loop of its own: what Lightning adds is the difference."""
    from ift.artifacts.machine import keep_freed_memory

    keep_freed_memory()
    _, data, module = objects(job, settings)
    (optimizer,), (schedule,) = module.configure_optimizers()
    stand_in = SimpleNamespace(
        accumulate_grad_batches=settings.trainer.accumulate,
        world_size=1,
        global_rank=0,
        is_global_zero=True,
        global_step=0,
        current_epoch=0,
        loggers=[kept_in(job)],
        optimizers=[optimizer],
        sanity_checking=False,
        strategy=SimpleNamespace(reduce=lambda tensor, **_: tensor),
    )
    module._trainer = stand_in
    batches: list[Any] = []
    for number, batch in enumerate(data.train_dataloader()):

        def closure(batch: Any = batch, number: int = number) -> Any:
            optimizer.zero_grad()
            loss = module.training_step(batch, number)
            loss.backward()
            module.on_before_optimizer_step(optimizer)
            return loss

        module.optimizer_step(0, number, optimizer, closure)
        schedule["scheduler"].step()
        stand_in.global_step += 1
        job.step_done()
        batches.append(batch)
    finish(job, batches, module)


def finish(job: Any, batches: list[Any], module: Any) -> None:
    if [batch.rows for batch in batches] != job.steps:
        raise SystemExit("the rows of a step are not those of the plan")
    computed = [batch.input_ids.numel() for batch in batches]
    job.finish(computed=computed, attended=[attended(batch) for batch in batches])
    save(job, module.model)


def attended(batch: Any) -> list[tuple[int, int]]:
    """Queries and keys that are multiplied with each other, block by block."""
    from ift.training.objectives import layout_of

    if batch.lengths is None:
        return [(batch.input_ids.shape[1],) * 2] * len(batch.input_ids)
    blocks = layout_of(batch).blocks()
    return [
        (queries.stop - queries.start, sum(part.stop - part.start for part in (keys, *shared)))
        for queries, keys, shared in blocks
    ]


# -- generation -------------------------------------------------------------------------------------------------------


def answer(job: Any, settings: Any) -> None:
    from ift.artifacts.machine import placed
    from ift.generation.engine import generate

    model = placed(load(job), "cpu", job.job["precision"])
    end = job.options["end"]

    def answers(new_tokens: int) -> list[list[int]]:
        said = generate(
            model,
            job.questions(),
            end_of_text=-1 if end is None else end,
            max_new_tokens=new_tokens,
            batch_size=settings.generate.batch_size,
        )
        return [answer.ids for answer in said]

    job.answer(answers)


if __name__ == "__main__":
    sys.exit(main())
