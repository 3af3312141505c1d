"""Real training processes that start in a tenth of a second: forked from one that has imported everything.

`Trainings()` starts that process (python -m tests.forked), which reads a line of JSON for each training and answers
with a line. A training is all of train.py, with its signals, its lock and its exit code; it can be killed from outside
after so many seconds, or kill itself at the n-th call of a function ("at"). The random state, the files and the end of
such a process are those of one that was started by hand; only its imports are shared.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import math
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TINY = (  # 24 steps in two epochs of 12, the last one short; a window is two micro-batches
    "logger=none", "model=nano", "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.context_length=256",
    "model.dropout=0.1", "data.demo_rows=60", "data.batch_size=2", "data.split=random",
    "trainer.accumulate=2", "trainer.max_epochs=2", "trainer.val_every=5", "trainer.save_every=1",
    "samples.rows=1", "samples.max_new_tokens=2", "generate.max_new_tokens=2", "trainer.accelerator=cpu",
)  # fmt: skip
LIMIT = 120  # seconds after which a training that hangs is killed
GRACE = 10  # seconds that a rank may live on when another was killed


def overrides(*changes: str) -> list[str]:
    decided = {change.split("=")[0] for change in changes}
    return [*changes, *(word for word in TINY if word.split("=")[0] not in decided)]


class Trainings:
    """Starts trainings one after the other; a context manager."""

    def __enter__(self) -> Trainings:
        from ift.text.tokenizers import Tokenizer

        self.vocabulary = Path(tempfile.mkdtemp(prefix="ift-bytes-"))  # a token a byte: nothing to train
        Tokenizer._from_ranks({bytes([b]): b for b in range(256)}, "bytes").save(self.vocabulary, context_length=256)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *args: Any) -> None:
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(timeout=LIMIT)
        shutil.rmtree(self.vocabulary)

    def run(self, folder: Path, *changes: str, ranks: int = 1, **plan: Any) -> dict[str, Any]:
        """One training, to its end: {"codes": exit code of each rank (-9 if killed), "output": what was printed}.

        kill, term: seconds after which the process gets SIGKILL or SIGTERM; which: the ranks that do (0 alone)
        at: [function, n, signal]: it sends itself a signal at the n-th call of "module:name"; rank: the one that does;
            again: a second signal right after it
        poison: {site: loss, activation or gradient, call: micro-batch, value: nan, inf or -inf}
        limit: bytes that a file may have
        patch: [[function, "module:name"], ...]: what stands in for a function of train.py's process
        """
        assert self.server.stdin
        assert self.server.stdout
        if plan.pop("resume", False):
            words = [f"resume={folder}", *changes]
        else:
            words = [f"output_dir={folder}", f"model.tokenizer={self.vocabulary}", *overrides(*changes)]
            words += ["trainer.strategy=ddp", f"trainer.devices={ranks}"] if ranks > 1 else []
        self.server.stdin.write(json.dumps({"argv": words, "ranks": ranks, "log": f"{folder}.log", **plan}) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, "the server of trainings ended"
        return {**json.loads(answer), "output": Path(f"{folder}.log").read_text(errors="replace")}


# -- the server ------------------------------------------------------------------------------------------------------


def find(place: str) -> tuple[Any, str]:
    """ "package.module:Class.name": the object that holds the name, and the name."""
    module, _, path = place.partition(":")
    *holders, name = path.split(".")
    holder = importlib.import_module(module)
    for each in holders:
        holder = getattr(holder, each)
    return holder, name


def at_call(place: str, number: int, send: int, again: int | None = None) -> None:
    """Make this process send itself a signal (and another) when a function is called for the n-th time."""
    holder, name = find(place)
    real, calls = getattr(holder, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            for each in (send, again):
                if each is not None:
                    os.kill(os.getpid(), each)
        return real(*args, **kwargs)

    setattr(holder, name, counted)


def poison(site: str, call: int, value: str, here: bool) -> None:
    """Put a value that is no finite number into the n-th micro-batch of training, and print the batch's rows."""
    from torch import nn

    from ift.training.module import SFTModule

    calls, wrong = 0, float(value)
    init, step = SFTModule.__init__, SFTModule.training_step

    def due() -> bool:
        return here and calls == call

    def counted(self: Any, batch: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if due():
            print("poisoned rows", json.dumps(batch.rows), flush=True)
        loss = step(self, batch, *args)
        return loss * wrong if due() and site == "loss" else loss

    def prepared(self: Any, model: Any, **options: Any) -> None:
        init(self, model, **options)
        first = next(part for part in model.modules() if isinstance(part, nn.LayerNorm))
        if site == "activation":
            first.register_forward_hook(lambda part, given, out: out * wrong if due() and part.training else None)
        elif site == "gradient":
            first.weight.register_hook(lambda gradient: gradient * wrong if due() else None)

    SFTModule.__init__, SFTModule.training_step = prepared, counted  # type: ignore[method-assign]


def child(order: dict[str, Any], rank: int, port: int) -> int:
    """What a forked process does: all of train.py."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ.pop("IFT_DEBUG", None)
    if "dump" in order:  # seconds after which the stack of each thread is printed
        faulthandler.dump_traceback_later(order["dump"], file=sys.stderr)
    os.environ.update(order.get("environment", {}))
    if order["ranks"] > 1:
        os.environ.update(
            LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(order["ranks"]),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
        )  # fmt: skip
    if not order.get("flush"):  # a killed process loses nothing that it wrote: only a loss of power would
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
    for target, replacement in order.get("patch", []):
        holder, name = find(target)
        source, its_name = find(replacement)
        setattr(holder, name, getattr(source, its_name))
    if "limit" in order:  # bytes of a file: the kernel refuses more, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
    if "at" in order and rank == order.get("rank", 0):
        at_call(*order["at"], order.get("again"))
    if "poison" in order:
        poison(**order["poison"], here=rank == order.get("rank", 0))
    sys.argv = [str(ROOT / "train.py"), *order["argv"]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def fork(order: dict[str, Any], rank: int, port: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setsid()
            code = child(order, rank, port)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    return pid


def serve_one(order: dict[str, Any]) -> dict[str, Any]:
    Path(order["log"]).unlink(missing_ok=True)
    start, port = time.monotonic(), free_port()
    pids = {fork(order, rank, port): rank for rank in range(order["ranks"])}
    todo = [(order[name], number) for name, number in (("kill", 9), ("term", 15)) if name in order]
    which = order.get("which", [0])
    codes: dict[int, int] = {}
    ends = {"hung": start + LIMIT, "swept": math.inf}  # a rank that is left over is killed, as launchers do
    found = dict.fromkeys(ends, False)

    def send(number: int, ranks: Any) -> None:
        for each, rank in pids.items():
            if rank in ranks and rank not in codes:
                os.kill(each, number)

    while len(codes) < len(pids):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in pids:
            codes[pids[pid]] = os.waitstatus_to_exitcode(status)
            if codes[pids[pid]] < 0:
                ends["swept"] = min(ends["swept"], time.monotonic() + GRACE)
        now = time.monotonic()
        for seconds, number in [item for item in todo if now - start >= item[0]]:
            todo.remove((seconds, number))
            send(number, which)
        for why in [why for why, end in ends.items() if now > end]:
            found[why], ends[why] = True, math.inf
            send(signal.SIGKILL, range(len(pids)))
        time.sleep(0.001)
    return {"codes": [codes[rank] for rank in range(len(pids))], "seconds": time.monotonic() - start, **found}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(ROOT))
    import lightning  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import torchmetrics.functional.text  # noqa: F401

    import ift.training.dry_run
    import ift.training.finish
    import ift.training.resume  # noqa: F401

    for line in sys.stdin:
        answers.write(json.dumps(serve_one(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
