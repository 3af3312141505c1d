from ift.pages.same_rows import differ, letters
from ift.run import RunFolder, write_jsonl


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
