"""What is made of a package's files: once, whole or not at all, and of that very package."""

import hashlib
import zipfile

import pytest

from ift.errors import MachineError
from ift.wheels import Wheel, made_of

METADATA = "Metadata-Version: 2.1\nName: tiny-rows\nVersion: 1.0\n"
ABOUT = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The package tiny-rows 1.0, which pip finds in a folder alone."""
    path = tmp_path / "index" / "tiny_rows-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("tiny_rows/rows.txt", "one\ntwo\n")
        for name, text in (("METADATA", METADATA), ("WHEEL", ABOUT), ("RECORD", "")):
            files.writestr(f"tiny_rows-1.0.dist-info/{name}", text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("IFT_CACHE_DIR", str(tmp_path / "cache"))
    return Wheel("tiny-rows", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


def copy_rows(files, folder):
    (folder / "rows.txt").write_bytes(files.read("tiny_rows/rows.txt"))


def test_it_is_made_once(wheel, tmp_path, monkeypatch):
    folder = made_of(wheel, "rows", copy_rows)
    assert folder == tmp_path / "cache" / "rows"
    assert (folder / "rows.txt").read_text() == "one\ntwo\n"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert made_of(wheel, "rows", pytest.fail) == folder


def test_half_of_it_is_never_there(wheel, tmp_path):
    def breaks(files, folder):
        copy_rows(files, folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made_of(wheel, "rows", breaks)
    assert not (tmp_path / "cache" / "rows").exists()
    assert (made_of(wheel, "rows", copy_rows) / "rows.txt").exists()


def test_another_file_under_its_name_is_refused(wheel):
    with pytest.raises(
        MachineError, match=r"^the package tiny-rows 1\.0: not downloaded: .*HASHES.* \(pip download tiny"
    ):
        made_of(Wheel("tiny-rows", "1.0", "0" * 64), "rows", copy_rows)


def test_an_index_without_it_says_what_shows_more(wheel):
    with pytest.raises(MachineError, match=r"not downloaded: .*\(pip download tiny-rows==2\.0 shows more\)$"):
        made_of(Wheel("tiny-rows", "2.0", wheel.sha256), "rows", copy_rows)
