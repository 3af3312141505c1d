"""The chat page in a real browser: a person's path, refusals in plain words, text that stays text."""

import json
import math
from pathlib import Path

import pytest

from ift.apps.chat_page import ChatPage
from ift.apps.local_page import Refused
from ift.apps.review import Review
from ift.apps.speaker import ModelPlace
from ift.evaluation.answers import open_answers
from ift.evaluation.people import Rating, Ratings
from ift.run import RunFolder, write_json
from ift.settings import CheckSettings
from tests.apps.serving.conftest import Server, make_served
from tests.browser import AXE
from tests.pages.test_hostile_answers import HOSTILE
from tests.scripted_server import Script, Scripted

QUESTIONS = "[...document.querySelectorAll('.question > .text')].map(e => e.textContent)"
SAID = "[...document.querySelectorAll('.said')].map(e => e.textContent)"
META = "[...document.querySelectorAll('.meta')].map(e => e.textContent.replaceAll('\\u00a0', ' '))"
STATUS = "document.getElementById('status').textContent"
BUSY = "document.getElementById('log').getAttribute('aria-busy') === 'true'"
FOCUS = "document.activeElement.id"
IDLE = f"!({BUSY}) && document.getElementById('model').value"


def echo(body):
    """Says what it was asked, and after how many messages."""
    return Script(
        ["It ", "is: ", f"{body['messages'][-1]['content']} ", f"({len(body['messages'])})"], [-0.01, -0.7, -1.5, -3]
    )


@pytest.fixture
def chat(browser, tmp_path):
    """chat(answer=..., models=("tuned", "base")): the page is open in the browser; returns its server.

    tuned is the model of a run that saw single turns alone; base is none of a run.
    """
    run = RunFolder(tmp_path / "tuned")
    run.model.mkdir(parents=True)
    run.config.touch()
    places = {
        "tuned": ModelPlace("tuned", run.model, single_turns=True),
        "base": ModelPlace("base", tmp_path / "other"),
    }
    servers = []

    def chat(answer=echo, models=("tuned",), key=""):
        page = ChatPage({name: places[name] for name in models})
        about = [
            {"id": name, "max_model_len": 1024, "single_turns": name == "tuned", "review": page.can_review(name)}
            for name in models
        ]
        servers.append(Scripted(page, about, answer))
        servers[-1].key = key
        servers[-1].run = run
        browser.open(servers[-1].url)
        return servers[-1]

    yield chat
    browser.js("running?.controller.abort()")
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(browser, question, *, wait=True):
    browser.wait_until(IDLE)
    browser.js("document.getElementById('box').focus()")
    browser.write(question)
    browser.press("Enter")
    if wait:
        browser.wait_until(IDLE)


def press(browser, words, of=""):
    """The last button with these words or this name."""
    name = json.dumps(words)
    browser.js(
        f"[...document.querySelectorAll('{of} button')].findLast(e => e.offsetParent && (e.textContent === {name} || "
        f"e.getAttribute('aria-label') === {name})).click()"
    )


def choose(browser, id, value):
    """Set a field of the settings, as a person does."""
    field, property = f"document.getElementById({json.dumps(id)})", "checked" if isinstance(value, bool) else "value"
    browser.js(f"{field}.{property} = {json.dumps(value)}; {field}.dispatchEvent(new Event('change'))")


# -- a person's path ---------------------------------------------------------------------------------------------------


def test_a_person_types_sees_the_answer_grow_and_stops_it(browser, chat):
    server = chat(lambda body: Script([f"{i} " for i in range(500)], pause=0.02))
    browser.wait_until(IDLE)
    assert browser.js(FOCUS) == "box"
    browser.write("Count")
    browser.key("Enter", modifiers=8)  # Shift+Enter
    browser.write("to 500")
    assert browser.js(QUESTIONS) == []
    browser.press("Enter")
    browser.wait_until(f"{SAID}[0].includes('5 ')")
    assert browser.js(QUESTIONS) == ["Count\nto 500"]
    assert browser.js(BUSY)
    assert browser.js("document.getElementById('log').getAttribute('role')") == "log"
    assert browser.js(STATUS) == ""  # nothing is announced while it comes
    assert browser.js(FOCUS) == "box"
    browser.write("next")  # meanwhile the next question can be typed, and Enter does not lose it
    browser.press("Enter", "Escape")
    browser.wait_until(IDLE)
    assert browser.js(SAID)[0].startswith("0 1 2 3 4 5")
    assert len(browser.js(SAID)[0]) < 1000
    assert browser.js(META)[0].startswith("stopped by you · ")
    assert browser.js(STATUS).startswith("Answer of tuned: stopped by you, ")
    assert browser.js("document.getElementById('box').value") == "next"
    for _ in range(100):
        if server.left:
            break
        browser.js("new Promise(go => setTimeout(go, 50))")
    assert server.left == 1  # the server hears of it
    assert browser.complaints == []


