import json
import sys

import pytest

from ift.errors import ConfigError, MachineError
from ift.text.jinja_process import END, Looks, Rendered, Request, render_apart, start
from tests.text.chats import CHATML, chat


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append.__globals__.os.system('id') }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set x = 'x' * 10000000000 %}{{ x | length }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%99999999999d' % 1 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 40_000 + "1" + ")" * 40_000 + " }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% set messages[0].content = '' %}",
        "{{ messages.clear() }}",
        "{{ open('written', 'w').write('x') }}",
    ],
    ids=range(16),
)
def test_a_hostile_template_is_refused_in_one_line_and_does_nothing(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        chat(source + CHATML)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_cannot_start_is_the_machine_s_fault(monkeypatch):
    monkeypatch.setattr("ift.text.jinja_process.sys.path", ["/nowhere"])
    monkeypatch.setattr("ift.text.jinja_process.sys.executable", "/bin/false")
    with pytest.raises(MachineError, match="chat template"):
        chat(CHATML + " ")


def test_the_process_sees_no_key_of_ours(monkeypatch):
    for name in ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HOME"):
        monkeypatch.setenv(name, "secret-of-mine")
    monkeypatch.setenv("LANG", "C.UTF-8")
    process = start(["-c", "import json, os; print(json.dumps(dict(os.environ)))"], "")
    seen = json.loads(process.stdout)
    assert "secret-of-mine" not in seen.values()
    assert set(seen) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONPATH"}
    assert seen["LANG"] == "C.UTF-8"


def test_the_process_imports_what_we_import(monkeypatch, tmp_path):
    (tmp_path / "beside.py").write_text("print('imported')")
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
    assert start(["-c", "import beside"], "").stdout == "imported\n"


def test_each_conversation_is_rendered_or_says_what_is_wrong_with_it():
    source = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}{{ 1 // (messages | length - 1) }}"
    user, assistant = {"role": "user", "content": "é"}, {"role": "assistant", "content": "b"}
    requests = [Request([user, assistant], [(2, False)]), Request([user], [(1, True)])]
    [[both], [nothing]] = render_apart(source, {"eos_token": "</s>"}, requests).renders
    assert (both.rest, both.problem) == ("é</s>b</s>1", "")
    assert (nothing.rest, nothing.problem[:25]) == ("", "raises ZeroDivisionError:")


@pytest.mark.parametrize(
    ("source", "looks"),
    [
        (CHATML, Looks()),
        ("{% if '</think>' in m.content %}{% endif %}", Looks(("</think>",))),
        ("{{ m.content.split('</a>')[-1].lstrip('\n') | replace('b', 'c') }}", Looks(("</a>", "b"), (), "\n")),
        ("{% set mark = '<m>' %}{% if m.content.startswith(mark) %}{% endif %}", Looks(("<m>",))),
        ("{% if m.content[:2] == '# ' or m.content == 'none' %}{% endif %}", Looks(("# ",), ("none",))),
        ("{% if m.role == 'user' and 'tool_calls' in m %}{{ m['content'] }}{% endif %}", Looks()),
    ],
)
def test_what_a_template_looks_for_in_texts_is_read_from_its_source(source, looks):
    looped = source if source == CHATML else f"{{% for m in messages %}}{source}{{% endfor %}}"
    assert render_apart(looped, {}, [Request([{"role": "user", "content": "x"}], [(1, True)])]).looks == looks


def test_a_text_is_plain_where_it_has_nothing_that_is_looked_for():
    looks = Looks(("</think>",), ("none",), "\n")
    assert not looks.find(["a think b", "none of it", "a\nb", ""])
    assert all(looks.find([text]) for text in ("a</think>b", "none", "\na", "a\n"))


def test_renderings_are_kept_as_what_they_have_in_common_with_the_whole():
    source = "{% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    [[whole, prompt, first]] = render_apart(
        source, {}, [Request(messages, [(2, False), (1, True), (1, False)])]
    ).renders
    assert (whole, prompt, first) == (Rendered(0, "ab|cd|"), Rendered(3, ">"), Rendered(3, ""))


def test_an_end_is_told_from_all_that_a_text_can_spell():
    source = "{{ messages[0].content }}7f3a"
    for text, problem in (("a", ""), ("a\0", "holds a NUL character")):
        [[rendered]] = render_apart(
            source, {}, [Request([{"role": "user", "content": text}], [(1, False)])], mark="7f3a"
        ).renders
        assert rendered == Rendered(0, "" if problem else "a" + END, problem)
