"""Every page, light and dark, on a desk and on a phone: axe-core finds nothing, and all fits the screen."""

import dataclasses
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from ift.data.contract.prepare import prepare
from ift.pages.comparison import compare
from ift.pages.data_report import write_page
from ift.pages.report import write_report
from ift.pages.sweep import show_sweep
from ift.run import RunFolder
from ift.text.templates import Segment, Template
from tests.browser import AXE
from tests.pages.many_texts import data_rows, make_runs
from tests.running import ROOT

TEMPLATE = Template("small", (Segment("Q:{instruction}\n{input}\nA:"), Segment("{output}", supervised=True)))
SCREENS = [(width, dark) for width in (1280, 390) for dark in (False, True)]


@contextmanager
def served(command, *runs, ready):
    """The address of the page that a command serves."""
    words = [sys.executable, "-m", "ift.cli", command, *(str(run.path) for run in runs), "--port", "0", "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        for line in process.stdout:
            if line.startswith("open "):
                yield line.split()[1], ready
                return
        raise RuntimeError(f"ift {command} did not start")
    finally:
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    runs = make_runs(top, times=1)
    for run in runs:
        write_report(run)
    compare([run.path for run in runs], top / "comparison.html")
    show_sweep(top)
    return runs


@pytest.fixture(scope="module")
def data_page(tmp_path_factory, byte_tokenizer, settings_of):
    top = tmp_path_factory.mktemp("data")
    run = RunFolder(top / "run")
    settings = settings_of("data=json", "data.path=set.below", "data.split_seed=1").data
    given = {"path": str(data_rows(top / "rows.jsonl")), "cache_dir": str(top / "cache"), "max_dropped": 1.0}
    settings = dataclasses.replace(settings, **given, split="positional", twins=0.8)
    write_page(run, prepare(settings, TEMPLATE, byte_tokenizer, context_length=3000, run=run), byte_tokenizer)
    return run.data_page


def look(browser, url, ready="true", before="true"):
    """What is wrong with a page on each screen."""
    found = []
    for width, dark in SCREENS:
        with browser.seen(width=width, dark=dark):
            browser.open(url)
            browser.wait_until(ready)
            browser.js(before)
            here = browser.violations()
            too_wide = browser.js("document.documentElement.scrollWidth") - width
            here += [f"{too_wide} pixels wider than the screen"] if too_wide > 0 else []
            found += [f"{width}{' dark' if dark else ''}: {each}" for each in here]
            assert browser.complaints == []
    return found


pytestmark = pytest.mark.skipif(not AXE.is_file(), reason="no axe-core-python here (pip install 'ift[test]')")


@pytest.mark.parametrize("page", ["report", "comparison", "sweep", "data report"])
def test_files_that_a_person_opens(browser, request, page):
    if page == "data report":
        url = request.getfixturevalue("data_page").as_uri()
    else:
        runs = request.getfixturevalue("runs")
        top = runs[0].path.parent
        url = {"report": runs[0].report, "comparison": top / "comparison.html", "sweep": top / "compare.html"}[
            page
        ].as_uri()
    assert look(browser, url, before="document.querySelectorAll('details').forEach(d => { d.open = true; })") == []


SAVED = "document.getElementById('saved').textContent === 'saved'"


def test_the_review(browser, runs):
    with served("review", runs[0], ready="!document.querySelector('main').hidden") as (url, ready):
        assert look(browser, url, ready) == []


def test_the_arena_and_its_leaderboard(browser, runs):
    ready = f"{SAVED} && !document.getElementById('skip').disabled"
    with served("arena", *runs[:3], ready=ready) as (url, _):
        assert look(browser, url, ready) == []
        browser.open(url)
        for key in "1213":
            browser.wait_until(ready)
            browser.press(key)
            browser.wait_until(f"{SAVED} && !document.getElementById('next').hidden")
            browser.press(" ")
        browser.wait_until(ready)  # a page that is still sending asks before it is left
        board = "document.querySelectorAll('#standings tr').length === 4"
        found = look(browser, url, f"{ready} && (document.getElementById('board').hidden && open('board'), {board})")
        assert found == []


def test_what_a_person_must_not_meet_is_found(browser, tmp_path):
    """axe runs inside of the page's policy, and finds what there is to find."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<html lang=en><title>t</title><main><h1>a</h1><img src=x><p style='color:#ccc'>pale</p><button></button>"
    )
    browser.open(page.as_uri())
    assert {each.split(" ")[0] for each in browser.violations()} >= {"image-alt", "color-contrast", "button-name"}


def test_lists_of_a_report_are_worked_by_keyboard_alone(browser, runs):
    count = "document.querySelector('#list-answers [data-part=count]').textContent"
    with browser.seen(width=390):  # five answers to a page
        browser.open(runs[0].report.as_uri())
        browser.js("document.querySelector('#list-answers [data-part=search]').focus()")
        browser.write("fibonacci")
        browser.wait_until(f"{count} === '1 of 12'")
        browser.js("document.activeElement.select()")
        press(browser, "Backspace", 8)
        browser.wait_until(f"{count} === '1 to 5 of 12'")
        names = []
        while not names or ("next" not in names[-1] and len(names) < 50):  # every control, in the order it stands in
            press(browser, "Tab", 9)
            names.append(browser.js("document.activeElement.dataset.part || document.activeElement.textContent.trim()"))
        assert names[:3] == ["category", "kind", "order"]
        press(browser, "Enter", 13, text="\r")
        browser.wait_until(f"{count} === '6 to 10 of 12'")


def press(browser, key, code, **more):
    browser.do("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more)
    browser.do("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
