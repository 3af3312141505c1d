"""What `pip install ift` gives: the same commands in an empty folder, with conf/ inside, and groups of one's own."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.running import ROOT, TINY, clean_environment


def build_wheel(folder):
    """A wheel of this checkout, as pip builds it."""
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("conf", "src"):  # the link to conf/ stays a link
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    build = [*(sys.executable, "-m", "pip", "wheel", "--quiet"), "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "--wheel-dir", str(folder), str(tree)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("ift-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but what the wheel unpacks to."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def ift(installed, *words, cwd):
    """The console script of the wheel, on the packages that are installed here."""
    start = "import sys; from ift.cli import main; sys.argv[0] = 'ift'; sys.exit(main())"
    environment = {**clean_environment(), "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", start, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_wheel_has_the_choices_of_the_checkout_and_no_link(installed):
    def choices(folder):
        return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.yaml"))}

    assert not (installed / "ift/conf").is_symlink()
    assert choices(installed / "ift/conf") == choices(ROOT / "conf")
    assert len(choices(ROOT / "conf")) > 30


def test_a_training_and_a_refused_evaluation_in_an_empty_folder(installed, tmp_path):
    own = tmp_path / "own/prompt"
    own.mkdir(parents=True)
    (own / "shout.yaml").write_text((ROOT / "conf/prompt/phi3.yaml").read_text().replace("phi3", "shout"))
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ("--config-dir", str(tmp_path / "own"), "prompt=shout", "output_dir=run", "logger=none", *TINY)
    done = ift(installed, "train", *words, cwd=empty)
    assert done.returncode == 0, done.stderr
    assert "name: shout" in (empty / "run/config.yaml").read_text()
    assert os.listdir(empty) == ["run"]
    done = ift(installed, "evaluate", "run=run", "eval=humanevil", cwd=empty)
    assert (done.returncode, done.stderr[:49]) == (2, "ift: error: eval=humanevil: no such choice (there")
    environment = {**clean_environment(), "PYTHONPATH": str(installed)}
    asked = [sys.executable, "-c", "import ift; print(ift.__file__)"]
    place = subprocess.run(asked, env=environment, cwd=empty, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(place).is_relative_to(installed)  # and not the checkout, which lies beside it


def test_what_is_not_a_choice_is_one_line_there_too(installed, tmp_path):
    done = ift(installed, "train", "model=gpt9", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ift: error: model=gpt9: no such choice (ift train --help lists all ")
