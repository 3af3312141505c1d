from ift.pages.alike import OTHER_ROWS, apart, differ, letters
from ift.run import RunFolder, write_json, write_jsonl


def asked(folder, *rows):
    run = RunFolder(folder)
    run.path.mkdir()
    write_jsonl(run.test_rows, [{"instruction": text, "file": file, "number": 1} for text, file in rows])
    return run


def test_the_same_rows_from_another_file_and_in_another_order_are_the_same_and_others_are_not(tmp_path):
    runs = [
        asked(tmp_path / "0", ("a", "x.json"), ("b", "x.json")),
        asked(tmp_path / "1", ("b", "y.json"), ("a", "y.json")),
        asked(tmp_path / "2", ("a", "x.json"), ("c", "x.json")),
        asked(tmp_path / "3", ("a", "x.json"), ("b", "x.json"), ("b", "x.json")),
        RunFolder(tmp_path / "none"),
    ]
    assert letters(runs) == ["A", "A", "B", "C", ""]
    assert differ(["A", "B", ""])
    assert not differ(["A", "A", ""])


def test_what_cannot_be_read_is_not_known(tmp_path):
    (tmp_path / "0").mkdir()
    for content in ("{", "[]", "3"):
        (tmp_path / "0/test.jsonl").write_text(content)
        assert letters([RunFolder(tmp_path / "0")]) == [""]


def test_what_losses_were_measured_with_is_told_apart_where_it_is_known(tmp_path):
    def run(name, **report):
        folder = asked(tmp_path / name, ("a", "x.json"))
        write_json(folder.data_report, report)
        return folder

    alike = {
        "tokenizer": "gpt2",
        "prompt": "alpaca",
        "prompt_hash": "0123456789",
        "prompt_masked": True,
        "max_length": 9,
    }
    first = run("0", **alike, fingerprint="f", splits={"val": 1})
    assert apart([first, run("1", **alike, fingerprint="f", splits={"val": 1})]) == []
    assert apart([first, run("2")]) == []  # not known is not another
    assert apart([first, run("3", **alike, fingerprint="g", splits={"val": 1})]) == [(OTHER_ROWS, ["A", "B"])]
    other = run("4", **{**alike, "tokenizer": "bytes", "prompt_masked": False, "max_length": 8})
    assert apart([first, run("5"), other]) == [
        ("tokenizer", ["gpt2", "", "bytes"]),
        ("in the loss", ["response", "", "prompt and response"]),
        ("longest row", ["9", "", "8"]),
    ]
    same_name = [
        run(f"6{i}", tokenizer="tokenizer", tokenizer_hash=hash) for i, hash in enumerate(("a" * 16, "b" * 16))
    ]
    assert apart(same_name) == [("tokenizer", ["tokenizer aaaaaa", "tokenizer bbbbbb"])]
    assert apart([same_name[0], run("7", tokenizer="tokenizer")]) == []  # an earlier release wrote no hash
    (tmp_path / "4/data_report.json").write_text("{")
    assert apart([first, other]) == []
