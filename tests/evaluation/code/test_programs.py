"""Programs out of answers: every form that chat models give them, each with the whole program that it must become."""

import signal
import textwrap

import pytest

from ift.evaluation.code.programs import extract_program

ABOVE = "import math\n\n\n"
PROMPT = ABOVE + 'def add(x: int, y: int):\n    """Add.\n    """\n'
BODY = "def add(x, y):\n    return x + y\n"
WHOLE = ABOVE + "\n" + BODY
CALL = "\n\ndef add(*arguments):\n    return Solution().add(*arguments)\n"
DRAFT = "def add(x, y):\n    return x * y\n"

CASES = [
    # -- one block
    (f"```python\n{BODY}```", WHOLE),
    (f"```py\n{BODY}```", WHOLE),
    (f"```python3\n{BODY}```", WHOLE),
    (f"```Python\n{BODY}```", WHOLE),
    (f"```{{.python}}\n{BODY}```", WHOLE),
    (f"```\n{BODY}```", WHOLE),
    (f"``` python \n{BODY}```", WHOLE),
    (f"~~~python\n{BODY}~~~", WHOLE),
    (f"````python\n{BODY}````", WHOLE),
    ("```def add(x, y):\n    return x + y\n```", WHOLE),
    ("```def add(x, y): return x + y```", ABOVE + "\ndef add(x, y): return x + y\n"),
    (f"Sure! Here is the function: ```python\n{BODY}```\nIt adds.", WHOLE),
    (f"Here it is.\n\n```python\n{BODY}```\n\nIt adds `x` and `y`; it's done.", WHOLE),
    (f"1. So:\n\n   ```python\n{textwrap.indent(BODY, '   ')}   ```\n2. Done.", WHOLE),
    # -- fences that are not where they belong
    ("```python\ndef add(x, y):\n    return x + y```", WHOLE),
    ("```python\ndef add(x, y):\n    return x + y```\nIt adds.", WHOLE),
    (f"```python\n{BODY}``` It adds.", WHOLE),
    (f"```python\n{BODY}", WHOLE),
    (f"{BODY}```\nIt adds.", WHOLE),
    ("def add(x, y):\n    return x + y```", WHOLE),
    (f"```text\nadds\n```python\n{BODY}```", WHOLE),
    ("```python\ndef add(x, y):\n    return x +", ABOVE + "\ndef add(x, y):\n    return x +\n"),
    (
        '```python\ndef add(x, y):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return x + y\n```',
        ABOVE + '\ndef add(x, y):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return x + y\n',
    ),
    # -- several blocks: the last complete one that defines the function
    (f"```python\n{DRAFT}```\nWait, that multiplies.\n```python\n{BODY}```", WHOLE),
    (f"```python\n{BODY}```\nTry it:\n```python\nprint(add(1, 2))\n```", WHOLE),
    (f"```python\n{BODY}```\nOr shorter:\n```python\ndef add(x, y):\n    ret", WHOLE),
    (f"```bash\npip install sums\n```\n```python\n{BODY}```\n```text\n3\n```", WHOLE),
    ("```\nadd\n```\n```py\n    def add(x, y):\n        return x + y\n```", WHOLE),
    # -- thoughts
    (f"<think>\nFirst try:\n```python\n{DRAFT}```\nNo.\n</think>\n```python\n{BODY}```", WHOLE),
    (f"I multiply.\n```python\n{DRAFT}```\nNo.</think>\n\n```python\n{BODY}```", WHOLE),
    (f"<thinking>{DRAFT}</thinking>{BODY}", WHOLE),
    (f"<think>\n```python\n{BODY}```\nBut", PROMPT + "\n"),
    # -- classes
    (
        "```python\nclass Solution:\n    def add(self, x: int, y: int) -> int:\n        return x + y\n```",
        ABOVE + "\nclass Solution:\n    def add(self, x: int, y: int) -> int:\n        return x + y\n" + CALL,
    ),
    (
        "```python\nclass Solution(object):\n    @staticmethod\n    def add(x, y):\n        return x + y\n```",
        ABOVE + "\nclass Solution(object):\n    @staticmethod\n    def add(x, y):\n        return x + y\n" + CALL,
    ),
    (
        "class Solution:\n    def add(self, x, y):\n        return x + y\n\nThat is it.",
        ABOVE + "\nclass Solution:\n    def add(self, x, y):\n        return x + y\n" + CALL,
    ),
    (
        f"```python\nclass Adder:\n    def add(self, x, y):\n        return x\n\n{BODY}```",
        ABOVE + f"\nclass Adder:\n    def add(self, x, y):\n        return x\n\n{BODY}",
    ),
    # -- spaces, tabs, ends of lines
    ("```python\ndef add(x, y):\n\xa0\xa0\xa0\xa0return x + y\n```", WHOLE),
    ("```python\ndef\xa0add(x, y):\n    return\xa0x + y\n```", WHOLE),
    ("\ufeff```python\ndef add(x, y):\n\u3000\u3000\u3000\u3000return x + y\u200b\n```", WHOLE),
    (
        '```python\ndef add(x, y, gap="\xa0"):\n    return x + y\n```',
        ABOVE + '\ndef add(x, y, gap="\xa0"):\n    return x + y\n',
    ),
    ("```python\ndef add(x, y):\n\treturn x + y\n```", WHOLE),
    (
        "```python\ndef add(x, y, by='\t'):\n\treturn x + y\n```",
        ABOVE + "\ndef add(x, y, by='\t'):\n    return x + y\n",
    ),
    (f"```python\n{BODY}```".replace("\n", "\r\n"), WHOLE),
    (f"```python\n{BODY}```".replace("\n", "\r"), WHOLE),
    # -- what stands above and below
    (f"```python\nimport os\nfrom os import path\n\n{BODY}```", ABOVE + f"\nimport os\nfrom os import path\n\n{BODY}"),
    (
        f"```python\nfrom __future__ import annotations\nimport os\n\n{BODY}```",
        f"from __future__ import annotations\n{ABOVE}\nimport os\n\n{BODY}",
    ),
    (f"```python\ndef one(): pass\n\n{BODY}```", ABOVE + f"\ndef one(): pass\n\n{BODY}"),
    (f'```python\n{BODY}\n\nif __name__ == "__main__":\n    print(add(1, 2))\nelse:\n    pass\n```', WHOLE),
    (f"```python\n{BODY}\nassert add(1, 2) == 4\nprint(\n    add(1, 2)\n)\n```", WHOLE),
    (f"```python\n{BODY}\nfor x in (1, 2):\n    assert add(x, x) == 0\n```", WHOLE),
    (f"```python\n{BODY}\nx = int(input())\nresult = add(\n    x, 1\n)\nprint(result)\n```", WHOLE),
    (f"```python\n{BODY}\nadd = (add)\n```", ABOVE + f"\n{BODY}\nadd = (add)\n"),
    (
        f"```python\nimport unittest\n\n{BODY}\nclass T(unittest.TestCase):\n    def test(self):\n        pass\n\n"
        "unittest.main()\n```",
        WHOLE,
    ),
    (f"[PYTHON]\n{BODY}[/PYTHON]\nDone.", WHOLE),
    (
        f"```python\nimport sys\nsys.setrecursionlimit(99)\n{BODY}T = []\nfor i in range(3):\n    T.append(i)\n```",
        ABOVE + f"\nimport sys\nsys.setrecursionlimit(99)\n{BODY}T = []\nfor i in range(3):\n    T.append(i)\n",
    ),
    ("```python\nadd = lambda x, y: x + y\n```", ABOVE + "\nadd = lambda x, y: x + y\n"),
    (f"```python\n{PROMPT}    return x + y\n```", ABOVE + f"\n{PROMPT}    return x + y\n"),
    # -- without fences
    (f"Sure!\nimport os\n{BODY}It adds.", ABOVE + f"\nimport os\n{BODY}"),
    ("def add(x, y):\n    return K\nK = 5\nNow you know.", ABOVE + "\ndef add(x, y):\n    return K\nK = 5\n"),
    (f"{BODY}Note: the result = x and y.", WHOLE),
    # -- the body alone
    ("    return x + y", PROMPT + "    return x + y\n"),
    ("\nreturn x + y", PROMPT + "    return x + y\n"),
    ("```python\n    return x + y\n```", PROMPT + "    return x + y\n"),
    ("```python\n    return x + y\n```\nSo:\n```python\nprint(1)\n```", PROMPT + "    return x + y\n"),
    ("    return x + y\nThat is all.", PROMPT + "    return x + y\n"),
    ("total = x + y\n    return total", PROMPT + "    total = x + y\n    return total\n"),
    (
        "for i in range(2):\n        x += 0\n    return x + y",
        PROMPT + "    for i in range(2):\n        x += 0\n    return x + y\n",
    ),
    (
        "for i in range(2):\n    x += 0\nreturn x + y",
        PROMPT + "    for i in range(2):\n        x += 0\n    return x + y\n",
    ),
    ("if True:\n    return x + y\n    pass", PROMPT + "    if True:\n        return x + y\n        pass\n"),
    ("I do not know.", PROMPT + "    I do not know.\n"),
    ("", PROMPT + "\n"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "program"), CASES)
def test_the_program_in_an_answer(answer, program):
    assert extract_program(answer, prompt=PROMPT, entry_point="add") == program


PARTS = ["\n", " ", "```\n", "```a\n", "x: ", "async ", "def add", "@", "[", "\n ", "x = ("]
MORE = ["~", "~~~a", "`", "```a", '"', '"""', "'''\\", '\\"""', "<think>", "</think>", "add\n", "x[", "\xa0", "print("]


@pytest.mark.parametrize("part", PARTS + MORE)
def test_no_answer_takes_long_to_read(part):
    """Where steps grew with the square of the length, these would be billions: the alarm ends the test."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it grows with the square of the length"))
    signal.alarm(20)
    try:
        for begin in ("```\n", "def add(x, y):\n"):
            extract_program(begin + part * 50_000 + "`", prompt=PROMPT, entry_point="add")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
