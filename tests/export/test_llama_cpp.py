"""llama.cpp's programs: where they are looked for, how they are called, and what they make where they are installed.

What is called here is a script of a few lines, so that the calling can be seen; the programs themselves are asked where
they are found.
"""

import json
import stat
import sys
import urllib.request

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from ift.artifacts.model_folder import load_model_folder, open_model_folder, save_model_folder
from ift.cli import main
from ift.errors import ConfigError, MachineError
from ift.export import llama_cpp
from ift.export.export import export
from ift.model.families import read_config
from ift.model.gpt import GPT

QUANTIZE = """
import json, shutil, sys
json.dump(sys.argv[1:], open("{folder}/asked.json", "w"))
shutil.copy(sys.argv[1], sys.argv[2])
"""
SERVER = """
import http.server, json, os, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
json.dump(sys.argv[1:], open("{folder}/asked.json", "w"))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.reply(200, {{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != "Bearer " + os.environ["LLAMA_API_KEY"]:
            return self.reply(401, {{}})
        if self.path == "/apply-template": return self.reply(200, {{"prompt": body["messages"][0]["content"] + "!"}})
        if self.path == "/tokenize": return self.reply(200, {{"tokens": [ord(c) for c in body["content"]]}})
        if body["prompt"] == [0]: return self.reply(400, {{"error": {{"message": "no such token"}}}})
        self.reply(200, {{"tokens": body["prompt"][:body["n_predict"]]}})
    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status); self.send_header("content-length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    def log_message(self, *words): pass
http.server.HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


CONVERT = """
import json, pathlib, sys
folder, options = pathlib.Path(sys.argv[1]), dict(zip(sys.argv[2::2], sys.argv[3::2]))
left = {{path.name: path.stat().st_size for path in sorted(folder.iterdir())}}
about = json.loads(pathlib.Path(options["--metadata"]).read_text())
json.dump([options, left, about, (folder / "chat_template.jinja").read_text()], open("{folder}/asked.json", "w"))
import gguf
writer = gguf.GGUFWriter(options["--outfile"], "llama")
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
"""


@pytest.fixture
def llama_run(run_of, small_tokenizer):
    """A run whose model is a llama of 301 tokens."""
    run, tokens = run_of(), small_tokenizer.vocab_size
    source = {
        "model_type": "llama", "vocab_size": tokens, "hidden_size": 32, "intermediate_size": 48, "rope_theta": 1e5,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "bos_token_id": 5,
    }  # fmt: skip
    save_model_folder(run.model, GPT(read_config(source)), small_tokenizer, open_model_folder(run.model)[2])
    return run


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(name, script): a program in a folder of its own, which LLAMA_CPP names."""

    def installed(name, script):
        folder = tmp_path / "llama.cpp"
        program = folder / ("" if name.endswith(".py") else "build/bin") / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!{sys.executable}\n" + script.format(folder=folder))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("LLAMA_CPP", str(folder))
        return folder

    return installed


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_programs_are_looked_for_in_the_named_folder_and_then_on_the_path(installed, tmp_path, monkeypatch):
    folder = installed("llama-quantize", QUANTIZE)
    assert llama_cpp.program("llama-quantize") == folder / "build" / "bin" / "llama-quantize"
    with pytest.raises(MachineError, match=r"LLAMA_CPP=.*: no llama-server in it"):
        llama_cpp.program("llama-server")
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setenv("PATH", str(folder / "build" / "bin"))
    assert llama_cpp.program("llama-quantize") == folder / "build" / "bin" / "llama-quantize"
    assert llama_cpp.program("llama-server") is None


def test_what_is_missing_is_one_line_that_says_what_needs_nothing(run_of, nowhere, monkeypatch, capsys):
    run = run_of()
    monkeypatch.setattr(sys, "argv", ["ift", "export", str(run.path), "--to", "gguf", "--dtype", "q4_k_m"])
    assert main() == 5
    assert capsys.readouterr().err == (
        "ift: error: --dtype q4_k_m: needs llama.cpp's llama-quantize (install llama.cpp, or set LLAMA_CPP to the "
        "folder of it; q8_0, fp16 and the wider types need nothing)\n"
    )
    monkeypatch.setattr(sys, "argv", ["ift", "export", str(run.path), "--to", "gguf", "--prove"])
    assert main() == 5
    assert "--prove: needs llama.cpp's llama-server" in capsys.readouterr().err
    assert not (run.path / "export").exists()


