"""Fine-tune a GPT on instructions.

python train.py                                    the built-in demo, from scratch, two minutes on two cores
python train.py model=gpt2-medium data=alpaca      the real thing
python train.py resume=RUN                         go on where a run was stopped
python train.py --help                             what there is to choose
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from ift import entry, stops
from ift.errors import DataError
from ift.run import RunFolder, is_other_rank, read_json, write_json, write_lines
from ift.settings import Settings, save_settings

if TYPE_CHECKING:
    from ift.data.contract.prepare import Prepared
    from ift.sealed import Sealed


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    with entry.job():
        run = RunFolder(entry.output_dir())
        with run.claimed():
            goes_on = run.begun
            settings = entry.settings_of(config, run) if goes_on else None  # a refusal leaves the run as it is
            if run.finished:
                return show_finished(run)
            with run.outcome(choices=entry.choices()):
                settings = settings or entry.settings_of(config, run)
                if not goes_on:
                    save_settings(settings, run.config)
                return fine_tune(settings, run)
    return None


def fine_tune(settings: Settings, run: RunFolder) -> float | None:
    """Rows in; model, responses and report out. Returns the best validation loss, for sweeps."""
    from ift.artifacts.weights import plan_model
    from ift.data.contract.prepare import prepare
    from ift.data.show import show_report
    from ift.data.vocabulary import load_tokenizer
    from ift.pages.data_report import write_page
    from ift.sealed import newest
    from ift.text.chat_templates import template_from

    point = newest(run.checkpoints, mend=not is_other_rank())  # where a run that was stopped goes on
    # what can be wrong with settings, rows and weight files is found before torch is imported
    template = template_from(settings.prompt)
    tokenizer = load_tokenizer(settings.model.tokenizer, template)
    config, weights = plan_model(settings.model, vocab_size=tokenizer.vocab_size)
    data = prepare(
        settings.data,
        template,
        tokenizer,
        context_length=config.context_length,
        seed=settings.seed,
        run=None if is_other_rank() or point else run,
    )
    if point:
        refuse_other_data(point, data)
        print(f"goes on   from step {point.about['step']} in {run.path}", flush=True)
    elif not is_other_rank():
        write_page(run, data, tokenizer)
        write_lines(run.test_rows, data.rows["test"].lines())
        print(*show_report(data.report), data.cached, sep="\n", flush=True)

    import lightning as L

    from ift.artifacts.machine import choose_device, keep_freed_memory
    from ift.artifacts.weights import build_model
    from ift.data.datamodule import SFTDataModule
    from ift.evaluation.responses import Answerer, show_summary, write_responses
    from ift.model.linear import compute_in
    from ift.pages.report import write_report
    from ift.training.callbacks import KeepBest, Samples, ShowProgress, ValidateAtTheEnd
    from ift.training.checkpoint import SealedCheckpointIO
    from ift.training.dry_run import dry_run
    from ift.training.finish import test_best
    from ift.training.loggers import open_loggers
    from ift.training.module import SFTModule
    from ift.training.preflight import Spikes, refuse_small_disk, try_longest_batch
    from ift.training.resume import Checkpoints, Trainer
    from ift.training.trainer import early_stopping, quiet_lightning, stop_reason, total_steps, val_every

    quiet_lightning()
    keep_freed_memory()
    L.seed_everything(settings.seed, verbose=False)
    options = settings.trainer
    device = choose_device(options.accelerator, options.precision, n_embd=config.n_embd, devices=options.devices)
    datamodule = SFTDataModule(
        data.examples,
        settings.data,
        end_of_text=tokenizer.end_of_text,
        accumulate=options.accumulate,
        dropout=config.dropout,
        seed=settings.seed,
    )
    steps_per_epoch = datamodule.steps_per_epoch(options.devices)
    steps = total_steps(options, steps_per_epoch)
    model = build_model(config, weights)
    compute_in(model, device.dtype)
    module = SFTModule(model, optim=settings.optim, total_steps=steps, skip_nonfinite=options.skip_nonfinite)
    if settings.dry_run:
        dry_run(module, datamodule, tokenizer, device)
        return None
    refuse_small_disk(run.path, module)
    try_longest_batch(module, datamodule, device)
    answer = Answerer(template, tokenizer, settings.generate, seed=settings.seed)
    sample_rows = data.rows["val"][: settings.samples.rows]
    about = {"data": data.report["fingerprint"], "data_report": data.hash}
    best = KeepBest(run.model, tokenizer, template, about=about)
    stopping = early_stopping(options.early_stopping)
    if not point and not is_other_rank():  # numbers of a run that ended before its first checkpoint
        run.metrics.unlink(missing_ok=True)

    hint = f"go on with: python train.py resume={run.path}"
    with stops.deferred(hint), open_loggers(settings, run, group=entry.sweep_name()) as (metrics, loggers):
        files = SealedCheckpointIO(before=metrics.flush)
        checkpoints = Checkpoints(
            run.checkpoints,
            files,
            metrics,
            about={"data": data.report["fingerprint"]},
            steps=steps,
            steps_per_epoch=steps_per_epoch,
            val_every=val_every(options, steps),
            save_every=options.save_every,
        )
        trainer = Trainer(
            accelerator=device.accelerator,
            devices=options.devices,
            strategy=options.strategy,
            precision="32-true",  # weights, gradients and optimizer; `compute_in` says what products are computed in
            max_epochs=-1,
            max_steps=steps,
            accumulate_grad_batches=options.accumulate,
            val_check_interval=val_every(options, steps) * options.accumulate,  # micro-batches: always whole steps
            check_val_every_n_epoch=None,
            logger=loggers,
            log_every_n_steps=1,
            callbacks=[
                best,
                Samples(run.samples, lambda model: answer(model, sample_rows, settings.samples.max_new_tokens)),
                ShowProgress(steps),
                stopping,
                ValidateAtTheEnd(),
                Spikes(metrics),
                checkpoints,
            ],
            plugins=[files],
            enable_checkpointing=False,  # Lightning's own; ours is among the callbacks
            use_distributed_sampler=False,  # StepSampler knows about ranks
            inference_mode=False,  # running sums live through evaluation and training: no inference tensors
            num_sanity_val_steps=0,  # the untuned model is measured instead
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if not point:
            trainer.validate(module, datamodule.baseline_dataloaders(), verbose=False)
        trainer.fit(module, datamodule, ckpt_path=point.path if point else None)
        about = {
            "choices": entry.choices(),
            "stop_reason": stop_reason(trainer, options, stopping),
            "train_seconds": checkpoints.train_seconds,
        }
        test_best(run, trainer, module, datamodule, best, device, **about)
        if trainer.is_global_zero:
            summary = write_responses(run, module.model, data.rows["test"], answer)
            write_report(run)
            write_json(run.summary, {**summary, "status": "finished"})  # last: what says so has nothing left to do
        checkpoints.require_saved()
    if trainer.is_global_zero:
        show_summary(run)
    return best.val_loss


def refuse_other_data(point: Sealed, data: Prepared) -> None:
    """Raises DataError if the rows are not those that the run began with."""
    before, now = point.about["data"], data.report["fingerprint"]
    if before != now:
        raise DataError(
            f"the rows have changed since the run began: fingerprint {now[:16]}, then {before[:16]} "
            "(bring them back, or begin a new run)"
        )


def show_finished(run: RunFolder) -> float | None:
    loss: float | None = read_json(run.summary).get("val_loss")
    if not is_other_rank():
        print(f"ift: {run.path}: this run is finished; nothing was done (choose another output_dir to train again)")
    return loss


if __name__ == "__main__":
    sys.exit(entry.run(main, Settings))
