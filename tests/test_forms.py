"""Files that outlive a release: an older one is brought to today's form, a later one is one clear line."""

import pytest

from ift import forms
from ift.errors import ConfigError, WeightsError
from ift.forms import Form, added
from ift.sealed import check, seal


def renamed(content):
    return {**{key: value for key, value in content.items() if key != "lr"}, "rate": content["lr"]}


FORM = Form("config.yaml", (added({"adapter.kind": "none", "adapter.rank": 0, "against": []}), renamed))


def test_each_version_goes_through_the_migrations_that_came_after_it(tmp_path):
    assert FORM.version == 3
    assert FORM.current({"lr": 1}, tmp_path) == {"rate": 1, "adapter": {"kind": "none", "rank": 0}, "against": []}
    assert FORM.current({"format": 2, "lr": 1, "adapter": {}}, tmp_path) == {"rate": 1, "adapter": {}}
    assert FORM.current({"format": 3, "rate": 1}, tmp_path) == {"rate": 1}


def test_what_is_written_is_read_back_without_its_version(tmp_path):
    assert FORM.stamped({"rate": 1}) == {"format": 3, "rate": 1}
    assert FORM.current(FORM.stamped({"rate": 1}), tmp_path) == {"rate": 1}


def test_a_setting_that_is_there_already_is_not_changed_and_the_content_given_neither(tmp_path):
    content = {"lr": 1, "adapter": {"kind": "lora"}}
    assert FORM.current(content, tmp_path)["adapter"] == {"kind": "lora", "rank": 0}
    assert content == {"lr": 1, "adapter": {"kind": "lora"}}


def test_a_file_of_a_later_release_is_one_line_that_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError) as caught:
        FORM.current({"format": 4}, tmp_path / "config.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/config.yaml: version 4 of config.yaml, and this release reads up to version 3 "
        "(install a newer ift)"
    )


@pytest.mark.parametrize("version", ["2", 0, -1, True, 1.0, None, []])
def test_a_version_that_is_none_is_an_error(tmp_path, version):
    with pytest.raises(ConfigError, match=r"is no version of config\.yaml"):
        FORM.current({"format": version}, tmp_path)


def test_a_manifest_of_a_later_release_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.bin").write_bytes(b"a")
    monkeypatch.setattr(forms, "MANIFEST", Form("manifest.json", (dict,)))
    seal(tmp_path / "folder", {"step": 3})
    assert check(tmp_path / "folder").about == {"step": 3}
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"version 2 of manifest\.json, .* \(install a newer ift\)"):
        check(tmp_path / "folder")
    manifest = tmp_path / "folder/manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(WeightsError, match="was changed after it was written"):
        check(tmp_path / "folder")


def test_a_run_of_before_there_was_a_split_seed_drew_its_split_with_its_seed(tmp_path):
    assert forms.CONFIG.current({"format": 2, "seed": 7, "data": {}}, tmp_path)["data"]["split_seed"] == 7
    assert forms.CONFIG.current({"format": 3, "seed": 7, "data": {"split_seed": 5}}, tmp_path)["data"] == {
        "split_seed": 5
    }