def test_the_quantizer_is_given_the_model_in_fp32_and_its_own_name_of_the_type(run_of, installed):
    folder, run = installed("llama-quantize", QUANTIZE), run_of()
    done = export(run, "gguf", dtype="q4_k_m")
    left = run.path / "export" / "gguf-q4_k_m"
    assert sorted(path.name for path in left.iterdir()) == [
        "Modelfile",
        "README.md",
        "manifest.json",
        "model-q4_k_m.gguf",
    ]
    source, target, kind = json.loads((folder / "asked.json").read_text())
    assert (source.rpartition("/")[2], target.rpartition("/")[2], kind) == (
        "model-fp32.gguf",
        "model-q4_k_m.gguf",
        "Q4_K_M",
    )
    # as this script left them: what is there is said, not what was asked for
    assert "          tensors: 28 f32 (n_embd 32 is no multiple of 256: llama.cpp takes wider types)" in done.lines
    assert "FROM ./model-q4_k_m.gguf" in (left / "Modelfile").read_text()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; print('main: failed to\\nquantize', file=sys.stderr); sys.exit(1)", "failed: quantize"),
        ("", "failed: it said nothing"),  # and left no file
    ],
)
def test_a_quantizer_that_fails_leaves_its_last_words_and_no_folder(run_of, installed, script, said):
    installed("llama-quantize", script)
    run = run_of()
    with pytest.raises(MachineError, match=said):
        export(run, "gguf", dtype="q6_k")
    assert not any((run.path / "export").iterdir())


def test_the_server_is_this_process_s_own(installed, tmp_path, monkeypatch):
    folder = installed("llama-server", SERVER)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody is
    with llama_cpp.Server(llama_cpp.program("llama-server"), tmp_path / "m.gguf", context_length=64) as server:
        assert server.prompt([{"role": "user", "content": "ab"}]) == [97, 98, 33]
        assert server.answer([5, 6, 7], 2) == [5, 6]
        with pytest.raises(MachineError, match=r"llama-server /completion: .*no such token"):
            server.answer([0], 1)
        stranger = urllib.request.Request(server.address + "/completion", b"{}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with pytest.raises(OSError, match="401"):
            opener.open(stranger)
        process = server.process
    assert process.poll() is not None
    asked = json.loads((folder / "asked.json").read_text())
    assert asked[:4] == ["-m", str(tmp_path / "m.gguf"), "--host", "127.0.0.1"]
    assert server.key not in asked


def test_a_server_that_ends_at_once_is_told_with_its_last_words(installed, tmp_path):
    installed("llama-server", "import sys; print('unknown model architecture'); sys.exit(1)")
    with (
        pytest.raises(MachineError, match=r"did not start with m.gguf: unknown model architecture"),
        llama_cpp.Server(llama_cpp.program("llama-server"), tmp_path / "m.gguf", context_length=64),
    ):
        pass


@pytest.mark.parametrize("dtype", ["q4_k_m", "q2_k", "q6_k", "q5_0", "iq4_nl"])
def test_llama_cpp_s_own_quantizer_makes_the_smaller_types(run_of, dtype):
    if llama_cpp.program("llama-quantize") is None:
        pytest.skip("needs llama-quantize: install llama.cpp, or LLAMA_CPP=FOLDER of its programs")
    run = run_of(n_embd=256, context_length=256)
    done = export(run, "gguf", dtype=dtype)
    reader = GGUFReader(run.path / "export" / f"gguf-{dtype}" / f"model-{dtype}.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.ffn_up.weight"].lower() == dtype.removesuffix("_m")
    assert types["position_embd.weight"] == types["blk.0.attn_norm.weight"] == "F32"
    assert any(dtype.removesuffix("_m") in line for line in done.lines if line.strip().startswith("tensors:"))


def test_other_families_are_given_to_the_converter_of_llama_cpp_s_sources(llama_run, installed, monkeypatch):
    folder = installed("convert_hf_to_gguf.py", CONVERT)
    (folder / "build" / "bin").mkdir(parents=True)
    monkeypatch.setenv("LLAMA_CPP", str(folder / "build" / "bin"))  # of the programs: the sources are above
    done = export(llama_run, "gguf", dtype="fp16")
    options, left, about, template = json.loads((folder / "asked.json").read_text())
    assert list(left) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert options["--outfile"].endswith("model-fp16.gguf")
    assert (options["--outtype"], options["--model-name"]) == ("f16", "run")
    assert about["general.name"] == "run"
    assert about["general.description"].startswith("Fine-tuned on instructions by ift, prompt phi3. An input follows")
    assert "generation" not in template.replace("add_generation_prompt", "")
    assert [path.name for path in sorted((llama_run.path / "export" / "gguf-fp16").iterdir())] == [
        "Modelfile", "README.md", "manifest.json", "model-fp16.gguf",
    ]  # fmt: skip
    assert any(line.startswith("          tensors:") for line in done.lines)


def test_the_converter_is_given_an_adapter_and_its_base_as_one_model(llama_run, adapter_on, installed):
    keep = "import shutil; shutil.copy(folder / 'model.safetensors', '{folder}')\nimport gguf\n"
    folder = installed("convert_hf_to_gguf.py", CONVERT.replace("import gguf\n", keep))
    run = adapter_on(llama_run)
    export(run, "gguf", dtype="fp16")
    _, left, _, _ = json.loads((folder / "asked.json").read_text())
    assert [name for name in left if "adapter" in name] == []
    given, ours = load_file(folder / "model.safetensors"), load_model_folder(run.model)[0]
    matrix = given["model.layers.1.mlp.down_proj.weight"]
    torch.testing.assert_close(matrix, ours.h[1].mlp.c_proj.weight, atol=1e-6, rtol=1e-5)
    base = load_file(llama_run.model / "model.safetensors")
    assert set(given) == set(base)
    changed = [name for name in base if not torch.equal(base[name].float(), given[name])]
    assert len(changed) == 2 * 7 + 2  # the matrices of two blocks, and the rows of two tokens in embedding and head


def test_llama_cpp_s_own_converter_takes_an_adapter_s_run(llama_run, adapter_on):
    if llama_cpp.converter() is None:
        pytest.skip("needs convert_hf_to_gguf.py: LLAMA_CPP=FOLDER of llama.cpp's sources")
    run = adapter_on(llama_run)
    export(run, "gguf")
    reader = GGUFReader(run.path / "export" / "gguf-fp32" / "model-fp32.gguf")
    there = {tensor.name: tensor for tensor in reader.tensors}
    ours = load_model_folder(run.model)[0].h[1].mlp.c_proj.weight.detach()
    found = there["blk.1.ffn_down.weight"]
    torch.testing.assert_close(torch.from_numpy(found.data.copy()).view(ours.shape), ours, atol=1e-6, rtol=1e-5)


def test_a_missing_converter_is_one_line_that_says_where_to_get_it(llama_run, nowhere, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ift", "export", str(llama_run.path), "--to", "gguf"])
    assert main() == 5
    assert capsys.readouterr().err == (
        "ift: error: --to gguf: llama needs llama.cpp's convert_hf_to_gguf.py (git clone "
        "https://github.com/ggml-org/llama.cpp, then set LLAMA_CPP to that folder; --to hf needs nothing)\n"
    )
    assert not (llama_run.path / "export").exists()


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()", ConfigError,
         r"does not know the way in which this tokenizer cuts text \(take --to hf"),
        ("ERROR:hf-to-gguf:Model Olmo9ForCausalLM is not supported", ConfigError, "Olmo9ForCausalLM is not supported"),
        ("ModuleNotFoundError: No module named 'sentencepiece.x'", MachineError, "pip install sentencepiece"),
        ("FileNotFoundError: File not found: /tmp/x/tokenizer.model", ConfigError,
         r"vocabulary from a tokenizer\.model, which the run does not hold \(take --to hf"),
        ("KeyError: 'rope'", MachineError, "convert_hf_to_gguf.py failed: KeyError: 'rope'"),
    ],
)  # fmt: skip
def test_a_converter_that_fails_is_told_with_what_to_do(llama_run, installed, said, kind, told):
    installed("convert_hf_to_gguf.py", f"import sys; print({said!r}, file=sys.stderr); sys.exit(1)")
    with pytest.raises(kind, match=told):
        export(llama_run, "gguf")
    assert not any((llama_run.path / "export").iterdir())


