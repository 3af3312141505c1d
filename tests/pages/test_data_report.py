"""The page on the data contract: every token where it belongs, the report's numbers, and text from rows stays text."""

import dataclasses
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from ift.data.contract.examples import make_example
from ift.data.contract.prepare import prepare
from ift.data.reading.rows import Row
from ift.pages.data_report import Span, histogram, shorten, token_spans, write_page
from ift.pages.page import visible
from ift.pages.plots import round_ticks
from ift.run import RunFolder
from ift.text.templates import Segment, Template

TEMPLATE = Template("small", (Segment("Q:{instruction}\nA:"), Segment("{output}", supervised=True)))
HOSTILE = "<script>document.title='hacked'</script>{{ 7*7 }}</style></title>\"'<img src=x onerror=alert(1)>"
REPORT = {
    "histogram": {"edges": [0, 10, 20], "rows": [3, 1]},
    "length": {"p50": 5, "p90": 15, "p99": 20},
    "max_length": 24,
}


def encode(tokenizer, instruction, output, *, max_length=1000, too_long="truncate_response", **more):
    row = Row(instruction, "", output, file="rows.json", number=1, **more)
    return make_example(row, TEMPLATE, tokenizer, max_length=max_length, too_long=too_long)


@pytest.fixture
def page(byte_tokenizer, settings_of, write, tmp_path):
    """page(records, **changes to data settings): the page on them, its report and where it lies."""

    def page(records, *, change_report=None, leaks=(), **changes):
        run = RunFolder(tmp_path / "run")
        settings = settings_of("data=json", "data.path=set.below", "data.split_seed=1").data
        given = {"path": str(write("rows.json", records)), "cache_dir": str(tmp_path / "cache"), "max_dropped": 1.0}
        settings = dataclasses.replace(settings, **given, **changes)
        data = prepare(settings, TEMPLATE, byte_tokenizer, context_length=200, run=run)
        data = dataclasses.replace(data, report={**data.report, **(change_report or {})}, leaks=[*data.leaks, *leaks])
        write_page(run, data, byte_tokenizer)
        return run.data_page.read_text(encoding="utf-8"), data.report, run.data_page

    return page


def rows(n, output="x"):
    return [{"instruction": f"{chr(65 + i)}{i:02}", "input": "", "output": output} for i in range(n)]


class Page(HTMLParser):
    """The tags of a page with their attributes, its text without the style sheet, and that text in words."""

    def __init__(self, page):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.text = "".join(self.texts)
        self.words = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags[-1:] != [("style", {})]:
            self.texts.append(data)


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines", "naïve 日本語 🤖!", "<|endoftext|>", "\ufffd is a character too"]
)
def test_spans_join_to_the_row_and_mark_exactly_what_is_supervised(byte_tokenizer, text):
    example = encode(byte_tokenizer, text, text)
    spans = token_spans(example, byte_tokenizer)
    assert "".join(s.text for s in spans[:-1]) == byte_tokenizer.decode(example.ids.tolist()) == f"Q:{text}\nA:{text}"
    assert "".join(s.text for s in spans[:-1] if s.supervised) == text
    assert [token for s in spans[:-1] for token in s.ids] == example.ids.tolist()
    assert spans[-1] == Span("⏎", True, (256,), "end")


def test_a_character_of_several_tokens_is_one_span_with_all_their_ids(byte_tokenizer):
    spans = token_spans(encode(byte_tokenizer, "?", "a🤖é"), byte_tokenizer)
    assert spans[-4:-1] == [
        Span("a", True, (97,)),
        Span("🤖", True, (0xF0, 0x9F, 0xA4, 0x96)),
        Span("é", True, (0xC3, 0xA9)),
    ]