def test_settings_are_sent_and_what_is_no_value_is_said_in_words(browser, chat):
    server = chat()
    browser.wait_until(IDLE)
    for id, value in {
        "temperature": "0.25",
        "max_tokens": "7",
        "seed": "3",
        "system": "Be brief.",
        "stop-text": "\\n#",
    }.items():
        choose(browser, id, value)
    ask(browser, "One?")
    (asked,) = server.asked
    assert asked == {
        "model": "tuned",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}],
        "temperature": 0.25,
        "top_p": 1,
        "repetition_penalty": 1,
        "max_tokens": 7,
        "seed": 3,
        "stop": "\n#",
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert browser.js(META)[0].startswith("ended by itself · 4 tokens")
    choose(browser, "temperature", "3")
    browser.js("document.getElementById('box').focus()")
    browser.write("Two?")
    browser.press("Enter")
    assert browser.js(STATUS) == "temperature must be a number from 0 to 2."
    assert browser.js(FOCUS) == "temperature"
    assert len(server.asked) == 1


def test_how_an_answer_was_cut_is_told(browser, chat):
    chat(lambda body: Script(["a ", "b"], finish="length"))
    browser.wait_until(IDLE)
    choose(browser, "max_tokens", "2")
    ask(browser, "One?")
    choose(browser, "max_tokens", "100")
    ask(browser, "Two?")
    cut = [meta.split(" · ")[0] for meta in browser.js(META)]
    assert cut == ["cut at 2 tokens", "cut: the model's context is full"]


def test_each_question_is_alone_where_the_model_saw_single_turns_unless_a_person_wants_it_otherwise(browser, chat):
    chat()
    ask(browser, "One?")
    ask(browser, "Two?")
    choose(browser, "alone", False)
    ask(browser, "Three?")
    assert browser.js(SAID) == ["It is: One? (1)", "It is: Two? (1)", "It is: Three? (5)"]
    browser.open(browser.js("location.href"))  # and it stays so
    ask(browser, "Four?")
    assert browser.js(SAID)[-1] == "It is: Four? (7)"


def test_a_model_of_whole_talks_gets_the_turns_before(browser, chat):
    chat(models=("base",))
    ask(browser, "One?")
    ask(browser, "Two?")
    assert browser.js(SAID) == ["It is: One? (1)", "It is: Two? (3)"]


def test_what_was_edited_or_asked_again_stands_beside_it_with_all_that_followed(browser, chat):
    server = chat(models=("base",))
    for question in ("One?", "Two?"):
        ask(browser, question)
    browser.write("a draft")
    press(browser, "edit the question", ".turn:first-child")
    assert browser.js("document.getElementById('box').value") == "One?"
    assert browser.js(FOCUS) == "box"
    browser.js("document.getElementById('box').value = 'Uno?'")
    browser.press("Enter")
    browser.wait_until(IDLE)
    assert browser.js("document.getElementById('box').value") == "a draft"
    assert browser.js(QUESTIONS) == ["Uno?"]
    browser.js("document.getElementById('box').value = ''")
    ask(browser, "Due?")
    assert [m["content"] for m in server.asked[-1]["messages"]] == ["Uno?", "It is: Uno? (1)", "Due?"]
    press(browser, "ask again: another answer", ".turn:first-child")
    browser.wait_until(IDLE)
    assert browser.js(QUESTIONS) == ["Uno?"]
    assert browser.js("document.querySelector('.switcher').textContent") == "‹3 / 3›"
    press(browser, "the version before")
    assert browser.js(QUESTIONS) == ["Uno?", "Due?"]
    press(browser, "the version before", ".turn:first-child")
    assert browser.js(QUESTIONS) == ["One?", "Two?"]
    assert browser.js("document.activeElement.dataset.step") == "1"  # there is none before: focus is not lost
    browser.open(browser.js("location.href"))
    browser.wait_until(IDLE)
    assert browser.js(QUESTIONS) == ["One?", "Two?"]
    press(browser, "the next version", ".turn:first-child")
    assert browser.js(SAID) == ["It is: Uno? (1)", "It is: Due? (3)"]
    assert len({body["seed"] for body in server.asked}) == 5  # each of its own: again is another answer