def test_an_export_names_the_tokens_of_the_model_s_own_family(llama_run):
    export(llama_run, "hf")
    told = json.loads((llama_run.path / "export" / "hf-fp32" / "generation_config.json").read_text())
    assert told == {"bos_token_id": 5, "pad_token_id": 300, "eos_token_id": 300, "do_sample": False}


def test_the_converter_reads_a_config_that_transformers_would_cut_short(run_of, small_tokenizer, installed):
    """gpt_neox: transformers 5 drops rotary_pct; a window that llama.cpp does not have is told."""
    folder = installed("convert_hf_to_gguf.py", CONVERT.replace("json.dump([options, left", "json.dump([KIND, left"))
    script = folder / "convert_hf_to_gguf.py"
    kind = "KIND = json.loads((folder / 'config.json').read_text())['model_type']"
    script.write_text(script.read_text().replace("json.dump(", kind + "\njson.dump(", 1))
    sizes = {
        "vocab_size": small_tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64,
    }  # fmt: skip
    window = {"num_key_value_heads": 2, "sliding_window": 16}
    for family, more, told in (("gpt_neox", {}, "gpt_neox as it is written"), ("mistral", window, "mistral")):
        run = run_of(family)
        model = GPT(read_config({"model_type": family, **sizes, **more}))
        save_model_folder(run.model, model, small_tokenizer, open_model_folder(run.model)[2])
        lines = export(run, "gguf").lines
        assert json.loads((folder / "asked.json").read_text())[0] == told
        assert any("no windows for mistral: beyond 16 tokens" in line for line in lines) is (family == "mistral")
