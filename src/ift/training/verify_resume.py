"""`ift verify-resume`: real trainings really killed, on the machine and with the settings of whoever asks."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ift.artifacts.verify import differences
from ift.errors import ConfigError, MachineError, one_line
from ift.run import RunFolder
from ift.sealed import steps_there

TRAIN = (sys.executable, "-m", "ift.commands.train")
SMALL = (  # where nothing else is said: dropout on, so that random states matter; epochs that end inside the run
    "model=nano", "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.dropout=0.1", "data.demo_rows=60",
    "data.batch_size=4", "trainer.accumulate=2",
)  # fmt: skip
ALWAYS = ("logger=none", "samples.rows=1", "samples.max_new_tokens=2", "generate.max_new_tokens=2")


def prove(overrides: Sequence[str], *, kills: int, steps: int, seed: int) -> Iterator[tuple[str, bool]]:
    """Lines of a table, and whether what they say is good.

    Raises MachineError where the undisturbed training fails: then there is nothing to compare with.
    """
    if steps < 2 or kills < 1:
        raise ConfigError(f"--steps {steps} --kills {kills}: must be at least 2 and 1")
    words = [*(overrides or SMALL), *ALWAYS, f"trainer.max_steps={steps}", "trainer.save_every=1"]
    words += [] if any("max_epochs=" in word for word in words) else ["trainer.max_epochs=1000"]  # steps end it
    yield f"{'killed':<28}{'went on from':<16}same losses, weights, optimizer, random states", True
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ift-verify-") as folder:
        whole = RunFolder(Path(folder) / "undisturbed")
        code, said = _train([f"output_dir={whole.path}", *words])
        if code:
            raise MachineError(f"the undisturbed training ended with {code}: {one_line(said, 120)}")
        for number in range(1, kills + 1):
            run = RunFolder(Path(folder) / f"killed-{number}")
            step, pause = draw.randrange(steps), draw.uniform(0, 0.05)
            where = _kill([f"output_dir={run.path}", *words], run, step, pause)
            saved = max(steps_there(run.checkpoints), default=0)
            code, said = _train([f"resume={run.path}", "logger=none"])
            wrong = [f"ended with {code}: {one_line(said, 100)}"] if code else differences(whole, run)
            yield f"{where:<28}{f'step {saved}':<16}{'; '.join(wrong) or 'yes'}", not wrong


def _train(words: list[str]) -> tuple[int, str]:
    done = subprocess.run([*TRAIN, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def _kill(words: list[str], run: RunFolder, step: int, pause: float) -> str:
    """Start a training and end it by SIGKILL some milliseconds after it has saved a step."""
    with subprocess.Popen(
        [*TRAIN, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and max(steps_there(run.checkpoints), default=0) < step:
            time.sleep(0.001)
        while process.poll() is None and not run.config.exists():
            time.sleep(0.001)
        time.sleep(pause)
        process.kill()
        process.wait()
    return f"SIGKILL {pause * 1000:.0f} ms after step {step}" if process.returncode < 0 else "not in time: it had ended"
