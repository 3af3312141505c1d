"""What is used of Lightning's private API is still there: these fail first after an upgrade, and say where to look."""

import inspect

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops import fit_loop

from ift.training.loops import Trainer

MOVED = "Lightning {version} has no {what}: ift/training/loops.py must follow"


def there(thing, path):
    """The attribute at a path, or a clear failure."""
    for name in path.split("."):
        if not hasattr(thing, name):
            pytest.fail(MOVED.format(version=L.__version__, what=f"{path} ({name})"))
        thing = getattr(thing, name)
    return thing


def test_the_loop_that_is_replaced_is_there():
    loop = there(fit_loop, "_FitLoop")
    assert isinstance(inspect.getattr_static(loop, "skip"), property), "the fit loop no longer asks `skip`"
    assert list(inspect.signature(loop).parameters) == ["trainer", "min_epochs", "max_epochs"]


@pytest.mark.parametrize(
    "path",
    [
        "_signal_connector.register_signal_handlers",
        "fit_loop.epoch_loop._broadcast_sigterm_tensor",
        "fit_loop.epoch_loop.val_loop.run",
        "fit_loop.epoch_loop._batches_that_stepped",
        "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed",
        *(f"fit_loop.epoch_progress.{which}.completed" for which in ("current", "total")),
        *(f"fit_loop.epoch_loop.batch_progress.total.{n}" for n in ("ready", "started", "processed", "completed")),
    ],
)
def test_what_is_set_to_go_on_is_there(path):
    there(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), path)


def test_the_parts_do_what_they_are_used_for(make_examples, make_model, make_optim, make_data, monkeypatch):
    """A fit asks our loop, registers no signal handler, and its step is counted where a run that goes on sets it."""
    import signal

    from ift.training.module import SFTModule

    class Look(Callback):
        def on_train_batch_end(self, trainer, *args):
            epoch_loop = trainer.fit_loop.epoch_loop
            progress = epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
            counted.append((trainer.global_step, progress.completed, epoch_loop._batches_that_stepped))

    counted, before = [], signal.getsignal(signal.SIGTERM)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=3, max_epochs=-1, callbacks=[Look()],
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda *args: handlers.append(args))
    trainer.fit(SFTModule(make_model(), optim=make_optim(), total_steps=3), make_data(make_examples(22), batch_size=8))
    assert counted == [(1, 1, 0), (2, 2, 1), (3, 3, 2)]  # the last is counted up behind this hook
    assert handlers == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_wandb_is_given_to_lightnings_logger_in_a_private_place(tmp_path, monkeypatch, settings_of):
    """`Wandb.experiment` reads `_experiment`, where Lightning's logger puts the run that it is given."""
    from ift.training.loggers import Wandb

    run = object.__new__(
        type("Run", (), {"config": None, "offline": False, "define_metric": lambda *args, **kwargs: None})
    )
    monkeypatch.setattr("ift.training.loggers.start_wandb", lambda *args, **about: run)
    log = Wandb(settings_of("logger=wandb").logger, folder=tmp_path, config={}, run_id="abc")
    log.wait()
    assert log.experiment is run, MOVED.format(version=L.__version__, what="WandbLogger._experiment")
