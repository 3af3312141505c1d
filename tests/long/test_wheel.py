"""`pip install` of a wheel into an empty environment, from the package index: both commands in an empty folder."""

import subprocess
import sys

from tests.running import ROOT, TINY, clean_environment
from tests.test_wheel import build_wheel


def test_the_two_commands_in_an_empty_environment(tmp_path):
    wheel = build_wheel(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv/bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()

    def ift(*words):
        clean = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
        done = subprocess.run([str(programs / "ift"), *words], cwd=empty, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "run/report.html" in ift("train", "output_dir=run", *TINY)
    assert "match" in ift("evaluate", "run=run", "eval=responses")
    two = ("trainer=ddp", "trainer.devices=2", "output_dir=two", "logger=none")
    assert "two/report.html" in ift("train", *two, *TINY)  # the other rank is started as the first was