def test_a_talk_that_a_new_one_took_the_place_of_can_be_brought_back(browser, chat):
    chat()
    ask(browser, "One?")
    press(browser, "New talk")
    assert browser.js(QUESTIONS) == []
    browser.open(browser.js("location.href"))
    browser.wait_until(IDLE)
    press(browser, "Bring back the last talk")
    assert browser.js(QUESTIONS) == ["One?"]


def test_a_page_that_was_opened_before_its_server_asks_for_the_models_again(browser, chat):
    server = chat(key="key")  # a server that does not answer so far
    browser.wait_until(f"{STATUS} !== ''")
    server.key = ""
    browser.js("document.getElementById('box').focus()")
    browser.write("One?")
    browser.press("Enter")
    browser.wait_until(IDLE)
    assert browser.js("document.getElementById('box').value") == "One?"
    browser.press("Enter")
    browser.wait_until(f"{IDLE} && {SAID}.length")
    assert browser.js(SAID) == ["It is: One? (1)"]


def test_an_edit_can_be_left(browser, chat):
    chat()
    ask(browser, "One?")
    browser.write("a draft")
    press(browser, "edit the question")
    browser.press("Escape")
    assert browser.js("document.getElementById('box').value") == "a draft"
    assert browser.js("document.getElementById('editing').hidden")


def test_two_models_answer_side_by_side_each_with_its_own_turns_before(browser, chat):
    server = chat(lambda body: Script([f"{body['model']} says {len(body['messages'])}"]), models=("tuned", "base"))
    browser.wait_until(IDLE)
    choose(browser, "beside", "base")
    choose(browser, "alone", False)
    ask(browser, "One?")
    ask(browser, "Two?")
    assert browser.js(SAID) == ["tuned says 1", "base says 1", "tuned says 3", "base says 3"]
    own = {body["model"]: body["messages"][1]["content"] for body in server.asked[2:]}
    assert own == {"tuned": "tuned says 1", "base": "base says 1"}
    wide = "[...document.querySelectorAll('.turn:first-child .answer')].map(e => e.getBoundingClientRect().top)"
    with browser.seen(width=1400):
        assert len(set(browser.js(wide))) == 1
    with browser.seen(width=390):
        assert len(set(browser.js(wide))) == 2


def test_tokens_are_coloured_and_each_says_its_number(browser, chat):
    chat()
    ask(browser, "Who?")
    choose(browser, "colours", True)
    tokens = "[...document.querySelectorAll('.tokens span')].map(e => [e.textContent, e.className, e.title])"
    assert browser.js(tokens) == [
        ["It ", "p0", "“It ” 99 %; instead: “other” 0.40 %"],
        ["is: ", "p2", "“is: ” 50 %; instead: “other” 0.40 %"],
        ["Who? ", "p3", "“Who? ” 22 %; instead: “other” 0.40 %"],
        ["(1)", "p4", "“(1)” 5.0 %; instead: “other” 0.40 %"],
    ]
    assert browser.js("document.getElementById('legend').hidden") is False
    browser.js("document.querySelector('.tokens').focus()")
    browser.press("ArrowRight", "ArrowRight")
    assert browser.js("document.querySelector('.chance').textContent") == "“is: ” 50 %; instead: “other” 0.40 %"
    lines = "[...document.querySelectorAll('#legend [class]')].map(e => getComputedStyle(e).textDecoration)"
    assert len(set(browser.js(lines))) == 5  # not by colour alone
    choose(browser, "colours", False)
    assert browser.js(SAID) == ["It is: Who? (1)"]
    assert browser.js("document.querySelectorAll('.tokens').length") == 0


def test_tokens_that_are_parts_of_a_character_are_one_and_the_templates_end_is_none(browser, chat):
    euro = "€".encode()
    tokens = [b" 5 ", euro[:1], euro[1:], b".", b"\n###"]
    chat(lambda body: Script(["5 ", "€", "."], [math.log(0.5)] * 3, tokens))
    browser.wait_until(IDLE)
    choose(browser, "colours", True)
    ask(browser, "How much?")
    shown = browser.js("[...document.querySelectorAll('.tokens span')].map(e => [e.textContent, e.title])")
    assert [words for words, _ in shown] == ["5 ", "€", "."]
    # the log-probabilities of the second and third token add up: 0.5 x 0.5
    assert shown[1][1] == "“€” 25 %"
    assert browser.js(META)[0].startswith("ended by itself · 5 tokens")


