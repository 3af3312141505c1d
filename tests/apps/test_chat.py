"""Talking in the terminal: by a real one, and what is typed line by line."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ift.apps.chat import Options, Session, Talk, visible
from ift.apps.speaker import ModelPlace
from ift.errors import ConfigError
from tests.running import ROOT, run


class Ready:
    """Models that are open."""

    done, error = True, None

    def __init__(self, *speakers):
        self.speakers = lambda: list(speakers)


@pytest.fixture
def typed(speaker, talking, monkeypatch, capsys):
    """typed(*lines): the session after these lines, and what it printed."""

    def typed(*lines: str, models: int = 1, alone: bool = True, **options):
        waiting = list(lines)

        def read(_: str) -> str:
            if not waiting:
                raise EOFError
            return waiting.pop(0)

        monkeypatch.setattr("builtins.input", read)
        places = [ModelPlace("run", talking / "model", single_turns=True)] * models
        session = Session(Ready(*[speaker] * models), places, Options(max_new_tokens=6, alone=alone, **options), Talk())
        session.run()
        return session, capsys.readouterr().out

    return typed


def test_questions_that_were_learnt_alone_are_asked_alone(typed):
    session, _ = typed("one", "two")
    alone, _ = typed("two")
    assert session.talk.turns[1] == alone.talk.turns[0]
    together, _ = typed("/set alone off", "one", "two", "/template")
    first, second = together.talk.turns
    assert together.talk.conversation("x", 0, alone=False).history == ((first[0], *first[1]), (second[0], *second[1]))


def test_turns_are_taken_back_and_asked_again(typed):
    session, shown = typed("one", "two", "/undo", "/undo", "/undo")
    assert session.talk.turns == []
    assert shown.endswith("  taken back: one\nift: /undo: nothing was asked yet\n\n")
    once, _ = typed("one", temperature=1.5)
    again, _ = typed("one", "/regenerate", temperature=1.5)
    assert len(again.talk.turns) == 1
    assert again.talk.turns[0][0] == "one"
    assert again.talk.turns != once.talk.turns  # another draw


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/sav", "ift: /sav: no such command (/save?; // sends a slash)"),
        ("/set heat 1", "ift: heat: no such setting (one of temperature, top_p, top_k, "),
        ("/set temperature warm", "ift: temperature=warm: must be a number"),
        ("/set top_p=0", "ift: top_p=0.0: must be from 0.001 to 1"),
        ("/set seed -1", "ift: seed=-1: must be from 0 to 4,294,967,295"),
        ("/set alone perhaps", "ift: alone=perhaps: must be on or off"),
        ("/load nowhere.json", "ift: nowhere.json: cannot be read: "),
        ("/save", "ift: /save: give a file (/save talk.json)"),
        ("/regenerate", "ift: /regenerate: nothing was asked yet"),
        ("q" * 200, "ift: the question alone fills the context of 96 tokens (ask a shorter one)"),
    ],
)
def test_what_cannot_be_done_is_a_line_and_the_talk_goes_on(typed, line, said):
    session, shown = typed(line, "hello")
    assert shown.startswith(said)
    assert len(session.talk.turns) == 1


def test_several_lines_are_one_question(typed):
    session, _ = typed('"""one', "two", 'three"""', "four\\", "five", "//six")
    assert [asked for asked, _ in session.talk.turns] == ["one\ntwo\nthree", "four\nfive", "/six"]


def test_a_talk_is_saved_and_gone_on_with(typed, tmp_path):
    file = tmp_path / "talk.json"
    session, _ = typed("/system Be brief.", "one", "two", f"/save {file}")
    stored = json.loads(file.read_text())["messages"]
    assert [message["role"] for message in stored] == ["system", "user", "assistant", "user", "assistant"]
    loaded, shown = typed(f"/load {file}")
    assert loaded.talk == session.talk
    assert shown == f"  2 turns from {file}\n\n"


@pytest.mark.parametrize(
    "value", [[], {"messages": 3}, {"messages": [{"role": "user", "content": 3}]}, {"messages": [{"role": "user"}]}]
)
def test_a_file_that_holds_no_talk_is_refused(value):
    with pytest.raises(ConfigError, match="no conversation"):
        Talk.from_json(value, 1)


def test_two_models_answer_each_to_its_own_turns(typed):
    session, shown = typed("/set alone off", "one", "two", models=2)
    assert shown.count("--- run") == 4
    (_, first), _ = session.talk.turns
    assert session.talk.conversation("x", 1, alone=False).history[0] == ("one", first[1])


def test_each_of_two_models_goes_on_with_its_own_answers(tmp_path):
    file, talk = tmp_path / "talk.json", Talk([("one", ("a", "b")), ("two", ("c", "d"))], "Be brief.")
    file.write_text(json.dumps(talk.to_json(["x", "y"])))
    assert Talk.from_json(json.loads(file.read_text()), 2) == talk
    assert Talk.from_json(json.loads(file.read_text()), 1).turns == [("one", ("a",)), ("two", ("c",))]
    assert Talk.from_json(talk.to_json(["x"]), 2).turns == [("one", ("a", "a")), ("two", ("c", "c"))]
    other = {**talk.to_json(["x"]), "others": [[{"role": "system", "content": "x"}]]}
    with pytest.raises(ConfigError, match="the models were asked different things"):
        Talk.from_json(other, 2)


def test_what_is_set_by_hand_stays(typed):
    session, shown = typed("one", alone=False)
    assert session.options.alone is False
    assert "note" not in shown


def test_a_device_that_is_not_there_is_one_line(talking):
    command = [sys.executable, "-m", "ift.cli", "chat", str(talking), "--accelerator=gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, input="x", capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "ift: error: accelerator=gpu: no CUDA device here (use accelerator=cpu)\n"


def test_a_model_cannot_move_the_cursor():
    assert visible("a\x1b[2Jb\rc\n\td") == "a\ufffd[2Jb\ufffdc\n\td"


def test_a_pipe_asks_one_question(talking, say):
    from ift.text.conversations import Conversation

    command = [sys.executable, "-m", "ift.cli", "chat", str(talking), "--set=max_new_tokens=6", "--precision=fp32"]
    done = subprocess.run(command, input="Name a colour.\n", capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == visible(say(Conversation("Name a colour."), max_new_tokens=6)[0].text) + "\n"
    nothing = run("-m", "ift.cli", "chat", str(talking))
    assert (nothing.returncode, nothing.stderr) == (
        2, "ift: error: ift chat: the input is empty (echo QUESTION | ift chat RUN)\n",
    )  # fmt: skip


def test_in_a_terminal_ctrl_c_ends_the_answer_and_ctrl_d_the_program(talking: Path, tmp_path: Path):
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "ift.cli", "chat", str(talking), "--set=temperature=1", "--set=max_new_tokens=90"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, cwd=ROOT, env=environment, start_new_session=True
    ) as process:
        try:
            os.close(child)
            shown = wait_for(parent, ">>> ")
            assert "tuned on single questions" in shown
            os.write(parent, b"Write.\n")
            wait_for(parent, ">>> ")
            os.write(parent, b"half a line")
            wait_for(parent, "half a line")
            for _ in range(20):  # Python's readline overhears a signal between what it has read and its next wait
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                with suppress(TimeoutError):
                    wait_for(parent, "Ctrl-D or /bye ends", seconds=3)
                    break
            else:
                pytest.fail("Ctrl-C was not heard")
            wait_for(parent, ">>> ")
            for _ in range(20):
                os.write(parent, b"\x04")
                with suppress(subprocess.TimeoutExpired):
                    assert process.wait(timeout=3) == 0
                    break
            else:
                pytest.fail("Ctrl-D was not heard")
        finally:
            process.kill()
    os.close(parent)
    kept = tmp_path / "ift" / "chat_history"
    assert "Write." in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def wait_for(terminal: int, text: str, seconds: float = 60) -> str:
    """What a terminal shows up to and with a text, and no byte of what follows: that is for the next one to find."""
    shown, end = b"", time.monotonic() + seconds
    while text not in shown.decode(errors="replace"):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError(shown)
        if select.select([terminal], [], [], left)[0]:
            shown += os.read(terminal, 1)
    return shown.decode(errors="replace")