def test_ends_of_earlier_turns_stand_where_they_are_learnt_or_not(byte_tokenizer):
    example = encode(byte_tokenizer, "2", "b", history=(("1", "a"),))
    assert "".join(s.text for s in token_spans(example, byte_tokenizer)) == "Q:1\nA:a⏎Q:2\nA:b⏎"
    assert [s for s in token_spans(example, byte_tokenizer) if s.kind == "end"] == 2 * [Span("⏎", True, (256,), "end")]
    unlearnt = dataclasses.replace(example, supervised=np.zeros(len(example.ids), bool))
    assert [s.supervised for s in token_spans(unlearnt, byte_tokenizer) if s.kind == "end"] == [False, True]


def test_an_end_that_is_not_learnt_is_no_cut(byte_tokenizer):
    spans = token_spans(encode(byte_tokenizer, "?", "ab", unlearnt_parts=((0, 1, 2),)), byte_tokenizer)
    assert spans[-3:] == [Span("a", True, (97,)), Span("b", False, (98,)), Span("⏎", False, (256,), "end")]


def test_a_cut_response_ends_in_a_cut_and_may_lose_half_a_character(byte_tokenizer):
    spans = token_spans(encode(byte_tokenizer, "?", "ab🤖", max_length=10), byte_tokenizer)
    assert spans[-3:] == [
        Span("b", True, (98,)),
        Span("\ufffd", True, (0xF0, 0x9F)),
        Span("✂", False, (), "cut"),
    ]


def test_a_long_part_loses_its_middle_and_the_border_is_still_seen():
    example = [Span("p", False, (1,))] * 10 + [Span("🤖", True, (2, 3))] * 10
    shown = shorten(example, longest=4)
    assert "".join(s.text for s in shown) == "pp… 6 tokens …pp🤖🤖… 12 tokens …🤖🤖"
    assert [s.kind for s in shown if s.supervised] == ["text", "text", "gap", "text", "text"]
    assert shorten(example, longest=10) == example


def test_what_cannot_be_seen_is_shown():
    assert visible("a\n\tb\r\u202e\u200b") == "a↵\n\tb⟨U+000D⟩⟨U+202E⟩⟨U+200B⟩"


def test_ticks_are_round_numbers_within():
    assert round_ticks(0, 117, 4, whole=True) == [0, 50, 100]
    assert round_ticks(40.0, 91.0, 10, whole=True) == [40, 50, 60, 70, 80, 90]
    assert round_ticks(7.5, 8.5, 10, whole=True) == [8]


def test_the_limit_is_marked_where_it_is_near():
    assert histogram(REPORT)["limit"] == ("limit 24", 1000.0)
    assert histogram({**REPORT, "max_length": 1024})["limit"] is None


def test_bars_stand_on_their_tokens_and_are_as_high_as_their_rows():
    chart = histogram({**REPORT, "max_length": 1024}, width=100, height=30)
    assert [(b["x"], b["width"], b["y"], b["rows"]) for b in chart["bars"]] == [(0, 50, 0, 3), (50, 50, 20, 1)]
    assert chart["marks"] == [("p50 5", 25), ("p90 15", 75), ("p99 20", 100)]


def test_text_of_rows_makes_no_markup(page):
    records = [
        {**row, "instruction": f"{i} {HOSTILE}", "category": HOSTILE, HOSTILE: HOSTILE}
        for i, row in enumerate(rows(20))
    ]
    found = Page(page(records, twins=None)[0])
    assert not {"script", "img"} & {tag for tag, _ in found.tags}
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]
    assert found.text.count(HOSTILE) == 3 + 8  # a column, its example, a category and, token by token, the first rows


def test_nothing_on_the_page_comes_from_outside(page):
    text = page(rows(20))[0]
    assert not [v for _, a in Page(text).tags for v in a.values() if v and ("://" in v or v.startswith("data:"))]
    assert "default-src 'none'" in text


