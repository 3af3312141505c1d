"""`ift export` as a person types it: what it leaves, what it refuses, and that it never leaves half of one."""

import json
import os
import subprocess
import sys

import pytest
from gguf import GGUFReader

from ift.artifacts.model_folder import load_model_folder
from ift.cli import main
from ift.errors import ConfigError, MachineError, WeightsError
from ift.export.export import export
from ift.run import read_json
from ift.sealed import check
from tests.running import NO_TORCH, ROOT


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("to", "left"),
    [
        (
            "hf",
            "README.md chat_template.jinja config.json generation_config.json manifest.json model.safetensors "
            "tokenizer.json tokenizer_config.json",
        ),
        ("gguf", "Modelfile README.md manifest.json model-fp32.gguf"),
    ],
)
def test_a_typed_export_says_what_it_wrote_and_needs_no_torch(run_of, to, left):
    run = run_of()
    environment = {**os.environ, **NO_TORCH}
    environment["PYTHONPATH"] += os.pathsep + str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-m", "ift.cli", "export", "run", "--to", to],
        cwd=run.path.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder = run.path / "export" / f"{to}-fp32"
    assert sorted(files(folder)) == left.split()
    assert check(folder).about["run"] == "run"  # every file as it was written
    wrote = next(line for line in done.stdout.splitlines() if line.startswith("wrote"))
    assert wrote.startswith(f"wrote     run/export/{to}-fp32: {len(left.split()) - 1} files, 0.")
    assert "(37,152 parameters, fp32)" in wrote  # 301 * 32 + 64 * 32 + 2 * 12,704 + 64
    use = "vllm serve run/export/hf-fp32" if to == "hf" else "ollama create run -f run/export/gguf-fp32/Modelfile"
    assert use in done.stdout


def test_an_export_that_is_there_is_replaced_only_when_told_so(run_of):
    run = run_of()
    export(run, "hf")
    folder = run.path / "export" / "hf-fp32"
    (folder / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"hf-fp32: is there already \(--force replaces it\)"):
        export(run, "hf")
    assert (folder / "README.md").read_text() == "mine"
    export(run, "hf", force=True)
    assert (folder / "README.md").read_text() != "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["hf-fp32"]


def test_a_folder_that_is_no_export_is_never_replaced(run_of, tmp_path):
    run, other = run_of(), tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    (tmp_path / "new.old").mkdir()
    (tmp_path / "new.old" / "thesis.txt").write_text("an earlier one")
    for folder in (other, run.path, tmp_path / "new", other / "thesis.txt"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match="no export of ours"):
            export(run, "hf", output=folder, force=True)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for folder in (run.model, run.model / "export"):
        with pytest.raises(ConfigError, match="inside the run's own model"):
            export(run, "hf", output=folder, force=True)
    (other / "thesis.txt").unlink()
    export(run, "hf", output=other)  # an empty folder is nobody's
    assert (other / "model.safetensors").exists()


def test_a_failed_export_leaves_what_was_there_and_no_half_of_a_new_one(run_of, monkeypatch):
    run = run_of()
    export(run, "gguf")
    folder = run.path / "export" / "gguf-fp32"
    before = files(folder)

    def disk_full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("ift.export.export.modelfile", disk_full)
    with pytest.raises(OSError, match="no space"):
        export(run, "gguf", force=True)
    assert files(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["gguf-fp32"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "prompt.json", "config.json"])
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_damaged_model_is_never_exported(run_of, name, how, capsys, monkeypatch):
    run = run_of()
    path = run.model / name
    if how == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["ift", "export", str(run.path), "--to", "hf"])
    assert main() == 4
    assert f"model/{name}: {'missing' if how == 'missing' else 'damaged'}" in capsys.readouterr().err
    assert not (run.path / "export").exists()


def test_weights_that_are_no_numbers_are_refused_without_a_manifest_too(run_of):
    run = run_of()
    path = run.model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # a NaN
    path.write_bytes(content)
    (run.model / "manifest.json").unlink()
    with pytest.raises(WeightsError, match=r"holds NaN or infinity"):
        export(run, "gguf")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "--to", "onnx"], 2, "invalid choice: 'onnx'"),
        (["run"], 2, "the following arguments are required: --to"),
        (["run", "--to", "hf", "--dtype", "q8_0"], 2, "--dtype q8_0: must be one of fp32, bf16, fp16 for --to hf"),
        (["none", "--to", "hf"], 2, "none: no such run folder"),
        (["empty", "--to", "hf"], 4, "no such folder (the run has no best model yet)"),
    ],
)
def test_what_cannot_be_done_is_one_line(run_of, words, code, said, capsys, monkeypatch, tmp_path):
    run_of()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ift", "export", *words])
    assert main() == code
    assert said in capsys.readouterr().err


def test_a_missing_package_is_named_before_anything_is_written(run_of, monkeypatch):
    run = run_of()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MachineError, match=r'this needs the package gguf \(pip install "ift\[export\]"\)'):
        export(run, "gguf")
    assert not (run.path / "export").exists()


def test_the_manifest_says_what_was_exported(run_of):
    run = run_of()
    export(run, "gguf", dtype="fp16")
    about = read_json(run.path / "export" / "gguf-fp16" / "manifest.json")["about"]
    prompt = json.loads((run.model / "prompt.json").read_text())["hash"]
    assert about == {"export": "gguf", "dtype": "fp16", "run": "run", "prompt": prompt}


def test_a_name_that_is_no_text_is_exported_without_what_cannot_be_written(run_of):
    run = run_of(os.fsdecode(b"caf\xe9"))
    for to in ("hf", "gguf"):
        export(run, to)
        assert check(run.path / "export" / f"{to}-fp32").about["run"] == "caf\ufffd"


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_other_tokens_that_end_an_answer_are_in_every_export(run_of, to):
    run = run_of(stops=[7])
    export(run, to)
    folder = run.path / "export" / f"{to}-fp32"
    if to == "hf":
        for name in ("config.json", "generation_config.json"):
            assert read_json(folder / name)["eos_token_id"] == [300, 7]
    else:
        fields = GGUFReader(folder / "model-fp32.gguf").fields
        assert fields["tokenizer.ggml.eot_token_id"].contents() == 7
    assert f"or `{load_model_folder(run.model)[1].decode([7])}`" in (folder / "README.md").read_text()
