"""What `ift watch` costs on many long runs: until the page has its first view, until it has read all, memory, a poll.

python benchmarks/watching.py [--runs 200] [--steps 10000] [--folder FOLDER] [--rounds 3]

first view  from the start of the command: its address, the page, every run with its state, progress and last numbers,
            and curves of the four that are drawn as far as they are read in a quarter of a second
whole view  the same with those curves whole
its processor seconds: of the command until then
all read    every line of every file, in the background of the requests that follow
memory      the most that the process ever had (VmHWM)
a poll      a request that finds nothing new
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NAMES = ["train/loss", "val/loss", "lr", "grad_norm", "tokens_per_second"]
LIVE = 5  # of the runs; the others have ended


def make_runs(folder: Path, runs: int, steps: int) -> None:
    """Finished and running trainings whose files are as long as real ones; their numbers are made up."""
    draw = random.Random(1)
    lines, tokens = [], 0
    for step in range(steps + 1):
        tokens += draw.randint(600, 720)
        numbers = {"step": step, "tokens": tokens, "supervised_tokens": tokens // 3, "epoch": step // 1000}
        numbers |= {"train/loss": 7 * 0.9997**step + draw.random() / 5, "lr": 1e-3 * draw.random()}
        numbers |= {"grad_norm": 5 * draw.random(), "tokens_per_second": 2000 + 1500 * draw.random()}
        if step % (steps // 100 or 1) == 0:
            numbers |= {f"val/{name}": draw.random() for name in ("loss", "perplexity", "accuracy", "bits_per_byte")}
        lines.append(json.dumps(numbers) + "\n")
    for run in range(runs):
        place = folder / "sweep" / str(run)
        place.mkdir(parents=True)
        settings = [
            f"format: 4\nseed: {run}\noptim: {{lr: {draw.random():.6f}}}\n",
            f"trainer: {{max_steps: {steps}, max_epochs: 99}}\n",
        ]
        settings += [f"group_{i}:\n" + "".join(f"  key_{j}: {i * j}\n" for j in range(10)) for i in range(12)]
        (place / "config.yaml").write_text("".join(settings))
        end = steps // 2 if run < LIVE else steps + 1
        (place / "metrics.jsonl").write_text("".join(lines[:end]))
        if run >= LIVE:
            summary = {
                "status": "finished",
                "stop_reason": f"max_steps={steps}",
                "steps": steps,
                "val_loss": draw.random(),
            }
            (place / "summary.json").write_text(json.dumps(summary))


class Visitor:
    """What the page's script does: asks for what is new, and for the curves of the runs that it draws."""

    def __init__(self, url: str):
        self.host = urlsplit(url).netloc
        self.token = parse_qs(urlsplit(url).query)["token"][0]
        self.serial, self.version, self.curves, self.bytes = "", 0, {}, 0

    def ask(self, method: str, path: str, value: object = None) -> bytes:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        headers = {"Origin": f"http://{self.host}", "Content-Type": "application/json", "X-Token": self.token}
        connection.request(method, path, None if value is None else json.dumps(value), headers)
        reply = connection.getresponse().read()
        self.bytes += len(reply)
        return reply

    def page(self) -> None:
        assert b"<html" in self.ask("GET", f"/?token={self.token}")

    def news(self) -> dict:
        curves = [[id, *known] for id, known in self.curves.items()]
        asked = {"serial": self.serial, "since": self.version, "curves": curves, "names": NAMES}
        reply = json.loads(self.ask("POST", "/news", asked))
        self.serial, self.version = reply.get("serial", self.serial), reply.get("version", self.version)
        for id, new in reply.get("curves", {}).items():
            self.curves[int(id)] = [new["generation"], new["full"], new["changes"]]
        return reply


def processor_seconds(pid: int) -> float:
    """That a process has had so far: what wall clock time would be on a machine that does nothing else."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / os.sysconf(
        "SC_CLK_TCK"
    )


def one_round(folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "ift.cli", "watch", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = next(line.split()[1] for line in process.stdout if line.startswith("open "))
        found = {"address": time.perf_counter() - began}
        visitor = Visitor(url)
        visitor.page()
        found["page"] = time.perf_counter() - began
        listed = visitor.news()["runs"]
        found["list"] = time.perf_counter() - began
        assert all(run["step"] for run in listed)
        visitor.curves = {run["id"]: [0, 0, 0] for run in listed[:4]}
        drawn = visitor.news()["curves"]
        assert all(len(each["axes"]["step"]) > 100 for each in drawn.values())
        found["first view"] = time.perf_counter() - began
        ends = {run["id"]: run["step"] for run in listed[:4]}
        while drawn:
            ends = {
                id: end
                for id, end in ends.items()
                if drawn.get(str(id), {"axes": {"step": [0]}})["axes"]["step"][-1] < end
            }
            drawn = visitor.news().get("curves") if ends else None
        found["whole view"] = time.perf_counter() - began
        found["its processor seconds"] = processor_seconds(process.pid)
        found["first bytes"] = visitor.bytes
        while visitor.news().get("behind"):
            pass
        found["all read"] = time.perf_counter() - began
        polls = []
        for _ in range(20):
            start = time.perf_counter()
            visitor.news()
            polls.append(time.perf_counter() - start)
        found["a poll"] = statistics.median(polls)
        status = Path(f"/proc/{process.pid}/status").read_text()
        found["MB"] = int(status.split("VmHWM:")[1].split()[0]) / 1024
        found["processor seconds"] = processor_seconds(process.pid)
        return found
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="made if it is not there, and kept (a temporary one)")
    arguments = parser.parse_args()
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
        if not (Path(folder) / "sweep").exists():
            make_runs(Path(folder), arguments.runs, arguments.steps)
        for _ in range(arguments.rounds):
            print("  ".join(f"{name} {value:,.3f}" for name, value in one_round(Path(folder)).items()), flush=True)


if __name__ == "__main__":
    main()