def test_an_answer_that_was_cut_within_a_character_has_its_colours(browser, chat):
    chat(lambda body: Script(["a", "\ufffd"], tokens=[b"a", "€".encode()[:2]], finish="length"))
    browser.wait_until(IDLE)
    choose(browser, "colours", True)
    ask(browser, "How much?")
    assert browser.js("[...document.querySelectorAll('.tokens span')].map(e => e.textContent)") == ["a", "\ufffd"]


def test_a_talk_is_exported_and_imported_with_all_its_versions_and_as_plain_messages(browser, chat, tmp_path):
    chat(models=("tuned", "base"))
    browser.wait_until(IDLE)
    choose(browser, "beside", "base")
    choose(browser, "system", "Be brief.")
    for question in ("One?", "Two?"):
        ask(browser, question)
    press(browser, "ask again: another answer")
    browser.wait_until(IDLE)
    folder = tmp_path / "downloads"
    browser.do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    press(browser, "Export")
    for _ in range(200):
        if folder.exists() and [*folder.glob("talk-*.json")]:
            break
        browser.js("new Promise(go => setTimeout(go, 20))")
    (file,) = folder.glob("talk-*.json")
    exported = json.loads(file.read_text())
    assert exported["models"] == ["tuned", "base"]
    assert [m["content"] for m in exported["messages"]] == [
        *("Be brief.", "One?", "It is: One? (2)", "Two?", "It is: Two? (2)")
    ]
    from ift.apps.chat import Talk  # `/load FILE` of `ift chat` reads it

    assert Talk.from_json(exported, 2).turns == [
        ("One?", ("It is: One? (2)",) * 2),
        ("Two?", ("It is: Two? (2)",) * 2),
    ]
    press(browser, "New talk")
    assert browser.js(QUESTIONS) == []

    def take(path):
        browser.do("DOM.enable")
        root = browser.do("DOM.getDocument")["root"]["nodeId"]
        node = browser.do("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        before = browser.js(STATUS)
        browser.do("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
        browser.wait_until(f"{STATUS} !== {json.dumps(before)}")
        return browser.js(STATUS)

    assert take(file) == f"2 turns from {file.name}."
    assert browser.js(QUESTIONS) == ["One?", "Two?"]
    assert browser.js("document.querySelectorAll('.switcher')[1].textContent") == "‹2 / 2›"
    plain = tmp_path / "plain.json"
    write_json(plain, Talk([("Who?", ("Me.",)), ("You?", ("Yes.",))], "Be kind.").to_json(["x"]))
    assert take(plain) == "2 turns from plain.json."
    assert browser.js(QUESTIONS) == ["Who?", "You?"]
    assert browser.js(SAID) == ["Me.", "Yes."]
    assert browser.js("document.getElementById('system').value") == "Be kind."
    for name, content, why in (
        ("a.json", "{", "it is not JSON"),
        ("b.json", "{}", 'no talk in it (a file that was exported here, or {"messages": [...]})'),
        ("c.json", '{"format": 99}', "a newer release wrote this file"),
        ("d.json", '{"talk": {"children": [{}]}}', "a turn without a question"),
    ):
        (tmp_path / name).write_text(content)
        assert take(tmp_path / name) == f"{name} cannot be read: {why}."
    assert browser.js(QUESTIONS) == ["Who?", "You?"]


def test_an_answer_is_sent_to_the_review_and_stands_there(browser, chat):
    server = chat(models=("tuned", "base"))
    browser.wait_until(IDLE)
    choose(browser, "beside", "base")
    choose(browser, "alone", False)
    for question in ("One?", "Two?"):
        ask(browser, question)
    assert browser.js("[...document.querySelectorAll('.after')].map(e => e.lastChild.hidden)") == [False, True] * 2
    press(browser, "send the answer of tuned to the review")
    press(browser, "Send to review")
    said = "document.querySelector('.rating [data-part=said]').textContent"
    browser.wait_until(said)
    assert "say right, partly or wrong" in browser.js(said)
    press(browser, "partly")
    browser.js("document.querySelector('.rating textarea').focus()")
    browser.write("half of it")
    press(browser, "Send to review")
    browser.wait_until("!document.querySelector('.rating')")
    kept = server.run.path / "chat.jsonl"
    assert str(kept) in browser.js(STATUS)
    answers = open_answers(kept)
    (answer,) = answers.rows
    assert (answer.instruction, answer.response) == ("Two?", "It is: Two? (3)")
    assert answer.input == "user: One?\n\nassistant: It is: One? (1)"
    rater = server.page.rater
    assert Ratings(answers.run.ratings, read_only=True).rating(rater, answer.key) == Rating(
        "partly", None, "half of it"
    )
    assert Review([answers], blind=False, rater=rater).rated(rater) == 1
    assert not server.run.ratings.exists()  # a mean over test rows stays one


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            Script(
                status=429,
                error={"message": "too many requests wait already (try again soon)"},
                headers={"Retry-After": "2"},
            ),
            "the server is busy: too many requests wait already; try again in 2 s",
        ),
        (
            Script(status=400, error={"message": "top_p: must be above 0", "param": "top_p"}),
            "the server does not take this: top_p: must be above 0",
        ),
        (
            Script(status=400, error={"message": "2000 do", "code": "context_length_exceeded"}),
            "this is longer than the model can read: 2000 do. Shorten it, ask the question alone, or begin a new talk",
        ),
        (
            Script(status=503, error={"message": "the server is shutting down"}),
            "the server takes no questions now: the server is shutting down; try again soon",
        ),
        (Script(status=500), "the server failed: status 500"),
        (Script(["It ", "was"], lost=True), "the connection was lost before the answer was whole · 2 tokens"),
        (Script(lost=True), "the connection was lost before the answer was whole"),
    ],
)
def test_what_the_server_refuses_is_said_in_words_and_can_be_asked_again(browser, chat, script, words):
    scripts = [script]
    chat(lambda body: scripts.pop() if scripts else echo(body))
    ask(browser, "One?")
    assert browser.js(META)[0].startswith(words)
    assert words.split(" · ")[0] in browser.js(STATUS)
    press(browser, "ask again: another answer")
    browser.wait_until(IDLE)
    assert browser.js(SAID) == ["It is: One? (1)"]


