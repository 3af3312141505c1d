"""The proof that training survives, case by case: python -m tests.soak [SUITE ...] [--share 0.1] [--seed 1]

Every case is a line of JSON with the numbers that repeat it; the last line counts. --share takes a part of each suite.
The tests of the repository run a sample of the same cases.

kills       SIGKILL at a random time, in a save, inside a window, in validation, at an epoch's edge, while answering
chains      five kills in one run
stops       SIGTERM or SIGUSR1 in training, validation, answering and saving; one process and two
ranks       three processes: one or all killed
same        the same seed with 0, 1 and 2 loader workers, in a process of its own each
nonfinite   NaN or infinity in loss, activation or gradient, on one rank or another
crashes     the disk as it is after every file operation of a save: written, lost, or only its names kept
errors      the disk refuses at an offset of a save
damage      single bits flipped, files cut, files and folders exchanged
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

from ift.artifacts.verify import differences
from ift.errors import IftError
from ift.run import RunFolder, read_jsonl
from ift.sealed import LATEST, check, hash_file, newest, recover_folder, replace_folder, seal, step_folder, steps_there
from ift.text.tokenizers import Tokenizer
from tests.running import ROOT
from tests.warm import Warm

KILL, TERM, USR1 = int(signal.SIGKILL), int(signal.SIGTERM), int(signal.SIGUSR1)
LIMIT = 120  # seconds after which a training that hangs is killed
IMPORTS = (  # of train.py, done once
    *("lightning", "matplotlib.pyplot", "torchmetrics.functional.text"),
    *("ift.training.dry_run", "ift.training.finish", "ift.training.resume"),
)
TINY = (
    "logger=none", "model=nano", "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.context_length=256",
    "model.dropout=0.1", "data.demo_rows=60", "data.batch_size=2", "data.split=random",
    "trainer.accumulate=2", "trainer.max_epochs=2", "trainer.val_every=5", "trainer.save_every=1",
    "samples.rows=1", "samples.max_new_tokens=2", "generate.max_new_tokens=2", "trainer.accelerator=cpu",
)  # fmt: skip
STEPS, MICRO = 26, 52  # of TINY: two epochs of 13 steps, the last of 3 rows; two micro-batches each
STEP_ENDS = "ift.training.resume:Checkpoints.on_train_batch_end"
PLACES = {  # where a process can be hit -> a function called there, and how often it is called in a run
    "window": ("ift.training.module:SFTModule.training_step", MICRO),
    "step": (STEP_ENDS, MICRO),
    "update": ("ift.training.module:SFTModule.on_before_optimizer_step", STEPS),
    "validation": ("ift.training.module:SFTModule.validation_step", 14),
    "write": ("ift.sealed:write_file", STEPS),
    "tensors": ("ift.training.checkpoint:write_tensors", STEPS),
    "seal": ("ift.training.checkpoint:write_manifest", STEPS),
    "rename": ("os:rename", STEPS),
    "pointer": ("ift.sealed:point_to", STEPS),
    "prune": ("ift.sealed:prune", STEPS),
    "best": ("ift.training.callbacks:save_model_folder", 7),
    "numbers": ("ift.training.metrics_file:MetricsFile.log_metrics", 30),
    "answers": ("ift.evaluation.responses:generate", 9),
}
SAVING = ("write", "tensors", "seal", "rename", "pointer", "prune")
Result = dict[str, Any]


class Trainings:
    """Runs of train.py on something tiny, one after the other; a context manager."""

    def __init__(self, warm: Warm):
        self.warm = warm

    def __enter__(self) -> Trainings:
        self.vocabulary = Path(tempfile.mkdtemp(prefix="ift-bytes-"))  # a token a byte: nothing to train
        Tokenizer.from_ranks({bytes([b]): b for b in range(256)}, "bytes").save(self.vocabulary, context_length=256)
        return self

    def __exit__(self, *args: Any) -> None:
        shutil.rmtree(self.vocabulary)

    def run(
        self, folder: Path, *changes: str, ranks: int = 1, resume: bool = False, poison: Any = None, **plan: Any
    ) -> dict[str, Any]:
        """One training, to its end: what Warm.start returns, which takes the plan, and the output that was printed.

        poison: {site: loss, activation or gradient, call: micro-batch, value: nan, inf or -inf}
        """
        if resume:
            words = [f"resume={folder}", *changes]
        else:
            decided = {change.split("=")[0] for change in changes}
            tiny = [word for word in TINY if word.split("=")[0] not in decided]
            words = [f"output_dir={folder}", f"model.tokenizer={self.vocabulary}", *changes, *tiny]
            if ranks > 1:
                words += [f"trainer.devices={ranks}"]
                words += [] if "trainer.strategy" in decided else ["trainer.strategy=ddp"]
        if poison:
            plan["first"] = ["tests.soak:spoil", poison]
        log = Path(f"{folder}.log")
        log.unlink(missing_ok=True)
        end = self.warm.start(
            [str(ROOT / "train.py"), *words],
            stdout=log, stderr=log, timeout=LIMIT, environment={"OMP_NUM_THREADS": "1"},
            ranks=ranks, fsync=False, teardown=False, **plan,
        )  # fmt: skip
        return {**end, "output": log.read_text(errors="replace")}


def spoil(site: str, call: int, value: str) -> None:
    """Put a value that is no finite number into the n-th micro-batch of training, and print the batch's rows."""
    from torch import nn

    from ift.training.module import SFTModule

    calls, wrong = 0, float(value)
    init, step = SFTModule.__init__, SFTModule.training_step

    def counted(self: Any, batch: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            print("poisoned rows", json.dumps(batch.rows), flush=True)
        loss = step(self, batch, *args)
        return loss * wrong if calls == call and site == "loss" else loss

    def prepared(self: Any, model: Any, **options: Any) -> None:
        init(self, model, **options)
        first = next(part for part in model.modules() if isinstance(part, nn.LayerNorm))
        if site == "activation":
            first.register_forward_hook(lambda part, _, out: out * wrong if calls == call and part.training else None)
        elif site == "gradient":
            first.weight.register_hook(lambda gradient: gradient * wrong if calls == call else None)

    SFTModule.__init__, SFTModule.training_step = prepared, counted  # type: ignore[method-assign]


class Proof:
    """The uninterrupted runs that resumed ones are compared with, and a place for the others."""

    def __init__(self, trainings: Trainings, folder: Path):
        self.trainings, self.folder = trainings, folder
        self.number = 0
        self._whole: dict[tuple[int, ...], RunFolder] = {}

    def fresh(self) -> Path:
        self.number += 1
        return self.folder / f"run-{self.number}"

    def whole(self, ranks: int = 1) -> RunFolder:
        if (ranks,) not in self._whole:
            run = RunFolder(self.fresh())
            done = self.trainings.run(run.path, ranks=ranks)
            assert done["codes"] == [0] * ranks, done["output"][-2000:]
            self._whole[(ranks,)] = run
        return self._whole[(ranks,)]

    def finish(self, folder: Path, *changes: str, ranks: int = 1, resume: bool = True) -> str | None:
        """Let a run go on to its end; what is wrong with it then, or None."""
        if not (folder / "config.yaml").exists():
            resume = False  # hit before it had decided anything: the same command again
        done = self.trainings.run(folder, *changes, ranks=ranks, resume=resume)
        if done["codes"] != [0] * ranks:
            return f"going on ended with {done['codes']}: {done['output'][-300:]}"
        wrong = differences(self.whole(ranks), RunFolder(folder))
        if not wrong:
            shutil.rmtree(folder)
        return "; ".join(wrong) or None


def kills(proof: Proof, seed: int) -> Result:
    draw = random.Random(seed)
    folder, workers = proof.fresh(), draw.choice([0, 0, 2])
    changes = [f"data.num_workers={workers}"]
    kind = draw.choice(["time", "save", "window", "validation", "epoch", "other"])
    if kind == "time":
        plan: dict[str, Any] = {"kill": round(draw.uniform(0.3, 2.2), 3)}
    elif kind == "epoch":  # around the 26th micro-batch, the last of the first epoch
        plan = {"at": [STEP_ENDS, draw.randint(24, 29), KILL]}
    else:
        names = {"save": SAVING, "window": ("window", "step"), "validation": ("validation",)}
        place = draw.choice(names.get(kind, ("update", "best", "numbers", "answers")))
        function, calls = PLACES[place]
        plan = {"at": [function, draw.randint(1, calls), KILL], "place": place}
    done = proof.trainings.run(folder, *changes, **plan)
    while done["codes"] == [0]:  # it had ended before it could be hit: earlier, then
        shutil.rmtree(folder)
        plan = {"kill": plan["kill"] / 2} if "kill" in plan else {**plan, "at": [plan["at"][0], 1, KILL]}
        done = proof.trainings.run(folder, *changes, **plan)
    if done["codes"] != [-KILL]:
        return {"why": f"ended with {done['codes']}: {done['output'][-300:]}", **plan}
    again = draw.random() < 0.5  # the same command again, or resume=RUN: either must do
    wrong = proof.finish(folder, *changes, resume=again)
    return {"kind": kind, "workers": workers, "why": wrong, **plan}


def chains(proof: Proof, seed: int) -> Result:
    draw = random.Random(seed)
    folder, hits = proof.fresh(), []
    for i in range(5):
        place = draw.choice(["window", "step", *SAVING, "validation"])
        number = draw.randint(1, 12 if PLACES[place][1] > 20 else 4)
        hits.append([place, number])
        resume = i > 0 and (folder / "config.yaml").exists()
        done = proof.trainings.run(folder, at=[PLACES[place][0], number, KILL], resume=resume)
        if done["codes"] not in ([-KILL], [0]):
            return {"hits": hits, "why": f"ended with {done['codes']}: {done['output'][-300:]}"}
    return {"hits": hits, "why": proof.finish(folder)}


def stops(proof: Proof, seed: int) -> Result:
    """Exit 75, and the last step that was logged is the step of the checkpoint."""
    draw = random.Random(seed)
    ranks, number = draw.choice([1, 1, 2]), draw.choice([TERM, USR1, int(signal.SIGINT)])
    folder = proof.fresh()
    place = draw.choice(["time", "window", "validation", "answers", "write", "seal", "step"])
    rank = 0 if place in ("answers", "write", "seal") else draw.randrange(ranks)
    if place == "time":
        plan: dict[str, Any] = {"term": round(draw.uniform(0.9, 1.8) * (1.5 if ranks == 2 else 1), 3), "which": [rank]}
    else:
        function, calls = PLACES[place]
        plan = {"at": [function, draw.randint(1, calls // ranks), number], "rank": rank}
    done = proof.trainings.run(folder, ranks=ranks, **plan)
    while done["codes"] == [0] * ranks:  # it had ended before it was asked, or just then: earlier
        shutil.rmtree(folder)
        plan = {**plan, "term": plan["term"] / 2} if "term" in plan else {**plan, "at": [plan["at"][0], 1, number]}
        done = proof.trainings.run(folder, ranks=ranks, **plan)
    about = {"place": place, "ranks": ranks, "codes": done["codes"], "seconds": round(done["seconds"], 2), **plan}
    run = RunFolder(folder)
    if done["hung"]:
        return {**about, "why": "hung"}
    early = "before training began" in done["output"]
    if done["codes"] != [75, *[0] * (ranks - 1)] and not (early and 75 in done["codes"]):
        return {**about, "why": done["output"][-500:]}
    if run.metrics.exists():
        logged = max((line["step"] for line in read_jsonl(run.metrics)), default=0)
        saved = max(steps_there(run.checkpoints), default=0)
        if logged != saved:
            return {**about, "why": f"step {logged} was taken, step {saved} saved"}
    return {**about, "why": proof.finish(folder, ranks=ranks)}


def ranks(proof: Proof, seed: int) -> Result:
    """Three: the sum of two numbers is the same in either order, of three it is not."""
    draw, world = random.Random(seed), 3
    folder, which = proof.fresh(), draw.choice([[0], [1], [2], [0, 1, 2]])
    if draw.random() < 0.5:
        plan: dict[str, Any] = {"at": [PLACES["window"][0], draw.randint(1, MICRO // world), KILL], "rank": which[0]}
    else:
        plan = {"kill": round(draw.uniform(1.0, 2.5), 3), "which": which}
    done = proof.trainings.run(folder, ranks=world, **plan)
    while done["codes"] == [0] * world:
        shutil.rmtree(folder)
        plan["kill"] /= 2
        done = proof.trainings.run(folder, ranks=world, **plan)
    about = {"codes": done["codes"], "seconds": round(done["seconds"], 2), "swept": done["swept"], **plan}
    return {**about, "why": "hung" if done["hung"] else proof.finish(folder, ranks=world)}


def same(proof: Proof, seed: int) -> Result:
    """Another seed, with 0, 1 and 2 workers: one run each."""
    whole, wrong = None, []
    for workers in (0, 1, 2):
        run = RunFolder(proof.fresh())
        done = proof.trainings.run(run.path, f"seed={seed}", f"data.num_workers={workers}")
        if done["codes"] != [0]:
            return {"why": done["output"][-500:]}
        whole = whole or run
        wrong += [f"{workers} workers: {difference}" for difference in differences(whole, run)]
    return {"why": "; ".join(wrong) or None}


def nonfinite(proof: Proof, seed: int) -> Result:
    """Exit 6 with step and rows, or the step left out; no weight on disk is anything but a finite number."""
    draw = random.Random(seed)
    ranks, skip = draw.choice([1, 1, 1, 2]), draw.choice([0, 1])
    rank = draw.randrange(ranks)
    call = draw.randint(1, MICRO // ranks)
    what = {"site": draw.choice(["loss", "activation", "gradient"]), "call": call, "value": draw.choice(["nan", "inf"])}
    run = RunFolder(proof.fresh())
    done = proof.trainings.run(run.path, f"trainer.skip_nonfinite={skip}", ranks=ranks, poison=what, rank=rank)
    about = {"ranks": ranks, "rank": rank, "skip": skip, "codes": done["codes"], **what}
    step, output = -(-call // 2), done["output"]
    rows = next((json.loads(line[14:]) for line in output.splitlines() if line.startswith("poisoned rows ")), None)
    line = next((line for line in output.splitlines() if f"step {step}: " in line and " on rows " in line), "")
    named = line.partition(" on rows ")[2].partition(" (")[0].partition(":")[0].replace(", ...", "").split(", ")
    wrong = []
    if rows is None or not set(map(str, rows)) & set(named):
        wrong.append(f"rows {rows} not named in {line!r}")
    if done["codes"][0] != (0 if skip else 6):
        wrong.append(f"ended with {done['codes']}: {output[-300:]}")
    wrong += [
        f"{path}: a weight that is no finite number" for path in run.path.rglob("*.safetensors") if not finite(path)
    ]
    shutil.rmtree(run.path)
    return {**about, "why": "; ".join(wrong) or None}


def finite(path: Path) -> bool:
    from safetensors.torch import load_file

    tensors = load_file(path)  # early stopping's best loss is infinite before the first validation
    weights = [tensor for name, tensor in tensors.items() if not name.startswith("callbacks")]
    return all(bool(tensor.isfinite().all()) for tensor in weights if tensor.is_floating_point())


# -- a save, and a disk that fails it ---------------------------------------------------------------------------------


def tiny_state(step: int) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(step)
    tensors = {f"{name}": torch.randn(8, 8, generator=generator) for name in ("weight", "exp_avg", "exp_avg_sq")}
    return {"state": tensors, "counters": {"step": step, "loss": [1.5, None]}, "about": {"step": step}}


def save(folder: Path, step: int) -> OSError | None:
    from ift.training.checkpoint import SealedCheckpointIO

    files = SealedCheckpointIO()
    files.save_checkpoint(tiny_state(step), step_folder(folder, step))
    return files.failed


def is_right(path: Path) -> bool:
    """Whether a checkpoint holds what was saved for its step."""
    import torch

    from ift.training.checkpoint import SealedCheckpointIO

    state = SealedCheckpointIO().load_checkpoint(path)
    wanted = tiny_state(state["about"]["step"])
    same = all(torch.equal(state["state"][name], tensor) for name, tensor in wanted["state"].items())
    return same and state["counters"] == wanted["counters"]


class File:
    """A file as a disk may have it: what was written, and what was flushed."""

    def __init__(self, data: bytes = b""):
        self.live = self.durable = data


class Folder:
    def __init__(self) -> None:
        self.live: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}


class Disk:
    """Follows the file operations of a process below one folder, as a disk that may lose what was not flushed.

    A flush of a file keeps its bytes, a flush of a folder the names in it (POSIX promises no more; cf. Pillai et al.
    2014, "All File Systems Are Not Created Equal").
    """

    def __init__(self, root: Path):
        self.root, self.tree = root, self._read(root)
        self.open: dict[int, File | Folder] = {}
        self.operations: list[str] = []
        self.elsewhere: list[str] = []

    def _read(self, path: Path) -> Folder:
        folder = Folder()
        for each in path.iterdir():
            folder.live[each.name] = self._read(each) if each.is_dir() else File(each.read_bytes())
        folder.durable = dict(folder.live)
        return folder

    def _find(self, path: Any) -> tuple[Folder, str] | None:
        path = Path(os.fsdecode(path)) if not isinstance(path, int) else None
        if path is None or not path.is_relative_to(self.root):
            return None
        folder: Any = self.tree
        *parents, name = path.relative_to(self.root).parts or ("",)
        for parent in parents:
            folder = folder.live[parent]
        return folder, name

    @contextmanager
    def watching(self, after: Callable[[str], None]) -> Iterator[None]:
        """after: called with the name of each operation, when it is done."""
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "close", "rename", "replace", "mkdir")}
        real |= {name: getattr(os, name) for name in ("unlink", "rmdir")}

        def done(name: str) -> None:
            self.operations.append(name)
            after(name)

        def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            descriptor = real["open"](path, flags, *args, **kwargs)
            place = self._find(path)
            if place:
                folder, name = place
                if flags & os.O_CREAT and name not in folder.live:
                    folder.live[name] = File()
                self.open[descriptor] = folder.live[name] if name else folder
                if flags & os.O_TRUNC:
                    self.open[descriptor].live = b""  # type: ignore[assignment]
                done("open")
            elif flags & os.O_CREAT:
                self.elsewhere.append(os.fsdecode(path))
            return descriptor

        def write(descriptor: int, data: Any) -> int:
            written = real["write"](descriptor, data)
            if descriptor in self.open:
                self.open[descriptor].live += bytes(data)[:written]  # type: ignore[operator]
                done("write")
            return written

        def fsync(descriptor: int) -> None:
            if descriptor in self.open:  # not for real: what is flushed is known here
                entry: Any = self.open[descriptor]
                entry.durable = dict(entry.live) if isinstance(entry, Folder) else entry.live
                done("fsync")

        def close(descriptor: int) -> None:
            real["close"](descriptor)
            self.open.pop(descriptor, None)

        def move(kind: str) -> Callable[[Any, Any], None]:
            def move(source: Any, target: Any) -> None:
                real[kind](source, target)
                (folder, name), (to, its_name) = self._find(source), self._find(target)  # type: ignore[misc]
                to.live[its_name] = folder.live.pop(name)
                done(kind)

            return move

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            real["mkdir"](path, *args, **kwargs)
            if place := self._find(path):
                place[0].live[place[1]] = Folder()
                done("mkdir")

        def gone(kind: str) -> Callable[..., None]:
            def gone(path: Any, **kwargs: Any) -> None:
                real[kind](path, **kwargs)
                if place := self._find(path):
                    del place[0].live[place[1]]
                    done(kind)

            return gone

        fakes = {"open": open_, "write": write, "fsync": fsync, "close": close, "mkdir": mkdir}
        fakes |= {
            "rename": move("rename"),
            "replace": move("replace"),
            "unlink": gone("unlink"),
            "rmdir": gone("rmdir"),
        }
        with mock.patch.multiple(os, **fakes):
            yield

    def materialise(self, target: Path, *, names: str, data: str) -> None:
        """Make what a reader finds: names and data each "live" or "durable"."""
        target.mkdir()

        def build(folder: Folder, path: Path) -> None:
            for name, entry in getattr(folder, names).items():
                if isinstance(entry, Folder):
                    (path / name).mkdir()
                    build(entry, path / name)
                else:
                    (path / name).write_bytes(getattr(entry, data))

        build(self.tree, target)


WAYS = {  # what is left -> of names and of data
    "killed": ("live", "live"),
    "power lost": ("durable", "durable"),
    "names kept": ("live", "durable"),
}


def crash_states(folder: Path) -> Iterator[Result]:
    """After each operation of the third save: what a killed process leaves, and what a loss of power may."""
    place = folder / "checkpoints"
    for step in (1, 2):
        assert save(place, step) is None
    disk, found = Disk(place), []

    def after(operation: str) -> None:
        number = len(disk.operations)
        for way, (names, data) in WAYS.items():
            target = folder / "states" / f"{number}-{way.replace(' ', '-')}"
            disk.materialise(target, names=names, data=data)
            found.append((number, operation, way, target))

    (folder / "states").mkdir()
    with disk.watching(after):
        assert save(place, 3) is None
    last = len(disk.operations)
    assert last == found[-1][0]
    # a temporary folder on another filesystem can spoil nothing: no file is made outside the checkpoints' own folder
    yield {"operation": "all", "way": "elsewhere", "why": f"written: {disk.elsewhere}" if disk.elsewhere else None}
    for number, operation, way, target in found:
        with mock.patch("sys.stderr", open(os.devnull, "w")):
            try:
                whole = newest(target)
                wrong = None if whole and is_right(whole.path) else "what was loaded is not what was saved"
                if whole and number == last and whole.about["step"] != 3:
                    wrong = f"the save had returned, but step {whole.about['step']} was loaded"
                if save(target, 4) is not None or (after_it := newest(target)) is None or after_it.about["step"] != 4:
                    wrong = wrong or "the next save did not work"
            except (IftError, OSError) as error:
                wrong = str(error)
        shutil.rmtree(target)
        yield {"operation": number, "name": operation, "way": way, "why": wrong}


def model_states(folder: Path) -> Iterator[Result]:
    """After each operation with which a model folder takes the place of the one before."""
    place, disk_root = folder / "run" / "model", folder / "run"

    def write(path: Path, text: str) -> None:
        path.mkdir(parents=True)
        (path / "model.safetensors").write_text(text)
        seal(path, {"is": text})

    write(place, "old")
    write(folder / "new", "new")
    shutil.move(folder / "new", disk_root / "model.part")
    disk, found = Disk(disk_root), []

    def after(operation: str) -> None:
        for way, (names, data) in WAYS.items():
            target = folder / "states" / f"{len(disk.operations)}-{way.replace(' ', '-')}"
            disk.materialise(target, names=names, data=data)
            found.append((len(disk.operations), operation, way, target))

    (folder / "states").mkdir()
    with disk.watching(after):
        replace_folder(disk_root / "model.part", place)
    for number, operation, way, target in found:
        wrong = None
        try:
            recover_folder(target / "model")
            what = check(target / "model").about["is"]
            if number == len(disk.operations) and what != "new":
                wrong = "it was in place, but the old one is there"
        except IftError as error:
            wrong = str(error)
        yield {"operation": number, "name": operation, "way": way, "why": wrong}


@contextmanager
def refusing(offset: int, code: int) -> Iterator[None]:
    """A disk that takes so many bytes of what is written, then answers with an error."""
    real, taken = os.write, 0

    def write(descriptor: int, data: Any) -> int:
        nonlocal taken
        if descriptor <= 2:
            return real(descriptor, data)
        left = offset - taken
        if left <= 0:
            raise OSError(code, os.strerror(code))
        taken += (done := real(descriptor, memoryview(data)[:left]))
        return done

    with mock.patch.object(os, "write", write):
        yield


def disk_errors(folder: Path, number: int) -> Iterator[Result]:
    """ENOSPC, EDQUOT, EIO, EACCES and EROFS at offsets spread over a save, and at every call that is no write."""
    place = folder / "checkpoints"
    for step in (1, 2):
        assert save(place, step) is None
    size = sum(path.stat().st_size for path in step_folder(place, 2).iterdir()) + (place / LATEST).stat().st_size
    codes = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS]
    calls: list[tuple[str, Any]] = [("write", round(i * (size - 1) / (number - 1))) for i in range(number)]
    calls += [(name, 1 + i) for name in ("mkdir", "open", "fsync", "rename", "replace") for i in range(3)]
    step = 2
    for i, (name, at) in enumerate(calls):
        code = codes[i % len(codes)]
        before = newest(place)
        step += 1
        with refusing(at, code) if name == "write" else failing(name, at, code):
            failed = save(place, step)
        found = newest(place)
        wrong = None
        if found is None or before is None or not is_right(found.path):
            wrong = "no whole checkpoint is left"
        elif failed is not None and found.about["step"] not in (before.about["step"], step):
            wrong = f"step {found.about['step']} was loaded after a refused save of step {step}"
        elif failed is None and found.about["step"] != step:
            wrong = "a refused save was not noticed"
        elif failed is None and name == "write":
            wrong = "the disk refused, and the save said nothing"
        elif save(place, step := step + 1) is not None or newest(place).about["step"] != step:  # type: ignore[union-attr]
            wrong = "the next save did not work"
        yield {"call": name, "at": at, "error": errno.errorcode[code], "failed": failed is not None, "why": wrong}


@contextmanager
def failing(name: str, number: int, code: int) -> Iterator[None]:
    real, calls = getattr(os, name), 0

    def refuse(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    with mock.patch.object(os, name, refuse):
        yield


def damage(folder: Path, *, bits: int, cuts: int, swaps: int, seed: int) -> Iterator[Result]:
    """Every change of the newest checkpoint is found, the folder set aside, and the one before used."""
    draw = random.Random(seed)
    sound, place = folder / "sound", folder / "damaged"
    for step in (10, 11):  # one bit apart in their names and in LATEST
        assert save(sound, step) is None
    files = [path.relative_to(sound) for path in sorted(sound.rglob("*")) if path.is_file()]
    latest = [path for path in files if path.parts[0] in (LATEST, "step-00000011")]
    weights = [max(1, (sound / path).stat().st_size) for path in latest]
    for kind, number in (("bit", bits), ("cut", cuts), ("swap", swaps)):
        for _ in range(number):
            shutil.copytree(sound, place)
            about: Result = {"kind": kind}
            if kind == "swap":
                about["what"] = draw.choice(["state.json", "state-0.safetensors", "manifest.json", "folder", "stray"])
                exchange(place, about["what"])
            else:  # small files as often as large ones
                name = draw.choice(latest) if draw.random() < 0.5 else draw.choices(latest, weights)[0]
                data = bytearray((place / name).read_bytes())
                at = draw.randrange(len(data))
                about |= {"file": str(name), "at": at}
                if kind == "bit":
                    bit = draw.randrange(8)
                    about["bit"] = bit
                    data[at] ^= 1 << bit
                else:
                    del data[at:]
                (place / name).write_bytes(data)
            both = kind == "swap" and about["what"] != "stray"
            yield {**about, "why": found_and_passed_over(place, latest=about.get("file") == LATEST, both=both)}
            shutil.rmtree(place)


def exchange(place: Path, what: str) -> None:
    one, other = step_folder(place, 10), step_folder(place, 11)
    if what == "stray":
        (other / "code.pkl").write_bytes(b"not ours")
        return
    a, b = (one, other) if what == "folder" else (one / what, other / what)
    third = place / "third"
    a.rename(third), b.rename(a), third.rename(b)


def found_and_passed_over(place: Path, *, latest: bool, both: bool) -> str | None:
    with mock.patch("sys.stderr") as said:
        try:
            whole = newest(place)
        except IftError as error:  # both folders are damaged: then it is right to refuse
            return None if both and "no other checkpoint" in str(error) else str(error)
    words = "".join(str(call) for call in said.mock_calls)
    if whole is None or not is_right(whole.path):
        return "what was loaded is not what was saved"
    if latest:  # the checkpoint itself is whole
        pointer = f"{whole.path.name} {hash_file(whole.path / 'manifest.json')}\n".encode()
        mended = (place / LATEST).read_bytes() == pointer
        return None if whole.about["step"] == 11 and mended and words else "LATEST was not mended"
    if whole.about["step"] != 10:
        return f"step {whole.about['step']} was loaded"
    if "set aside as step-00000011.damaged" not in words:
        return "nothing was said"
    return None


# -- all of them ------------------------------------------------------------------------------------------------------

TRAINED: dict[str, tuple[Callable[[Proof, int], Result], int]] = {
    "kills": (kills, 200),
    "chains": (chains, 20),
    "stops": (stops, 50),
    "ranks": (ranks, 20),
    "same": (same, 3),
    "nonfinite": (nonfinite, 20),
}
SUITES = (*TRAINED, "crashes", "errors", "damage")


def results(proof: Proof, suite: str, *, share: float, seed: int) -> Iterator[Result]:
    if suite in TRAINED:
        run, number = TRAINED[suite]
        for i in range(math.ceil(number * share)):
            case_seed = seed * 1000 + i
            start = time.monotonic()
            result = run(proof, case_seed)
            yield {"suite": suite, "seed": case_seed, "took": round(time.monotonic() - start, 2), **result}
        return
    folder = proof.fresh()
    folder.mkdir()
    if suite == "crashes":
        found = chain(crash_states(folder), model_states(folder / "model"))
    elif suite == "errors":
        found = disk_errors(folder, math.ceil(40 * share) if share < 1 else 40)
    else:
        numbers = {"bits": 500, "cuts": 100, "swaps": 50}
        found = damage(folder, **{name: math.ceil(n * share) for name, n in numbers.items()}, seed=seed)
    for result in found:
        yield {"suite": suite, "seed": seed, **result}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help="all of them where none is named")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/soak.jsonl"))
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    counts: dict[str, list[int]] = {}
    warm = Warm(*IMPORTS)
    with tempfile.TemporaryDirectory(prefix="ift-soak-") as folder, Trainings(warm) as trainings:
        proof = Proof(trainings, Path(folder))
        with arguments.output.open("a", encoding="utf-8") as file:
            for suite in arguments.suites or SUITES:
                counts[suite] = [0, 0]
                for result in results(proof, suite, share=arguments.share, seed=arguments.seed):
                    ok = result["why"] is None
                    counts[suite][0] += ok
                    counts[suite][1] += 1
                    file.write(json.dumps({"ok": ok, **result}) + "\n")
                    file.flush()
                    if not ok:
                        print(json.dumps(result), flush=True)
                print(f"{suite:<10}{counts[suite][0]:>5} of {counts[suite][1]}", flush=True)
    warm.close()
    return int(any(passed != number for passed, number in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
