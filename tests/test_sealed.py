"""A sealed folder is whole or not there, whatever the disk does; what is damaged is found."""

import pytest

from ift.errors import WeightsError
from ift.sealed import (
    check,
    newest,
    recover_folder,
    remove_folder,
    replace_folder,
    seal,
    set_aside,
    step_folder,
    steps_there,
)
from tests import soak


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.json").write_text("{}\n")
    (tmp_path / "folder" / "b.bin").write_bytes(b"\0\1\2")
    seal(tmp_path / "folder", {"step": 3})
    return tmp_path / "folder"


def test_a_sealed_folder_says_what_it_is(folder):
    assert check(folder).about == {"step": 3}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "b.bin").unlink(), "b.bin: missing"),
        (lambda f: (f / "b.bin").write_bytes(b"\0\1"), "b.bin: damaged: 2 bytes, not 3"),
        (lambda f: (f / "b.bin").write_bytes(b"\0\1\3"), "b.bin: damaged: sha256 "),
        (lambda f: (f / "c.pkl").write_bytes(b""), "c.pkl: does not belong here"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json: cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json: cannot be read"),
        (
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace('"step": 3', '"step": 4')
            ),
            "manifest.json: was changed after it was written",
        ),
        (
            lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text() + "\n"),
            "manifest.json: was changed after it was written",
        ),
    ],
)
def test_what_is_not_as_it_was_sealed_is_found(folder, damage, words):
    damage(folder)
    with pytest.raises(WeightsError, match=words):
        check(folder)


def test_the_one_before_comes_back_after_a_crash_between_two_renames(folder):
    folder.rename(folder.with_name("folder.old"))
    recover_folder(folder)
    assert check(folder).about == {"step": 3}
    recover_folder(folder)  # nothing to do
    assert check(folder).about == {"step": 3}


def test_a_folder_is_replaced_and_removed_whole(folder, tmp_path):
    new = tmp_path / "folder.part"
    new.mkdir()
    (new / "c").write_text("new")
    replace_folder(new, folder)
    assert [path.name for path in folder.iterdir()] == ["c"]
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_damaged_ones_get_names_of_their_own(tmp_path):
    for name in ("step-00000007.damaged", "step-00000007.damaged-2"):
        (tmp_path / "step-00000007").mkdir()
        assert set_aside(tmp_path / "step-00000007").name == name
    assert steps_there(tmp_path) == []


def test_no_checkpoint_at_all_is_no_error_and_none_that_is_whole_is_one(tmp_path, capsys):
    assert newest(tmp_path / "none") is None
    assert newest(tmp_path) is None
    for step in (1, 2):
        assert soak.save(tmp_path, step) is None
        (step_folder(tmp_path, step) / "state.json").write_text("{}")
    for _ in range(2):  # the second time they have been set aside
        with pytest.raises(WeightsError, match="no other checkpoint is there"):
            newest(tmp_path)
    assert capsys.readouterr().err.count("set aside as") == 2


# -- the soak's cases, all or a part of them ------------------------------------------------------------------------


def wrong(results):
    results = list(results)
    assert len(results) > 5
    return [result for result in results if result["why"] is not None]


def test_after_every_file_operation_of_a_save_a_checkpoint_loads_also_after_a_loss_of_power(tmp_path):
    assert wrong(soak.crash_states(tmp_path)) == []


def test_after_every_file_operation_a_model_folder_is_the_old_one_or_the_new_one(tmp_path):
    assert wrong(soak.model_states(tmp_path)) == []


def test_a_disk_that_refuses_anywhere_in_a_save_leaves_what_was_there(tmp_path):
    assert wrong(soak.disk_errors(tmp_path, 10)) == []


def test_every_damage_is_found_and_the_checkpoint_before_it_used(tmp_path):
    assert wrong(soak.damage(tmp_path, bits=60, cuts=12, swaps=15, seed=3)) == []
