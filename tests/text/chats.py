"""Conversations and the layouts of well-known chat templates, for the tests of this folder."""

import dataclasses

from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation

ONE = Conversation("Name a color.", "", "Red.")
SYSTEM = dataclasses.replace(ONE, system="Be brief.")
THREE = dataclasses.replace(ONE, history=(("Hi!", "Hello."), ("Who are you?", "A model.")))
BOTH = dataclasses.replace(THREE, system="Be brief.")

# the layouts of well-known models, each written anew
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = """
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- set content = m.content %}
        {%- if loop.first and system is defined %}
            {%- set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + content %}
        {%- endif %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + m.content | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""
ZEPHYR = """{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\n' + m['content'] + eos_token }}
{% else %}
{{ '<|assistant|>\n' + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
ALPACA = """
{%- for m in messages %}
    {%- if m.role == 'system' %}{{- m.content + '\n\n' }}
    {%- elif m.role == 'user' %}{{- '### Instruction:\n' + m.content + '\n\n' }}
    {%- else %}{{- '### Response:\n' }}{% generation %}{{- m.content + eos_token }}{% endgeneration %}{{- '\n\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\n' }}{% endif %}"""
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DIALOGPT = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
STYLES = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "zephyr": ZEPHYR,
    "alpaca": ALPACA,
    "phi3": PHI3,
    "gemma": GEMMA,
    "dialogpt": DIALOGPT,
}
TOKENS = (("bos_token", "<s>"), ("eos_token", "</s>"))


def chat(source, tokens=TOKENS, **settings):
    return ChatTemplate("chat", source=source, special=tokens, **settings)


def spelled(pieces, eos="</s>"):
    return "".join(eos if piece.end else piece.text for piece in pieces)


def marked(pieces):
    """All that is supervised in « », the ends as ¶."""
    parts = [("¶" if piece.end else piece.text, piece.supervised) for piece in pieces]
    return "".join(f"«{text}»" if supervised else text for text, supervised in parts).replace("»«", "")


def messages_of(row, answered=True):
    user = "\n\n".join(part for part in (row.instruction, row.input) if part)
    turns = [*row.history, (user, row.output)]
    messages = [{"role": "system", "content": row.system}] if row.system else []
    for asked, answer in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages if answered else messages[:-1]