def test_a_server_that_has_ended_is_told(browser, chat):
    server = chat()
    browser.wait_until(IDLE)
    server.shutdown()
    server.server_close()
    ask(browser, "One?")
    assert browser.js(META) == ["no connection to the server (has it ended?)"]
    ask(browser, "Two?")  # a turn without an answer is no turn to the model
    assert browser.js("messagesOf(path(talk).slice(0, 1), { ...newTurn('Three?', '', false) }, 'tuned').length") == 1


def test_the_servers_key_is_asked_for_and_kept_nowhere(browser, chat):
    server = chat(key="secret-key")
    browser.wait_until("!document.getElementById('key-field').hidden")
    assert "the server wants its key" in browser.js(STATUS).lower()
    browser.js("document.getElementById('key').focus()")
    browser.write("secret-key")
    choose(browser, "key", "secret-key")
    ask(browser, "One?")
    assert browser.js(SAID) == ["It is: One? (1)"]
    assert set(server.keys) == {None, "Bearer secret-key"}
    assert "secret" not in browser.js("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + location.href")


@pytest.mark.parametrize("colours", [False, True])
def test_hostile_answers_stay_text(browser, chat, colours):
    hostile = [
        *HOSTILE,
        "</textarea><script>window.hacked=1</script>",
        "\u202egnihton si siht\u202c",
        "\u200f\u2067abc",
        "\x00\x1b[2J",
    ]
    text = "\n".join(hostile)
    server = chat(lambda body: Script([f"{line}\n" for line in hostile]))
    browser.wait_until(IDLE)
    choose(browser, "colours", colours)
    choose(browser, "system", text)
    ask(browser, hostile[-4])
    assert browser.js("window.hacked") is None
    assert browser.js("document.querySelectorAll('.said script, .said img, .said svg, .said iframe').length") == 0
    shown = browser.js("document.querySelector('.said').textContent")
    assert all(line in shown for line in hostile if "`" not in line)
    browser.open(server.url)  # from what the browser kept
    browser.wait_until(IDLE)
    assert browser.js("window.hacked") is None
    assert browser.js(QUESTIONS) == [hostile[-4]]
    assert browser.complaints == []
    own = server.url
    assert all(request.startswith(own) for request in browser.requests)


