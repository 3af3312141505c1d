"""A package's process: it writes in its folder alone, connects to nothing, sees no key, and its errors are ours."""

import os
import sys
import time
from pathlib import Path

import pytest

from ift.errors import DataError, MachineError
from ift.evaluation.packages.child import run_child
from tests.running import ROOT, run

PROGRAM = """
import os, socket
from pathlib import Path
from ift.errors import DataError
from ift.evaluation.packages.child import serve

def tried(act):
    try:
        act()
    except PermissionError as error:
        return "refused"
    return "done"

def work(job, ask):
    print("a package that prints")
    if job == "data":
        raise DataError("rows.jsonl:3: no text")
    if job == "crash":
        raise KeyError("deep inside")
    if job == "pid":
        ask(os.getpid())
    if job == "import":
        import no_such_package
    if job == "exit":
        os._exit(3)
    outside, mine = Path(job["outside"]), Path("mine.txt")
    mine.write_text("x")
    return {
        "twice": [ask(1), ask(2)],
        "write": tried(lambda: outside.joinpath("new.txt").write_text("x")),
        "folder": tried(lambda: outside.joinpath("new").mkdir()),
        "rename": tried(lambda: mine.rename(outside / "mine.txt")),
        "remove": tried(lambda: outside.joinpath("there.txt").unlink()),
        "through": tried(lambda: Path("home/../../" + outside.name + "/new.txt").write_text("x")),
        "connect": tried(lambda: socket.create_connection(("127.0.0.1", job["port"]), 1)),
        "read": outside.joinpath("there.txt").read_text(),
        "inside": tried(lambda: Path("sub").mkdir()),
        "key": os.environ.get("OPENAI_API_KEY"),
        "home": str(Path.home()),
    }

if __name__ == "__main__":
    serve(work)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """child(job, answer): what the program above finds, in a folder beside another one."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "child_of_tests.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-that-is-not-passed-on")
    folder, outside = tmp_path / "inside", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "there.txt").write_text("old")
    return lambda job, answer=lambda question: None: run_child("child_of_tests", folder, job, answer, extra="x")


def test_it_asks_and_is_kept_inside(child, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        job = {"outside": str(tmp_path / "outside"), "port": server.getsockname()[1]}
        found = child(job, lambda question: question * 10)
    refused = ("write", "folder", "rename", "remove", "through", "connect")
    assert {name: found[name] for name in refused} == dict.fromkeys(refused, "refused")
    assert (found["twice"], found["read"], found["inside"], found["key"]) == ([10, 20], "old", "done", None)
    assert Path(found["home"]) == tmp_path / "inside" / "home"
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["there.txt"]
    assert "a package that prints" in (tmp_path / "inside" / "log.txt").read_text()


def test_its_errors_come_back_as_they_were_or_with_its_log(child):
    with pytest.raises(DataError, match=r"^rows\.jsonl:3: no text$"):
        child("data")
    with pytest.raises(MachineError, match=r"log\.txt: the package failed: KeyError: 'deep inside'"):
        child("crash")
    with pytest.raises(MachineError, match=r'needs the package no_such_package \(pip install "ift\[x\]"\)'):
        child("import")
    with pytest.raises(MachineError, match="the package ended early: a package that prints"):
        child("exit")
    assert "child_of_tests" not in sys.modules


def test_it_does_not_outlive_whoever_asked(child, tmp_path):
    """A process that is killed while its child waits for an answer."""
    program = f"""
import os, signal
from pathlib import Path
from ift.evaluation.packages.child import run_child

def answer(pid):
    Path({str(tmp_path / "pid")!r}).write_text(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)

run_child("child_of_tests", Path({str(tmp_path / "inside")!r}), "pid", answer, extra="x")
"""
    assert run("-c", program, PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(tmp_path / "code")])).returncode == -9
    there = Path("/proc", (tmp_path / "pid").read_text())
    for _ in range(200):
        if not there.exists() or "State:\tZ" in (there / "status").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the child is still there ten seconds later")
