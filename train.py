"""Fine-tune a GPT on instructions.

python train.py                                    the built-in demo, from scratch, two minutes on two cores
python train.py model=gpt2-medium data=alpaca      the real thing
python train.py --help                             what there is to choose
"""

import sys
import time

import hydra
from omegaconf import DictConfig

from ift import entry
from ift.run import RunFolder, is_other_rank, write_lines
from ift.settings import Settings, save_settings


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    with entry.job():
        run = RunFolder.create(entry.output_dir())
        with run.outcome(choices=entry.choices()):
            settings = entry.settings_from(config, Settings)
            save_settings(settings, run.config)
            return fine_tune(settings, run)
    return None


def fine_tune(settings: Settings, run: RunFolder) -> float | None:
    """Rows in; model, responses and report out. Returns the best validation loss, for sweeps."""
    from ift.data.chat_template import template_from
    from ift.data.page import write_page
    from ift.data.prepare import prepare
    from ift.data.show import show_report
    from ift.data.tokenizer import Tokenizer
    from ift.model.weights import plan_model

    # what can be wrong with settings, rows and weight files is found before torch is imported
    template = template_from(settings.prompt)
    tokenizer = Tokenizer.load(settings.model.tokenizer, template)
    config, weights = plan_model(settings.model, vocab_size=tokenizer.vocab_size)
    data = prepare(
        settings.data,
        template,
        tokenizer,
        context_length=config.context_length,
        seed=settings.seed,
        run=None if is_other_rank() else run,
    )
    if not is_other_rank():
        write_page(run, data, tokenizer)
        write_lines(run.test_rows, data.rows["test"].lines())
        print(*show_report(data.report), data.cached, sep="\n", flush=True)

    import lightning as L

    from ift.data.module import SFTDataModule
    from ift.evaluation.finish import finish, show_summary
    from ift.evaluation.responses import Answerer
    from ift.model.linear import compute_in
    from ift.model.weights import build_model
    from ift.training.callbacks import KeepBest, KeepLast, Samples, ShowProgress, ValidateAtTheEnd
    from ift.training.checkpoint import SafeCheckpointIO
    from ift.training.dry_run import dry_run
    from ift.training.loggers import open_loggers
    from ift.training.machine import choose_device
    from ift.training.module import SFTModule
    from ift.training.trainer import early_stopping, quiet_lightning, stop_reason, total_steps, val_interval

    quiet_lightning()
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
    steps = total_steps(options, datamodule.steps_per_epoch(options.devices))
    model = build_model(config, weights)
    compute_in(model, device.dtype)
    module = SFTModule(model, optim=settings.optim, total_steps=steps)
    if settings.dry_run:
        dry_run(module, datamodule, tokenizer, device)
        return None
    answer = Answerer(template, tokenizer, settings.generate, seed=settings.seed)
    sample_rows = data.rows["val"][: settings.samples.rows]
    about = {"data": data.report["fingerprint"], "data_report": data.hash}
    best = KeepBest(run.model, tokenizer, template, about=about)
    stopping = early_stopping(options.early_stopping)

    with open_loggers(settings, run, group=entry.sweep_name()) as loggers:
        trainer = L.Trainer(
            accelerator=device.accelerator,
            devices=options.devices,
            strategy=options.strategy,
            precision="32-true",  # weights, gradients and optimizer; `compute_in` says what products are computed in
            max_epochs=-1,
            max_steps=steps,
            accumulate_grad_batches=options.accumulate,
            val_check_interval=val_interval(options, steps),
            check_val_every_n_epoch=None,
            logger=loggers,
            log_every_n_steps=1,
            callbacks=[
                best,
                Samples(run.samples, lambda model: answer(model, sample_rows, settings.samples.max_new_tokens)),
                ShowProgress(steps),
                stopping,
                KeepLast(run.checkpoints),
                ValidateAtTheEnd(),
            ],
            plugins=[SafeCheckpointIO()],
            use_distributed_sampler=False,  # StepSampler knows about ranks
            inference_mode=False,  # running sums live through evaluation and training: no inference tensors
            num_sanity_val_steps=0,  # the untuned model is measured instead
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.validate(module, datamodule.baseline_dataloaders(), verbose=False)
        started = time.perf_counter()
        trainer.fit(module, datamodule)
        about = {
            "choices": entry.choices(),
            "stop_reason": stop_reason(trainer, options, stopping),
            "train_seconds": time.perf_counter() - started,
        }
        loss = finish(run, trainer, module, datamodule, data.rows["test"], answer, best, device, **about)
    if trainer.is_global_zero:
        show_summary(run)
    return loss


if __name__ == "__main__":
    sys.exit(entry.run(main, Settings))
