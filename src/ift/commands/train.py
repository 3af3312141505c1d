"""Fine-tune a GPT on instructions.

python train.py                                    the built-in demo, from scratch, two minutes on two cores
python train.py model=gpt2-medium data=alpaca      the real thing
python train.py resume=RUN                         go on where a run was stopped
python train.py --help                             what there is to choose
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from ift import entry, jobs, meeting, stops
from ift.entry.callbacks import own_callbacks
from ift.errors import warn
from ift.launch import is_other_rank
from ift.run import RunFolder, read_json, write_json, write_lines
from ift.settings import Settings, save_settings
from ift.training import longer
from ift.training.other_prompt import begin_with_its_own

if TYPE_CHECKING:
    from ift.artifacts.machine import Device
    from ift.data.datamodule import SFTDataModule
    from ift.training.inputs import Inputs
    from ift.training.module import SFTModule


@hydra.main(version_base="1.3", config_path=str(entry.CONF), config_name="train")
def main(config: DictConfig) -> float | None:
    began = time.perf_counter() if entry.sweep_name() else None
    with entry.job() as is_due:
        if not is_due:
            return None
        run = RunFolder(entry.output_dir())
        with run.claimed():
            goes_on = meeting.agreed("begun", run.begun)
            # a refusal leaves the run as it is
            settings = longer.planned(run, settings_of(config, run)) if goes_on else None
            goes_on_longer = settings is not None and longer.is_longer(run, settings)
            if meeting.agreed("finished", run.finished and not goes_on_longer):
                return show_finished(run)
            with run.outcome(choices=entry.choices()):
                settings = settings or begin_with_its_own(settings_of(config, run), entry.given())
                jobs.refuse_without_siblings(run, settings.trainer.early_stopping.siblings)
                if not goes_on and not is_other_rank():
                    save_settings(settings, run.config)
                return fine_tune(settings, run, own=partial(own_callbacks, config), began=began)
    return None


def fine_tune(
    settings: Settings, run: RunFolder, *, own: Callable[[], list[Any]] = list, began: float | None = None
) -> float | None:
    """Rows in; model, responses and report out. Returns the best validation loss, for sweeps.

    own: makes the callbacks of trainer.callbacks
    began: when the run began, by time.perf_counter(); None: with the process
    """
    from ift.data.show import show_report
    from ift.pages.data_report import write_page
    from ift.training.inputs import check_inputs

    with meeting.after_the_first("inputs"):
        inputs = check_inputs(settings, run)  # what can be wrong is found before torch is imported
    if is_other_rank():
        pass
    elif inputs.checkpoint:
        print(f"goes on   from step {inputs.checkpoint.about['step']} in {run.path}", flush=True)
    else:
        write_page(run, inputs.data, inputs.tokenizer, end=inputs.turn_end)
        write_lines(run.test_rows, inputs.data.rows["test"].lines())
        print(*show_report(inputs.data.report, inputs.data.folder), inputs.data.cached, sep="\n", flush=True)

    from ift.training.lightning_alone import import_lightning

    import_lightning(alone=not settings.trainer.callbacks)

    from ift.artifacts.special_rows import untrained_tokens, warning
    from ift.artifacts.weights import build_model, without_blocks
    from ift.data.datamodule import Limits, SFTDataModule
    from ift.training.adapter import show_cost, show_trained, warn_of_large_steps, with_tokens
    from ift.training.blocks import make_ready
    from ift.training.dry_run import dry_run, few_steps, nothing_kept
    from ift.training.loss_scale import LossScale
    from ift.training.module import SFTModule
    from ift.training.objectives import CrossEntropy
    from ift.training.optim import lr_factor
    from ift.training.optimizers import show_rates
    from ift.training.preflight import refuse_small_disk, try_longest_batch
    from ift.training.trainer import in_steps, set_up_process, total_steps

    if settings.trainer.fast_dev_run:
        settings = few_steps(settings)
    callbacks = own()
    config, options = inputs.config, settings.trainer
    optim = settings.optim
    device = set_up_process(settings, n_embd=config.n_embd)
    data = SFTDataModule(
        inputs.data.examples, settings.data,
        end_of_text=inputs.turn_end, accumulate=options.accumulate, seed=settings.seed,
        dropout=config.dropout, noise=optim.neftune_alpha, border=config.border,
        limits=Limits(options.limit_train_batches, options.limit_val_batches, options.limit_test_batches),
    )  # fmt: skip
    epoch = data.steps_per_epoch(device.world)
    steps = total_steps(options, epoch)
    if not options.fast_dev_run:  # whose few steps are no other end
        longer.begin(
            run, settings,
            steps_of=lambda trainer: total_steps(trainer, epoch),
            rate_at=lambda step, before: lr_factor(step, before.optim, total_steps(before.trainer, epoch)),
        )  # fmt: skip
    settings = replace(settings, trainer=in_steps(options, epoch))
    if (limits := data.shortened(device.world)) and not is_other_rank():
        print(limits, flush=True)
    sharded = options.strategy == "fsdp" and not settings.dry_run  # of which each rank reads its slices, later
    low_rank = inputs.low_rank
    four_bits = low_rank is not None and low_rank.four_bits
    model = build_model(config, inputs.weights, four_bits=four_bits, sharded=sharded)
    model.stops = inputs.stops
    model.stored_dtype = "F32"  # steps are finer than bf16: rounded, it would be another model than was measured
    ends = build_model(without_blocks(config), inputs.weights) if inputs.weights and sharded else model
    wrong = untrained_tokens(ends, inputs.template, inputs.tokenizer) if inputs.weights else {}
    if low_rank:
        tokens = settings.adapter.trainable_tokens
        low_rank = with_tokens(low_rank, tokens, ends, inputs.template, inputs.tokenizer)
    make_ready(model, settings, low_rank, device.dtype, ends)
    del ends  # whole on every rank
    if wrong:
        inputs.data.report["untrained_tokens"] = wrong
        if not is_other_rank():
            write_json(run.data_report, inputs.data.report)
            warn(warning(wrong, model, turn_end=inputs.tokenizer.decode([inputs.turn_end])))
    module = SFTModule(
        model, objective=CrossEntropy(label_smoothing=optim.label_smoothing, neftune_alpha=optim.neftune_alpha),
        optim=optim, total_steps=steps, skip_nonfinite=options.skip_nonfinite,
        loss_scale=LossScale() if device.precision == "fp16" else None,
        text_size=partial(data.text_size, tokenizer=inputs.tokenizer),
    )  # fmt: skip
    if optim.layer_decay is not None and not is_other_rank():
        print(show_rates(model, optim), flush=True)
    if settings.dry_run:
        if not is_other_rank():
            dry_run(module, data, inputs.tokenizer, device, end=inputs.turn_end)
        return None
    refuse_small_disk(run.path, module)
    if not sharded:
        try_longest_batch(module, data, device)
    if low_rank and not is_other_rank():
        warn_of_large_steps(settings, device.world)
        print(show_trained(model), flush=True)
        if not sharded:
            print(show_cost(module, data, device), flush=True)
    with nothing_kept(run) if options.fast_dev_run else nullcontext(run) as folder:
        return train(settings, folder, inputs, device=device, data=data, module=module, own=callbacks, began=began)


def train(
    settings: Settings,
    run: RunFolder,
    inputs: Inputs,
    *,
    device: Device,
    data: SFTDataModule,
    module: SFTModule,
    own: Sequence[Any] = (),
    began: float | None = None,
) -> float | None:
    from ift.evaluation.responses import Answerer, show_summary, write_responses
    from ift.generation.likelihoods import reference_losses
    from ift.pages.report import write_report
    from ift.training.callbacks import KeepBest, Samples, ShowProgress, ValidateAtTheEnd
    from ift.training.clock import Clock
    from ift.training.finish import test_best
    from ift.training.loggers import open_loggers
    from ift.training.profiling import Trace, open_profiler
    from ift.training.resume import Checkpoints
    from ift.training.sharded import answering
    from ift.training.siblings import EndBehindSiblings
    from ift.training.spikes import Spikes
    from ift.training.top import KeepTop
    from ift.training.trainer import early_stopping, fit, make_trainer, stop_reason, val_every
    from ift.training.writer import Writer

    if inputs.checkpoint and not is_other_rank():
        longer.note_where(run, settings)
    meeting.all_here("training")  # from here on ranks wait for each other inside of torch
    options, steps, rows = settings.trainer, module.total_steps, inputs.data.rows
    answer = Answerer(inputs.template, inputs.tokenizer, settings.generate, seed=settings.seed)
    sample_rows, sample_tokens = rows["val"][: settings.samples.rows], settings.samples.max_new_tokens
    again = "nothing of it is kept: type the command again"
    hint = again if options.fast_dev_run else entry.how_to_go_on(run.path)
    with (
        stops.deferred(hint),
        stops.heard_in_torch(device.world > 1),
        open_loggers(settings, run, fresh=not inputs.checkpoint) as opened,
        Writer(Clock(began)) as writer,
    ):
        metrics, loggers = opened
        best = KeepBest(
            run.model, inputs.tokenizer, inputs.template, about=inputs.about, monitor=options.monitor, writer=writer
        )
        stopping = early_stopping(options.early_stopping, options.monitor)
        least = options.early_stopping.siblings
        behind = EndBehindSiblings(run, options.monitor, least) if least else None
        if options.save_top_k != 1:
            own = [*own, KeepTop(run.path / "best", best, k=options.save_top_k, fresh=not inputs.checkpoint)]
        checkpoints = Checkpoints(
            run.checkpoints, metrics,
            about=inputs.fingerprint, steps=steps, steps_per_epoch=data.steps_per_epoch(device.world),
            val_every=val_every(options, steps), save_every=options.save_every, restart_at=settings.optim.restart_at,
            writer=writer,
        )  # fmt: skip
        sample_examples = inputs.data.examples["val"][: settings.samples.rows]
        samples = Samples(
            run.samples,
            lambda model: [
                {**said, "loss": loss}
                for said, loss in zip(
                    answer(model, sample_rows, sample_tokens),
                    reference_losses(model, sample_examples, end_of_text=inputs.turn_end),
                    strict=True,
                )
            ],
            writer.clock,
        )
        callbacks = [
            best,
            samples,
            ShowProgress(steps, val_every(options, steps)),
            stopping,
            *([behind] if behind else []),
            ValidateAtTheEnd(),
            Spikes(metrics),
            *own,
            *([Trace(run.path / "profile")] if options.profiler == "pytorch" else []),
            checkpoints,
            writer.clock,
        ]
        profiler = open_profiler(options.profiler, run.path / "profile")
        trainer = make_trainer(
            options, device,
            steps=steps, loggers=loggers, callbacks=callbacks, profiler=profiler, weights=inputs.weights,
        )  # fmt: skip
        with best.named_where_diverged():
            fit(trainer, module, data, inputs.checkpoint)
        about = {
            "choices": entry.choices(),
            "stop_reason": (behind and behind.reason) or stop_reason(trainer, options, stopping),
            "train_seconds": writer.clock.train_seconds,
            **{f"{part}_seconds": seconds for part, seconds in writer.clock.seconds.items()},
        }
        test_best(run, trainer, module, data, best, device, **about)
        asked = rows["test"][: len(data.used("test"))]
        with answering(trainer, module.model) as answers:
            if trainer.is_global_zero:
                summary = write_responses(run, module.model, asked, answer)
            elif answers and asked:
                answer(module.model, asked)
        if trainer.is_global_zero:
            write_report(run)
            write_json(run.summary, {**summary, "status": "finished"})  # last: what says so has nothing left to do
        checkpoints.require_saved()
    if trainer.is_global_zero and not options.fast_dev_run:
        show_summary(run)
    return best.val_loss


def show_finished(run: RunFolder) -> float | None:
    loss = read_json(run.summary).get("val_loss")
    if not is_other_rank():
        print(
            f"ift: {run.path}: this run is finished; nothing was done "
            f"(resume={run.path} trainer.max_epochs=N goes on longer; another output_dir trains again)"
        )
    # an earlier release called a run finished that had diverged: its loss is nothing for a sweep to believe
    return loss if isinstance(loss, int | float) and math.isfinite(loss) else None


def settings_of(config: DictConfig, run: RunFolder) -> Settings:
    """The command's settings, with all that its loggers leave open."""
    from ift.training.dashboards import with_dashboards

    return with_dashboards(entry.settings_of(config, run), run, group=entry.sweep_name())


def command() -> int:
    """The whole command, with the words of `sys.argv`. Returns the exit code."""
    return entry.run(main, Settings)


if __name__ == "__main__":  # as Lightning starts its other ranks
    sys.exit(command())
