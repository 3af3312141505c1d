"""Threads share a machine and give way beside other programs, on the library that torch brought."""

import json
import os
import statistics

import pytest
import torch

from ift import threads

STAT = """cpu  900 10 200 5000 30 1 2 4 50 0
cpu0 400 10 100 2500 10 1 2 4 50 0
cpu1 300 0 60 2000 20 0 0 0 0 0
cpu10 200 0 40 500 0 0 0 0 0 0
intr 12345 0
"""


def test_busy_seconds_are_those_of_the_processors_that_this_process_may_use(tmp_path):
    (tmp_path / "stat").write_text(STAT)
    ticks = os.sysconf("SC_CLK_TCK")
    assert (
        threads.busy_seconds({0}, tmp_path / "stat") == 513 / ticks
    )  # neither idle, waiting nor stolen, nor guests twice
    assert threads.busy_seconds({1, 10}, tmp_path / "stat") == 600 / ticks
    assert threads.busy_seconds({0}, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("computing", "others", "processors", "crowded"),
    [(2, 0.0, 2, False), (2, 0.3, 2, False), (2, 0.5, 2, True), (1, 1.0, 2, False), (2, 30.0, 64, False)],
)
def test_threads_are_crowded_where_they_have_to_share_a_processor(computing, others, processors, crowded):
    assert threads.is_crowded(computing, others=others, processors=processors) is crowded


def test_libraries_are_found_by_the_map_of_the_process(tmp_path):
    lines = (
        "7f00-7f01 r--p 00000000 08:01 1   /site packages/torch/lib/libgomp.so.1",
        "7f02-7f03 r-xp 00000000 08:01 1   /site packages/torch/lib/libgomp.so.1",
        "7f04-7f05 rw-p 00000000 00:00 0   [heap]",
    )
    (tmp_path / "maps").write_text("\n".join(lines))
    assert threads.loaded_libraries(tmp_path / "maps") == ["/site packages/torch/lib/libgomp.so.1"]
    assert threads.loaded_libraries(tmp_path / "none") == []


@pytest.fixture
def two_threads(monkeypatch):
    """Threads as a person has them on two cores, who has set no variable; and what was asked to be watched."""
    asked, before = [], torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", *threads.SET_BY_USER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "watch", asked.append)
    torch.set_num_threads(2)
    yield asked
    torch.set_num_threads(before)


def test_one_process_has_all_threads_and_is_watched(two_threads):
    threads.share_threads()
    assert (torch.get_num_threads(), two_threads) == (2, [2])


def test_processes_of_one_machine_share_its_threads(two_threads):
    threads.share_threads(2)
    assert (torch.get_num_threads(), two_threads) == (1, [])  # one waits for nobody


def test_what_the_user_has_set_stays(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.share_threads(2)
    assert (torch.get_num_threads(), two_threads) == (2, [2])
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    threads.share_threads()
    assert two_threads == [2]


# Each product ends at a barrier, and then this thread sleeps for a millisecond: the other one spins, or it does not.
# What that costs is counted in seconds of a processor, which no other program changes much.
SPINNING = """
import json, time, torch
from ift import threads
torch.set_num_threads(2)
give_way, a = threads.gnu_waiting(threads.loaded_libraries()), torch.randn(256, 256)

def used():
    begin = time.process_time()
    for _ in range(40):
        torch.mm(a, a)
        time.sleep(0.001)
    return time.process_time() - begin

seconds = []
for crowded in (False, True) * 5:
    give_way(crowded)
    time.sleep(0.2)
    seconds.append(used())
print(json.dumps(seconds))
"""


def test_threads_stop_spinning_and_spin_again(warm, tmp_path):
    if not threads.gnu_waiting(threads.loaded_libraries()):
        pytest.skip("this build of torch has another OpenMP than GNU's")
    if threads.cores() < 2:
        pytest.skip("one processor: nothing ever spins")
    (tmp_path / "spinning.py").write_text(SPINNING)
    done = warm.run(str(tmp_path / "spinning.py"), timeout=120)
    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)
    assert statistics.median(seconds[1::2]) < statistics.median(seconds[::2]) / 3, seconds


def test_the_process_is_watched_and_gives_way_beside_other_programs(monkeypatch):
    """The loop itself, at a thousand times its pace, on a machine whose other programs come and go."""
    looks = iter([(0, 0, 0), (1, 2.0, 2.0), (2, 4.9, 4.0), (3, 7.8, 6.0), (4, 9.9, 8.0)])  # seconds, busy, our own
    given, end = [], StopIteration
    monkeypatch.setattr(threads, "_look", lambda: next(looks))
    monkeypatch.setattr(threads, "SECONDS", 0.001)
    monkeypatch.setattr(threads, "_processors", lambda: {0, 1})
    with pytest.raises(end):
        threads._watch(2, given.append)
    assert given == [True, False]  # once each: in seconds 2 and 3 another program took 0.9 of a processor
