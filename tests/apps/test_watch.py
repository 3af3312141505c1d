"""Trainings followed in a real browser from their start to their end, by their files alone; and what broken ones do."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest

from ift.apps.local_page import PageServer, Refused
from ift.apps.watch import Asked, Watch
from ift.run import RunFolder, write_json, write_jsonl
from tests.browser import AXE
from tests.running import ROOT, train

CONFIG = """format: 4
seed: {seed}
optim: {{lr: {lr}}}
trainer: {{max_steps: 50, max_epochs: 9}}
logger: {{api_key: "sk-abcdefghijklmnopqrstuvwxyz{seed}"}}
"""
NAMES = ["train/loss", "val/loss"]
HOSTILE = "<img src=x onerror=alert(1)>\u202e"
ROW = "[...document.querySelectorAll('#runs tbody tr')].find(tr => tr.textContent.includes({name}))"
READY = "view.answered && !asking && !document.getElementById('runs').tBodies[0].querySelector('tr:empty')"


def line(step, **more):
    return (
        json.dumps({"step": step, "tokens": 10 * step, "train/loss": 2 / (step + 1), "tokens_per_second": 5.0, **more})
        + "\n"
    )


def make_run(path, *, steps=20, lr="0.1", seed=1, status=None, **summary):
    path.mkdir(parents=True)
    run = RunFolder(path)
    run.config.write_text(CONFIG.format(lr=lr, seed=seed))
    run.metrics.write_text("".join(line(s, **({"val/loss": 1 / (s + 1)} if s % 5 == 0 else {})) for s in range(steps)))
    if status:
        write_json(run.summary, {"status": status, "stop_reason": "max_steps=50", "steps": steps, **summary})
    return run


def all_news(watch, **asked):
    """What a page that was just opened has in the end."""
    reply = watch.news(asked)
    for _ in range(1000):
        more = watch.news({**asked, "serial": watch.serial, "since": reply["version"]})
        lines = {line["id"]: line for line in (*reply["runs"], *more.get("runs", []))}
        reply = {**reply, **more, "runs": [*lines.values()]}
        if not more.get("behind"):
            return reply
    raise AssertionError("it never comes to the end of the files")


def listed(watch):
    return {line["name"]: line for line in all_news(watch)["runs"]}


@pytest.fixture
def serve():
    """serve(folder): the address of its page."""
    servers = []

    def serve(*folders):
        servers.append(PageServer(Watch(folders), 0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


# -- what is found ----------------------------------------------------------------------------------------------------


def test_runs_are_found_in_folders_and_sweeps_and_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr("ift.apps.watch.LOOK", 0)
    monkeypatch.setattr("ift.apps.watch.FIND", 0)
    make_run(tmp_path / "2026-11-29/10-15-00")
    make_run(tmp_path / "sweep/0/")
    make_run(tmp_path / "sweep/0/evals/x")  # inside of a run there is no other
    (tmp_path / "check/rows").mkdir(parents=True)
    (tmp_path / "sweep/loop").symlink_to(tmp_path)
    watch = Watch([tmp_path])
    first = all_news(watch)
    assert sorted((line["name"], line["place"]) for line in first["runs"]) == [
        ("2026-11-29/10-15-00", "2026-11-29"),
        ("sweep/0", "sweep"),
    ]
    make_run(tmp_path / "sweep/1")
    shutil.rmtree(tmp_path / "2026-11-29")
    reply = watch.news({"serial": watch.serial, "since": first["version"]})
    assert [line["name"] for line in reply["runs"]] == ["sweep/1"]
    assert reply["gone"] == [line["id"] for line in first["runs"] if line["place"] == "2026-11-29"]


def test_a_run_is_shown_by_itself_and_a_folder_that_is_not_there_yet_is_waited_for(tmp_path):
    assert [*listed(Watch([make_run(tmp_path / "one").path]))] == ["one"]
    assert listed(Watch([tmp_path / "none"])) == {}
    two = Watch([tmp_path / "a", tmp_path / "b"])
    for name in "ab":
        make_run(tmp_path / name / "0")
    assert sorted(listed(two)) == [f"{tmp_path}/a/0", f"{tmp_path}/b/0"]


def test_a_line_of_the_list_has_what_the_files_say(tmp_path):
    make_run(tmp_path / "done", steps=50, status="finished", val_loss=0.25, test_loss=0.5, best_step=45)
    make_run(tmp_path / "on", steps=20)
    runs = listed(Watch([tmp_path]))
    done, on = runs["done"], runs["on"]
    assert (done["state"], done["why"], done["step"], done["steps"]) == ("finished", "max_steps=50", 49, 50)
    assert (done["val_loss"], done["test_loss"]) == (pytest.approx(1 / 46), 0.5)
    assert (on["state"], on["step"], on["steps"], on["left"]) == ("running", 19, 50, 60)  # 31 steps of 2 s
    assert (on["val_loss"], on["best_step"]) == (pytest.approx(1 / 16), 15)


def test_what_a_page_has_is_not_sent_again(tmp_path, monkeypatch):
    monkeypatch.setattr("ift.apps.watch.LOOK", 0)
    runs = [make_run(tmp_path / name, lr=lr) for name, lr in (("a", "0.1"), ("b", "0.2"))]
    write_jsonl(runs[0].samples, [{"step": 0, "instruction": "q", "response": "r"}])
    watch = Watch([tmp_path])
    ids = [line["id"] for line in all_news(watch)["runs"]]
    asked = {"curves": [[id, 0, 0, 0] for id in ids], "names": NAMES, "compare": ids, "open": ids[0], "keys": {}}
    reply = all_news(watch, **asked)
    assert [row[0] for row in reply["compare"]["rows"]] == ["optim.lr"]
    known = [[int(id), each["generation"], each["full"], each["changes"]] for id, each in reply["curves"].items()]
    keys = {"compare": reply["compare"]["key"], "open": reply["open"]["key"]}
    asked |= {"serial": watch.serial, "since": reply["version"], "curves": known, "keys": keys}
    assert watch.news(asked) == {}
    with runs[0].metrics.open("a") as file:
        file.write(line(20) + line(21))
    watch.news(asked)  # its reply may come before the file has been read
    curves = watch.news(asked)["curves"]
    assert [*curves] == [ids[0]]
    assert curves[ids[0]]["axes"]["step"] == [19, 20, 21]  # 19 was not final


def test_ten_thousand_steps_of_many_runs_are_few_bytes_at_first_and_few_numbers_at_last(tmp_path):
    text = "".join(line(s, lr=1e-3, grad_norm=99.0 if s == 7777 else 1.0) for s in range(10_000))
    for i in range(12):
        make_run(tmp_path / str(i), steps=0).metrics.write_text(text)
    watch = Watch([tmp_path])
    first = watch.news({})
    assert [line["step"] for line in first["runs"]] == [9999] * 12
    metrics = [each.run.metrics for each in watch.runs.values()]
    assert not any(each.lines for each in metrics)  # the ends of files alone were read
    all_news(watch)
    assert [each.lines for each in metrics] == [9999] * 12
    kept = sum(
        array.nbytes
        for each in metrics
        for holder in (each.axes, *(vars(column) for column in each.columns.values()))
        for array in holder.values()
    )
    assert kept / 12 < 100_000  # of a file of a megabyte
    asked = {"serial": watch.serial, "curves": [[1, 0, 0, 0]], "names": ["train/loss", "grad_norm", "lr"]}
    [curves] = watch.news(asked)["curves"].values()
    assert len(curves["axes"]["step"]) <= 601
    assert len(json.dumps(curves)) < 130_000
    assert max(curves["series"]["grad_norm"]["high"]) == 99.0  # a spike of one step


def test_secrets_and_hostile_names_are_neither_shown_nor_markup(tmp_path, browser, serve):
    make_run(tmp_path / HOSTILE, lr=f"'{HOSTILE}'")
    other = make_run(tmp_path / "plain", seed=2)
    write_jsonl(other.samples, [{"step": 1, "instruction": HOSTILE, "response": HOSTILE, "reference": HOSTILE}])
    other.metrics.write_text(line(1, **{HOSTILE: 2.0}) * 3)
    browser.open(serve(tmp_path))
    browser.wait_until(f"{READY} && !document.getElementById('compare').hidden")
    browser.js("open([...runs.values()].find(run => run.name === 'plain').id)")
    browser.wait_until("!document.getElementById('details').hidden")
    shown = browser.js("document.body.textContent")
    assert shown.count("<img src=x onerror=alert(1)>⟨U+202E⟩") >= 5
    assert "sk-abc" not in browser.js(
        "document.documentElement.outerHTML + JSON.stringify([...runs.values()].map(r => r.name))"
    )
    assert browser.js("document.querySelectorAll('img').length") == 0
    assert browser.complaints == []


BROKEN = {
    "no metrics": lambda run: run.metrics.unlink(),
    "metrics are a folder": lambda run: (run.metrics.unlink(), run.metrics.mkdir()),
    "metrics of zeros": lambda run: run.metrics.write_bytes(b"\0" * 100_000 + b"\n" + line(5).encode()),
    "a half line": lambda run: run.metrics.write_text(line(1) + line(2)[:-9]),
    "metrics that nobody may read": lambda run: run.metrics.chmod(0),
    "no config": lambda run: run.config.unlink(),
    "config of another kind": lambda run: run.config.write_text("- 1\n- 2\n"),
    "config of a later release": lambda run: run.config.write_text("format: 99\n"),
    "config is not text": lambda run: run.config.write_bytes(b"\xff\xfe\x00"),
    "a summary cut off": lambda run: run.summary.write_text('{"status": "fini'),
    "a summary of lists": lambda run: run.summary.write_text('{"status": [], "steps": {}, "val_loss": "low"}'),
    "samples of no answers": lambda run: run.samples.write_text('{"step": "x"}\n[]\n{"step": 1, "response": 3}\n'),
    "a report of another kind": lambda run: run.data_report.write_text('{"format": 1, "splits": 3}'),
    "a link to nowhere": lambda run: (run.metrics.unlink(), run.metrics.symlink_to("/nonexistent/x")),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_run_is_shown_with_what_is_wrong_and_the_others_as_ever(tmp_path, broken):
    make_run(tmp_path / "good")
    BROKEN[broken](make_run(tmp_path / "bad"))
    watch = Watch([tmp_path])
    ids = {line["name"]: line["id"] for line in all_news(watch)["runs"]}
    assert ids.keys() == {"good", "bad"}
    asked = {"serial": watch.serial, "curves": [[id, 0, 0, 0] for id in ids.values()], "names": NAMES}
    reply = all_news(watch, **asked, compare=[*ids.values()], open=ids["bad"])
    assert len(reply["curves"][ids["good"]]["axes"]["step"]) == 20
    json.dumps(reply, allow_nan=False)
    said = [*reply["open"]["problems"], *next(line["problems"] for line in reply["runs"] if line["name"] == "bad")]
    if broken.startswith(("config", "a summary cut", "samples", "a report", "metrics of zeros")):
        assert said
        assert all("Traceback" not in each for each in said)


@pytest.mark.parametrize(
    "request_",
    [[], None, 3, {"since": -1}, {"since": "1"}, {"curves": [[1, 2]]}, {"curves": [[1, 0, 0, 0]] * 33}, {"names": [1]},
     {"open": 1.5}, {"keys": []}, {"compare": {}}, {"columns": [True]}, {"curves": [[1 << 60, 0, 0, 0]]}],
)  # fmt: skip
def test_a_request_that_no_page_sends_is_refused_or_does_nothing(tmp_path, request_):
    watch = Watch([tmp_path])
    try:
        Asked(request_)
    except Refused:
        with pytest.raises(Refused):
            watch.news(request_)
    else:
        assert watch.news(request_)["runs"] == []


# -- in the browser ---------------------------------------------------------------------------------------------------


def cell(browser, name, column):
    head = (
        "[...document.querySelectorAll('#runs thead th')].findIndex(th => th.dataset.name === "
        + json.dumps(column)
        + ")"
    )
    row = ROW.format(name=json.dumps(name))
    return browser.js(f"{row}.cells[{head}].textContent")


def test_a_training_from_its_start_to_its_end(browser, serve, tmp_path, warm):
    browser.open(serve(tmp_path / "runs"))
    browser.wait_until("!document.getElementById('none').hidden && view.answered")
    # the page asks every two seconds: a training that takes less is never seen while it goes on
    wide = ["model.n_embd=256", "model.n_layer=12", "data.batch_size=16"]
    more = [
        *wide,
        "trainer.early_stopping.patience=null",
        "trainer.max_steps=30",
        "trainer.val_every=10",
        "logger.wandb=false",
    ]
    started = ThreadPoolExecutor(1).submit(train, f"output_dir={tmp_path / 'runs/mine'}", *more, run=warm.run)
    live = "['starting', 'running', 'answering']"
    browser.wait_until(f"[...runs.values()].some(run => {live}.includes(run.state))", 300)
    browser.wait_until("document.querySelectorAll('.plot path').length > 0 && [...runs.values()][0].steps === 30", 300)
    browser.wait_until("[...runs.values()][0].state === 'finished'", 300)
    assert started.result().returncode == 0
    browser.wait_until(f"{ROW.format(name=repr('mine'))}.textContent.includes('finished')")
    assert cell(browser, "mine", "progress") == "30 of 30"
    browser.wait_until("figures.get('train/loss').drawn.lines[0].points.length === 31")
    browser.js("open([...runs.keys()][0])")
    browser.wait_until(
        "!document.getElementById('details').hidden && document.querySelectorAll('#moments li').length === 4"
    )
    summary = json.loads((tmp_path / "runs/mine/summary.json").read_text())
    told = browser.js("document.getElementById('facts').textContent")
    assert f"{summary['val_loss']:.4g}" in told
    assert "rows in" in browser.js("document.getElementById('report').textContent")
    assert browser.complaints == []


def test_the_list_is_searched_sorted_and_drawn_by_keyboard(browser, serve, tmp_path):
    for i, lr in enumerate(("0.1", "0.01", "0.5")):
        make_run(tmp_path / f"sweep/{i}", lr=lr, status="finished" if i else None, val_loss=0.3 + i)
    make_run(tmp_path / "other", status="failed: step 3: loss nan (lower optim.lr)")
    browser.open(serve(tmp_path))
    browser.wait_until(f"{READY} && document.querySelectorAll('#legend li').length === 4")
    names = "[...document.querySelectorAll('#runs tbody .open')].map(b => b.textContent)"
    assert browser.js(names)[0] == "sweep/0"  # what trains stands first
    assert "step 3: loss nan (lower optim.lr)" in cell(browser, "other", "state")
    browser.js(
        "document.getElementById('place').value = 'sweep';"
        "document.getElementById('place').dispatchEvent(new Event('input'))"
    )
    browser.wait_until("document.querySelector('#runs thead').textContent.includes('optim.lr')")
    browser.js("[...document.querySelectorAll('#runs thead button')].find(b => b.textContent === 'optim.lr').focus()")
    browser.press("Enter")
    browser.wait_until(f"{names}.join() === 'sweep/1,sweep/0,sweep/2'")
    browser.press("Enter")  # the focus stays on the column's name
    browser.wait_until(f"{names}.join() === 'sweep/2,sweep/0,sweep/1'")
    assert browser.js("document.querySelector('#runs [aria-sort=descending]').textContent") == "optim.lr"
    browser.js("document.querySelector('#runs tbody input').focus()")
    browser.press(" ")
    browser.wait_until("document.querySelectorAll('#legend li').length === 3")
    browser.js("document.getElementById('search').focus()")
    browser.write("sweep/1")
    assert browser.js(names) == ["sweep/1"]
    browser.js("document.querySelector('.plot').focus()")
    browser.press("Home", "ArrowRight")
    reading = browser.js("document.querySelector('.reading').textContent")
    assert "steps 1" in reading
    assert "sweep/1" in reading
    assert browser.complaints == []


def test_a_page_out_of_sight_asks_nothing_and_one_whose_server_ended_says_so(browser, tmp_path):
    make_run(tmp_path / "run")
    server = PageServer(Watch([tmp_path]), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.wait_until(READY)
    browser.js("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    browser.js("document.dispatchEvent(new Event('visibilitychange')); clearTimeout(timer)")
    before = len(browser.requests)
    time.sleep(2.5)
    assert len(browser.requests) == before
    server.shutdown()
    server.server_close()
    browser.js("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    browser.wait_until("!document.getElementById('link').hidden")
    assert "not up to date" in browser.js("document.getElementById('link').textContent")


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core-python here (pip install 'ift[test]')")
def test_axe_finds_nothing_and_all_fits_the_screen(browser, serve, tmp_path):
    runs = [make_run(tmp_path / f"sweep/{i}", lr=f"0.{i + 1}", status="finished", val_loss=0.5) for i in range(2)]
    make_run(tmp_path / "a-run-with-a-very-long-name-that-nobody-would-choose-for-a-folder/2026-11-29")
    write_jsonl(
        runs[0].samples, [{"step": s, "instruction": "Why?", "response": "So. " * 60, "loss": 1.0} for s in (0, 9)]
    )
    url = serve(tmp_path)
    for width, dark in [(1400, False), (1400, True), (390, False), (390, True)]:
        with browser.seen(width=width, dark=dark):
            browser.open(url)
            browser.wait_until(f"{READY} && document.querySelectorAll('.plot path').length > 5")
            browser.js("open([...runs.values()].find(run => run.name === 'sweep/0').id)")
            browser.wait_until("!document.getElementById('details').hidden")
            browser.js("document.querySelectorAll('details').forEach(each => { each.open = true; })")
            browser.wait_until("document.querySelectorAll('figure tbody tr').length > 10")
            assert browser.violations() == []
            assert browser.js("document.documentElement.scrollWidth") <= width
            assert browser.complaints == []


def test_a_folder_that_is_none_is_an_error_and_ctrl_c_ends(tmp_path):
    command = [sys.executable, "-m", "ift.cli", "watch", "--port", "0", "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    wrong = subprocess.run(
        [*command, "nowhere"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.startswith("ift: error: nowhere: no such folder (ift watch FOLDER")
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[0].startswith("watch     trainings in runs")
        assert "?token=" in lines[1]
        with urlopen(lines[1].split()[1], timeout=30) as page:  # it serves now
            assert b"Trainings" in page.read()
        process.send_signal(2)
        assert process.wait(timeout=30) == 0
        assert [*tmp_path.iterdir()] == []
    finally:
        process.kill()
