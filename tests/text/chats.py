"""Conversations and the layouts of well-known chat templates, for the tests of this folder."""

import dataclasses

from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation
from ift.text.templates import Special

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
# as Qwen3's: tools before all, reasoning in answers after the last question alone, an empty block where there is none
THINKS = """
{%- if tools %}{{- '<|im_start|>system\n' + (messages[0].content + '\n\n' if messages[0].role == 'system' else '') }}
    {%- for tool in tools %}{{- tool | tojson + '\n' }}{% endfor %}{{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == 'user' %}{{- '<|im_start|>user\n' + content + '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + content + '</tool_response><|im_end|>\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set thought = m.reasoning_content or '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {{- content.lstrip('\n') }}
        {%- for call in m.tool_calls or [] %}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
# as Llama 3.1's: a date, tools in the first question, one call instead of an answer's text, results as JSON
LLAMA3 = """
{{- bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{- '<|system|>\nToday: ' + strftime_now('%d %b %Y') + '\n\n' + system + '<|eot|>' }}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{- '<|ipython|>\n' + m.content | tojson + '<|eot|>' }}
    {%- elif 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
        {{- '<|assistant|>\n{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}
        {{- m.tool_calls[0].function.arguments | tojson + '}<|eot|>' }}
    {%- else %}
        {{- '<|' + m.role + '|>\n' }}
        {%- if loop.first %}{% for tool in tools or [] %}{{- tool | tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}
        {{- m.content | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% endif %}"""
# as Mistral's: tools before the last question, a call's id in nine characters, earlier turns that change
MISTRAL = """
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and m == users[-1] %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {{- '[INST] ' + m.content + '[/INST]' }}
    {%- elif m.tool_calls %}
        {%- for call in m.tool_calls if call.id | length != 9 %}{{ raise_exception('ids of 9 characters') }}{% endfor %}
        {{- '[TOOL_CALLS] ' + m.tool_calls | map(attribute='function') | list | tojson + eos_token }}
    {%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
    {%- else %}{{ raise_exception('no ' + m.role + ' here') }}
    {%- endif %}
{%- endfor %}"""
# as Qwen2.5's: a system text of its own where a conversation has none
DEFAULTS = """
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nYou are small.<|im_end|>\n' }}{% endif %}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
# as Gemma 3's: a system text goes into the first question
FOLDS = """
{{- bos_token }}
{%- set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- for m in messages if m.role != 'system' %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
    {{- (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"""
# as DeepSeek-R1's: the generation prompt begins a thought, and no answer in a conversation has one
BEGINS_A_THOUGHT = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}{{- '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}
    {%- else %}{{- '<|' + m.role + '|>' + m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|><think>\n' }}{% endif %}"""
# as gpt-oss': the last answer ends with another token than an earlier one, a call with a third
CHANNELS = """
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.tool_calls %}
        {{- '<|start|>assistant to=' + m.tool_calls[0].function.name + '<|message|>' }}
        {{- m.tool_calls[0].function.arguments | tojson + '<|call|>' }}
    {%- elif m.role == 'assistant' %}
        {%- if loop.last and m.thinking %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}
        {%- endif %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}
    {%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}"""
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


TOOL_STYLES = {
    "thinks": (THINKS, (("eos_token", "<|im_end|>"),)),
    "llama3": (LLAMA3, (("bos_token", "<|begin|>"), ("eos_token", "<|eot|>"))),
    "mistral": (MISTRAL, TOKENS),
}
# the construction of each family's template, its special tokens, and those that its model knows besides
FAMILIES = {
    "qwen2.5": (DEFAULTS, (("eos_token", "<|im_end|>"),), ("<|im_start|>",)),
    "qwen3": (THINKS, (("eos_token", "<|im_end|>"),), ("<|im_start|>", "<think>", "</think>", "<tool_call>")),
    "gemma2": (GEMMA, (("bos_token", "<bos>"), ("eos_token", "<eos>")), ("<start_of_turn>", "<end_of_turn>")),
    "gemma3": (FOLDS, (("bos_token", "<bos>"), ("eos_token", "<eos>")), ("<start_of_turn>", "<end_of_turn>")),
    "llama3": (*TOOL_STYLES["llama3"], ("<|system|>", "<|user|>", "<|assistant|>", "<|ipython|>")),
    "phi3": (PHI3, (("eos_token", "<|endoftext|>"),), ("<|user|>", "<|assistant|>", "<|end|>")),
    "deepseek": (BEGINS_A_THOUGHT, (("bos_token", "<s>"), ("eos_token", "</s>")), ("<|user|>", "<|assistant|>")),
    "gpt-oss": (CHANNELS, (("eos_token", "<|return|>"),), ("<|start|>", "<|end|>", "<|message|>", "<|call|>")),
    "smollm2": (DEFAULTS, (("bos_token", "<|im_start|>"), ("eos_token", "<|im_end|>")), ()),
}


def of_family(name, **settings):
    """The template as it is made for a model of the family."""
    source, special, others = FAMILIES[name]
    template = ChatTemplate(name, source=source, special=special, today="2024-07-26", **settings)
    bos = dict(special)["bos_token"] if "bos_token" in source else ""
    return template.with_tokens([Special(text) for text in (*others, *dict(special).values())], bos)


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