def test_code_between_backquotes_stands_apart_while_it_grows(browser, chat):
    chat(lambda body: Script(["See:\n", "``", "`py", "thon\nx = 1\n", "```\n", "Done."], pause=0.03))
    ask(browser, "How?")
    parts = "[...document.querySelector('.said').children].map(e => [e.tagName, e.textContent])"
    assert browser.js(parts) == [["DIV", "See:"], ["PRE", "x = 1"], ["DIV", "Done."]]


def test_a_full_store_of_the_browser_ends_nothing(browser, chat):
    chat()
    browser.wait_until(IDLE)
    browser.js("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
    ask(browser, "One?")
    assert browser.js(SAID) == ["It is: One? (1)"]
    assert [each for each in browser.complaints if "exception" in each] == []


# -- how it looks ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core-python here (pip install 'ift[test]')")
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_all_fits_the_screen_and_is_accessible(browser, chat, width, dark):
    with browser.seen(width=width, dark=dark):
        chat(lambda body: Script([*["A " * 40, "verylongword" * 40]], [-0.3, -4]), models=("tuned", "base"))
        browser.wait_until(IDLE)
        found = browser.violations()
        choose(browser, "beside", "base")
        choose(browser, "colours", True)
        ask(browser, "One?")
        press(browser, "ask again: another answer")
        browser.wait_until(IDLE)
        press(browser, "send the answer of tuned to the review")
        press(browser, "edit the question")
        found += browser.violations()
        assert browser.js("document.documentElement.scrollWidth") <= width
        if width == 390:
            press(browser, "Settings")
            assert browser.js(FOCUS) == "close-panel"
            found += browser.violations()
            browser.press("Escape", "Escape")
            assert browser.js("getComputedStyle(document.getElementById('panel')).display") == "none"
        choose(browser, "colours", False)
        assert [*found, *browser.violations()] == []
        assert browser.complaints == []


# -- the server itself -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory, byte_tokenizer):
    """`ift serve` with two models of 256 tokens of context; the first one's run says that it saw single turns."""
    folder = tmp_path_factory.mktemp("chat")
    one, two = (make_served(folder / name, byte_tokenizer, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    write_json(RunFolder(one).data_report, {"rows_with": {"history": 0}})
    server = Server(str(one), str(two))
    server.run = RunFolder(one)
    yield server
    code, output = server.end()
    assert (code, "Traceback" in output) == (0, False), output


def test_a_person_talks_to_the_real_server(browser, server):
    (printed,) = [line.split()[1] for line in server.lines() if line.startswith("chat")]
    browser.open(printed)
    browser.wait_until(IDLE)
    assert browser.js("document.getElementById('facts').textContent").startswith("it reads up to 256 tokens")
    choose(browser, "max_tokens", "40")
    choose(browser, "seed", "5")
    choose(browser, "beside", "two")
    choose(browser, "colours", True)
    ask(browser, "What is it?")
    for name, said in zip(("one", "two"), browser.js(SAID), strict=True):
        body = {"model": name, "messages": [{"role": "user", "content": "What is it?"}]}
        _, whole = server.ask("/v1/chat/completions", {**body, "temperature": 0.7, "max_tokens": 40, "seed": 5})
        assert said == whole["choices"][0]["message"]["content"]
    assert browser.js("document.querySelectorAll('.tokens').length") == 2
    assert "no probabilities known" not in "".join(browser.js(META))
    choose(browser, "beside", "")
    ask(browser, "It is " * 60)
    assert browser.js(META)[-1].startswith("this is longer than the model can read: messages: ")
    press(browser, "send the answer of one to the review", ".turn:first-child")
    press(browser, "wrong")
    press(browser, "Send to review")
    browser.wait_until("!document.querySelector('.rating')")
    (answer,) = open_answers(server.run.path / "chat.jsonl").rows
    assert answer.instruction == "What is it?"
    assert [each for each in browser.complaints if "400" not in each] == []
    assert all(request.startswith(printed) for request in browser.requests)


def test_the_real_server_hears_that_a_person_stopped(browser, server):
    browser.open(server.url.removesuffix("v1"))
    browser.wait_until(IDLE)
    choose(browser, "temperature", "1")
    choose(browser, "max_tokens", "")
    choose(browser, "seed", "")
    for _ in range(20):  # some answers end early
        ask(browser, "Go on", wait=False)
        browser.wait_until(f"!({BUSY}) || {SAID}.at(-1).length > 3")
        browser.press("Escape")
        browser.wait_until(IDLE)
        if browser.js(META)[-1].startswith("stopped by you"):
            break
    assert browser.js(META)[-1].startswith("stopped by you")
    for _ in range(100):
        if server.metric("ift_open_answers") == 0:
            break
        browser.js("new Promise(go => setTimeout(go, 50))")
    assert server.metric("ift_open_answers") == 0


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"{", 400, "the body is no JSON"),
        ({"model": "one", "id": "1", "messages": [], "answer": "a"}, 400, "messages: turns are none"),
        ({"model": "two", "id": "1", "answer": "a"}, 400, "model: it is not the model of a run"),
    ],
)
def test_what_is_no_rating_is_refused_in_the_form_of_the_api(server, body, status, why):
    got, value = server.ask("/review", body)
    assert (got, value["error"]["type"]) == (status, "invalid_request_error")
    assert value["error"]["message"].startswith(why)
    assert server.ask("/review", {}, Origin="http://elsewhere.example")[0] == 403