def test_the_numbers_are_the_reports(page):
    records = [*rows(20), *rows(2), {"instruction": "a"}, None, {"instruction": "c", "output": 199 * "y"}]
    text, report, _ = page(records, too_long="truncate_response")
    found = Page(text).words
    assert "25 rows in = 21 kept + 2 dropped + 2 merged. ✓ All laws hold" in found
    assert "20 ends are learnt (rows with a cut response, which teach no end: 1)." in found
    splits = " / ".join(str(report["splits"][name]) for name in ("train", "test", "val"))
    assert f"{splits} rows to train / test / validate" in found
    assert f"{report['tokens']} tokens, " in found
    assert f"{100 * report['supervised_share']:.1f} % of them supervised, {report['supervised_tokens']}" in found
    assert "9 / 9 / 200 / 200 tokens a row: p50 / p90 / p99 / max, of 200 allowed" in found
    assert "null, not an object with instruction and output 1" in found
    assert report["fingerprint"] in found


def test_what_there_is_none_of_has_no_section(page):
    text = page(rows(20))[0]
    for heading in ("Not read", "Dropped", "Cut to fit", "Leaks", "Worth a look", "Categories", "evaluation"):
        assert heading not in Page(text).text


def test_what_was_not_read_is_named(page):
    report = page(rows(20))[1]
    files = [{**report["files"][0], "beside": ["<schema>"]}]
    text = page(rows(20), change_report={"unread": ["a folder/<b>.txt"], "files": files})[0]
    assert "Not read a folder/<b>.txt <schema>, beside the rows in " in Page(text).words


def test_leaks_overlaps_warnings_and_categories_are_listed_up_to_a_number(page):
    leaks = [
        {"split": "val", "file": "a", "row": i, "twin_file": "b", "twin_row": i, "similarity": 0.95}
        | {"text": f"<b>{i}\n", "twin_text": "<i>"}
        for i in range(60)
    ]
    change = {
        "leaks": {"test": 0, "val": 60},
        "overlaps": 7,
        "warnings": {"an e-mail address": {"rows": 30, "first": list(range(1, 21)), "example": "<b>me@"}},
        "categories": {f"kind {i}": 100 - i for i in range(25)},
    }
    text, _, _ = page(rows(20), change_report=change, leaks=leaks, twins=None)
    found = Page(text).words
    assert "similarity 0.950 a:49 < b > 49↵ in training: b:49 < i > and 10 more in leaks.jsonl" in found
    assert "7 rows share 13 words in a row with an evaluation" in found
    assert "30 an e-mail address 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … <b>me@" in found
    order = [found.index(words) for words in ("60 leaks", "Leaks:", "Worth a look", "Tokens a row", "Categories")]
    assert order == sorted(order)  # what matters most stands first
    assert "kind 19 81 and 5 more" in found
    assert [a["class"] for tag, a in Page(text).tags if tag == "b" and "class" in a] == ["bad", "bad"]


def test_the_page_needs_neither_torch_nor_matplotlib():
    code = "import sys, ift.pages.data_report; sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_in_a_real_browser_the_page_shows_the_text_and_runs_nothing(page, tmp_path):
    path = page([{**row, "instruction": f"{i} {HOSTILE}"} for i, row in enumerate(rows(20, "日本語"))], twins=None)[2]
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    result = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<title>run · data · ift</title>" in result.stdout
    assert '<span class="s text" title="230, 151, 165">日</span>' in result.stdout
    assert "20 rows in = 20 kept" in Page(result.stdout).text


def test_of_a_leak_both_texts_are_shown_with_what_they_do_not_share(page):
    leak = {"split": "test", "file": "a", "row": 1, "twin_file": "b", "twin_row": 2, "similarity": 0.97}
    texts = {"text": "add 2 and 3 | ", "twin_text": "add 2 and 4 | ", "reference": "5", "twin_reference": "6"}
    found = page(rows(20), leaks=[{**leak, **texts}], twins=None)[0]
    for marked in ("add 2 and <i>3</i>", "add 2 and <u>4</u>", "<i>5</i>", "<u>6</u>"):
        assert marked in found
    assert " |" not in Page(found).text  # the bar between a prompt and its input, where there is none
    earlier = page(rows(20), leaks=[{**leak, "text": "x", "twin_text": "x"}], twins=None)[0]  # without answers
    assert "in training: b:2" in earlier
