from ift.pages.comparison import compare
from ift.pages.model_facts import model_facts
from ift.pages.report import write_report
from ift.run import RunFolder, write_json, write_jsonl

LLAMA = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "tie_word_embeddings": True, "eos_token_id": [1, 2],
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 300, "n_positions": 256, "n_layer": 2, "n_head": 2, "n_embd": 32}


def a_run(path, config, *, tokens=(), **report) -> RunFolder:
    run = RunFolder(path)
    run.model.mkdir(parents=True)
    write_json(run.model / "config.json", config)
    write_json(run.model / "tokenizer.json", {"added_tokens": [{"id": id, "content": text} for id, text in tokens]})
    write_json(run.data_report, report)
    write_json(run.summary, {"parameters": 123456})
    answer = {"instruction": "a", "input": "", "reference": "b", "response": "b", "stop_reason": "end"}
    write_jsonl(run.responses, [answer])
    return run


def test_a_model_is_told_in_the_words_of_its_own_files(tmp_path):
    about = {"tokenizer": "mine", "tokenizer_hash": "0123456789", "prompt": "chat", "prompt_hash": "abcdef0123"}
    run = a_run(tmp_path / "run", LLAMA, tokens=[(1, "<|eot_id|>")], **about)
    facts = {
        "family": "llama",
        "size": "123,456 parameters: 3 layers of 64 channels, 4 heads, 2 of keys and values",
        "context": "2,048 tokens",
        "vocabulary": "512 rows",
        "tokenizer": "mine 012345",
        "template": "chat abcdef",
        "answers end with": "<|eot_id|>, token 2",
    }
    assert model_facts(run) == facts
    (run.model / "config.json").write_text("{")
    assert list(model_facts(run)) == ["tokenizer", "template"]
    assert model_facts(RunFolder(tmp_path / "none")) == {}


def test_the_report_names_the_model_and_a_comparison_what_is_not_alike(tmp_path):
    runs = [
        a_run(tmp_path / "one", LLAMA, tokens=[(1, "<|eot_id|>"), (2, "<b>bold</b>")], tokenizer="mine"),
        a_run(tmp_path / "two", GPT2, tokenizer="mine"),
    ]
    write_report(runs[0])
    page = runs[0].report.read_text()
    assert '<h2 id="model">Model</h2>' in page
    assert "&lt;|eot_id|&gt;, &lt;b&gt;bold&lt;/b&gt;" in page
    compare([run.path for run in runs], tmp_path / "page.html", tables=tmp_path / "tables")
    lines = (tmp_path / "tables/models.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "of the model", "family", "size", "context", "vocabulary", "answers end with",
    ]  # fmt: skip
    assert lines[1] == "family,llama,gpt2"


def test_a_run_of_an_adapter_is_told_by_its_base(tmp_path):
    base = a_run(tmp_path / "base", LLAMA).model
    run = a_run(tmp_path / "run", {})
    (run.model / "config.json").unlink()
    write_json(run.model / "adapter_config.json", {"r": 16, "use_dora": True, "base_model_name_or_path": str(base)})
    facts = model_facts(run)
    assert (facts["adapter"], facts["family"]) == (f"DoRA of rank 16, on {base}", "llama")
    write_json(run.model / "adapter_config.json", {"r": 8, "base_model_name_or_path": "somebody/elsewhere"})
    assert model_facts(run) == {"adapter": "LoRA of rank 8, on somebody/elsewhere"}