def test_the_list_of_models_says_what_the_page_must_know(server):
    models = {one["id"]: one for one in server.ask("/v1/models")[1]["data"]}
    assert [(one["single_turns"], one["review"], one["max_model_len"]) for one in models.values()] == [
        *((True, True, 256), (False, False, 256))
    ]
    assert server.ask("/v1/models/one")[1] == models["one"]


# -- what the server is asked beyond the API ---------------------------------------------------------------------------


def test_answers_of_a_run_can_be_reviewed_those_of_other_models_not(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.model.mkdir(parents=True)
    run.config.touch()
    places = {"run": run.model, "folder": tmp_path / "model", "hub": CheckSettings}
    page = ChatPage({name: ModelPlace(name, place) for name, place in places.items()})
    assert [name for name in places if page.can_review(name)] == ["run"]


GOOD = {"model": "run", "messages": [{"role": "user", "content": "a?"}], "answer": "b", "verdict": "right", "id": "1"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "other"}, "model: no model"),
        ({"model": ["run"]}, "model: no model"),
        ({"model": "folder"}, "model: it is not the model of a run"),
        ({"id": ""}, "id: must be text"),
        ({"id": "x" * 65}, "id: must be text"),
        ({"answer": " "}, "answer: must be text"),
        ({"answer": 1}, "answer: must be text"),
        ({"messages": []}, "messages: turns are none"),
        ({"messages": [{"role": "user"}]}, "messages: each must have"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages: each must have"),
        ({"messages": "a?"}, "messages: each must have"),
        ({"messages": GOOD["messages"] * 2}, "messages: turns are user, user"),
        ({"verdict": "good"}, "verdict must be"),
        ({"verdict": None}, "verdict: say right"),
        ({"comment": "x" * 5001}, "comment must be"),
        ({"comment": False}, "comment must be"),
    ],
)
def test_what_is_no_answer_or_no_rating_is_refused_and_nothing_is_kept(tmp_path, change, why):
    page = _page(tmp_path)
    with pytest.raises(Refused, match=why):
        page.review({**GOOD, **change})
    with pytest.raises(Refused, match="not a request"):
        page.review([])
    assert not (tmp_path / "run" / "chat.jsonl").exists()


def test_an_answer_is_kept_once_and_its_ratings_as_often_as_they_are_given(tmp_path):
    page = _page(tmp_path)
    for value in (
        GOOD,
        GOOD,
        {**GOOD, "id": "2", "verdict": "wrong", "comment": "\ud800"},
        {**GOOD, "id": "3", "answer": "c"},
    ):
        file = page.review(value)["file"]
    answers = open_answers(file)
    assert [answer.response for answer in answers.rows] == ["b", "c"]
    assert len(answers.run.ratings.read_text().splitlines()) == 3
    ratings = Ratings(answers.run.ratings, read_only=True)
    assert ratings.rating(page.rater, answers.rows[0].key) == Rating("wrong", None, "?")


def _page(folder: Path) -> ChatPage:
    run = RunFolder(folder / "run")
    run.model.mkdir(parents=True)
    run.data_report.touch()
    return ChatPage({"run": ModelPlace("run", run.model), "folder": ModelPlace("folder", folder)})
