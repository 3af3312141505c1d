"""Talk to a model in the terminal: its words as they come, several turns, commands that begin with a slash.

Ctrl-C ends the answer and not the program. Where the input is no terminal it is one question, and the answer alone is
printed: `echo "Name a colour." | ift chat RUN`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ift.apps.speaker import ModelPlace, Reply, Speaker
from ift.artifacts.bases import Bases
from ift.errors import ConfigError, one_line
from ift.nearest import nearest
from ift.rules import GENERATE, SEED
from ift.run import write_json
from ift.text.conversations import Conversation, conversation_of

HISTORY = Path("~/.local/state/ift/chat_history")  # of what was typed, where the XDG base directories have such files
QUOTES = '"""'


@dataclass(frozen=True)
class Options:
    """What /set changes. temperature 0 takes the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    alone: bool = False  # each question without the turns before it
    speed: bool = False  # a line about each answer: tokens, seconds, why it ended

    def with_value(self, name: str, value: str) -> Options:
        """Raises ConfigError for a name that is none, or a value that is none of its kind."""
        kinds: dict[str, Any] = {one.name: type(one.default) for one in fields(self)}
        name = name.replace("-", "_")
        if name not in kinds:
            raise ConfigError(f"{name}: no such setting (one of {', '.join(kinds)})")
        words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
        try:
            given = words[value.lower()] if kinds[name] is bool else kinds[name](value)
        except (KeyError, ValueError):
            wanted = {bool: "on or off", int: "a whole number", float: "a number"}[kinds[name]]
            raise ConfigError(f"{name}={value}: must be {wanted}") from None
        right, words = {**GENERATE, "seed": SEED}.get(name, ((lambda _: True), ""))
        if not right(given) and (name, given) != ("top_k", 0):
            raise ConfigError(f"{name}={given}: must be {words}")
        return replace(self, **{name: given})


@dataclass
class Talk:
    """What was said so far: turns of (question, answers of the models), and the system text."""

    turns: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    system: str = ""

    def conversation(self, question: str, model: int, *, alone: bool) -> Conversation:
        """A question as the model with that number is asked it: with its own answers to the ones before."""
        history = () if alone else tuple((asked, answers[model]) for asked, answers in self.turns)
        return Conversation(question, system=self.system, history=history)

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Messages as chat programs have them; with two models, those of the second beside them."""
        first, *others = (self._messages(number) for number, _ in enumerate(names))
        return {"messages": first, **({"others": others} if others else {})}

    def _messages(self, model: int) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        said = [one for asked, answers in self.turns for one in (("user", asked), ("assistant", answers[model]))]
        return [*system, *({"role": role, "content": text} for role, text in said)]

    @classmethod
    def from_json(cls, value: Any, models: int) -> Talk:
        """What another number of models said goes on with the answers of the first. Raises ConfigError."""
        try:
            talks = [value["messages"], *value.get("others", [])]
            talks = talks if len(talks) == models else talks[:1] * models
            read = [cls._read(messages) for messages in talks]
            questions = {tuple(asked for asked, _ in pairs) for _, pairs in read}
            if len(questions) > 1:
                raise ValueError("the models were asked different things")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = one_line(str(error), 120)
            raise ConfigError(f'no conversation: {why} (/save writes {{"messages": [...]}})') from error
        answers = zip(*([answer for _, answer in pairs] for _, pairs in read), strict=True)
        return cls(list(zip(questions.pop(), answers, strict=True)), read[0][0])

    @staticmethod
    def _read(messages: Any) -> tuple[str, list[tuple[str, str]]]:
        """The system text, and questions with their answers."""
        said = [(message["role"], message["content"]) for message in messages]
        if not all(isinstance(text, str) for one in said for text in one):
            raise TypeError("a message without a text")
        if not any(role == "user" for role, _ in said):
            return (said[0][1] if said else ""), []
        whole = conversation_of(said, answered=True)
        return whole.system, [*whole.history, (whole.instruction, whole.output)]


def chat(
    found: Sequence[ModelPlace],
    options: Options,
    *,
    system: str = "",
    accelerator: str = "auto",
    precision: str = "auto",
) -> int:
    """Until /bye, or the end of the input. Raises ConfigError and WeightsError as opening the models does."""
    loading = Loading(found, accelerator, precision)
    if not sys.stdin.isatty():
        question = sys.stdin.read().strip()
        if not question:
            raise ConfigError("ift chat: the input is empty (echo QUESTION | ift chat RUN)")
        return Session(loading, found, options, Talk(system=system), plain=True).ask(question)
    session = Session(loading, found, options, Talk(system=system))
    session.greet()
    with remembered_lines():
        session.run()
    return 0


class Loading:
    """Models that are opened while the person types the first question."""

    def __init__(self, places: Sequence[ModelPlace], accelerator: str, precision: str):
        self._speakers: list[Speaker] = []
        self.error: BaseException | None = None

        def load() -> None:
            try:
                bases = Bases() if len(places) > 1 else None
                self._speakers += [
                    Speaker.open(one, accelerator=accelerator, precision=precision, bases=bases) for one in places
                ]
            except BaseException as error:  # raised where the models are asked for
                self.error = error

        self._thread = threading.Thread(target=load, name="ift-load", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def speakers(self) -> list[Speaker]:
        while self._thread.is_alive():  # in pieces: Ctrl-C is heard between them
            self._thread.join(0.1)
        if self.error:
            raise self.error
        return self._speakers


class Session:
    """What is typed, one line after the other."""

    def __init__(
        self, loading: Loading, places: Sequence[ModelPlace], options: Options, talk: Talk, *, plain: bool = False
    ):
        self.loading, self.places, self.options, self.talk, self.plain = loading, places, options, talk, plain
        self.names = [place.name for place in places]
        self.attempts = 0  # answers to the newest question: each has a seed of its own

    def greet(self) -> None:
        print(f"model     {' and '.join(self.names)}    /help shows the commands, Ctrl-D ends")
        if self.options.alone and any(place.single_turns for place in self.places):
            print("note      tuned on single questions: each is asked alone (/set alone off sends the turns before it)")

    def run(self) -> None:
        while True:
            try:
                line = self._read()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D or /bye ends)")
                continue
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if self._command(line) == "bye":
                        return
                elif line.strip():
                    self.ask(line[1:] if line.startswith("//") else line)
            except ConfigError as error:
                if error is self.loading.error:  # no question can be answered
                    raise
                print(f"ift: {error}")

    def _read(self) -> str:
        """A line; several after one that ends with a backslash, or between three quotes."""
        line = input(">>> ")
        if line.startswith(QUOTES):
            lines = [line.removeprefix(QUOTES)]
            while QUOTES not in lines[-1]:
                lines.append(input("... "))
            return "\n".join(lines).partition(QUOTES)[0].strip("\n")
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input("... "))
        return "\n".join(lines)

    def ask(self, question: str, *, again: bool = False) -> int:
        """Print the answers and keep them. Returns the exit code of a program that asks once."""
        self.attempts = self.attempts + 1 if again else 0
        asked = []
        for number, speaker in enumerate(self._speakers()):
            whole = self.talk.conversation(question, number, alone=self.options.alone)
            fitted, left_out = speaker.fitted(whole)
            asked.append((speaker, fitted))
            if left_out and not self.plain:
                print(f"({speaker.name}: its context is full, {left_out} of the oldest turns are left out)")
        with stopped_by_ctrl_c(heard=not self.plain) as cancelled:
            beside = len(asked) > 1 and sys.stdout.isatty()
            replies = self._beside(asked, cancelled) if beside else [self._answer(*one, cancelled) for one in asked]
        self.talk.turns.append((question, tuple(reply.text for reply in replies)))
        return 0

    def _speakers(self) -> list[Speaker]:
        if self.plain or self.loading.done:
            return self.loading.speakers()
        print("(loading)", end="", flush=True)
        try:
            return self.loading.speakers()
        finally:
            print("\r         \r", end="", flush=True)

    def _answer(self, speaker: Speaker, conversation: Conversation, cancelled: Callable[[], bool]) -> Reply:
        if len(self.names) > 1:
            print(f"--- {speaker.name}")
        reply = next(filter(None, self._steps(speaker, conversation, put, cancelled)))
        print()
        remark = self._remark(reply)
        if remark and not self.plain:
            print(remark)
        return reply

    def _beside(self, asked: Sequence[tuple[Speaker, Conversation]], cancelled: Callable[[], bool]) -> list[Reply]:
        """Answers in columns, which grow together: each model gives a token in turn."""
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text

        texts = ["" for _ in asked]
        replies: list[Reply | None] = [None for _ in asked]

        def columns() -> Table:
            table = Table(*self.names, expand=True, box=None, padding=(0, 2, 0, 0))
            for column in table.columns:
                column.ratio = 1
            table.add_row(*map(Text, texts))
            table.add_row(*(Text(self._remark(reply) if reply else "", style="dim") for reply in replies))
            return table

        def adds(number: int) -> Callable[[str], None]:
            def add(piece: str) -> None:
                texts[number] += visible(piece)

            return add

        steps = [self._steps(*one, adds(number), cancelled) for number, one in enumerate(asked)]
        with Live(get_renderable=columns, refresh_per_second=8, vertical_overflow="visible"):
            while None in replies:
                for number, one in enumerate(steps):
                    replies[number] = replies[number] or next(one)
        return [reply for reply in replies if reply]

    def _steps(
        self, speaker: Speaker, asked: Conversation, show: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Iterator[Reply | None]:
        return speaker.answering(
            asked,
            sampling=self._sampling(),
            max_new_tokens=self.options.max_new_tokens,
            show=show,
            cancelled=cancelled,
        )

    def _remark(self, reply: Reply) -> str:
        """Why an answer is not whole, and how fast it came where that was asked for."""
        ended = {"length": f"cut at {self.options.max_new_tokens} tokens", "context": "the context is full"}
        words = [{**ended, "cancelled": "stopped"}.get(reply.stop_reason, "")]
        if self.options.speed:
            words += [
                f"{reply.prompt_tokens} tokens read, the first word after {reply.first_seconds:.2f} s, {reply.tokens} "
                f"tokens in {reply.seconds:.2f} s: {reply.tokens_per_second:.1f} a second"
            ]
        said = "; ".join(filter(None, words))
        return f"({said})" if said else ""

    def _sampling(self) -> Any:
        from ift.generation.sampling import Sampling

        o = self.options
        return Sampling(
            o.temperature,
            o.top_k or None,
            o.top_p,
            seed=o.seed,
            stream=len(self.talk.turns) * 1000 + self.attempts,
            repetition_penalty=None if o.repetition_penalty == 1 else o.repetition_penalty,
        )

    # -- commands ------------------------------------------------------------------------------------------------------

    def _command(self, line: str) -> str | None:
        name, _, rest = line[1:].strip().partition(" ")
        commands = self._commands()
        name = {"?": "help", "exit": "bye", "quit": "bye"}.get(name, name)
        if name not in commands:
            near = nearest(name, list(commands))
            meant = f"/{near}?" if near else "/help shows all"
            raise ConfigError(f"/{name}: no such command ({meant}; // sends a slash)")
        if name == "bye":
            return "bye"
        commands[name][0](rest.strip())
        return None

    def _commands(self) -> dict[str, tuple[Callable[[str], None], str, str]]:
        """Name: what it does, its argument, and a line about it."""
        return {
            "help": (self._help, "", "these lines"),
            "set": (self._set, "[NAME VALUE]", "how answers are made; without a name: all that can be set"),
            "system": (self._system, "[TEXT]", "what the model is told before all turns (- for nothing)"),
            "regenerate": (self._regenerate, "", "another answer to the newest question"),
            "undo": (self._undo, "", "take the newest turn back"),
            "clear": (self._clear, "", "begin anew; the settings stay"),
            "save": (self._save, "FILE", "the turns as JSON"),
            "load": (self._load, "FILE", "go on with saved turns"),
            "template": (self._template, "", "the text that the model reads for the newest question"),
            "bye": (lambda _: None, "", "end (Ctrl-D, /exit)"),
        }

    def _help(self, _: str) -> None:
        for name, (_do, argument, about) in self._commands().items():
            print(f"  {f'/{name} {argument}':<20} {about}")
        print(f"  {QUOTES:<20} begins and ends a text of several lines; a backslash at the end of a line goes on, too")

    def _set(self, rest: str) -> None:
        name, _, value = rest.replace("=", " ", 1).partition(" ")
        if name:
            self.options = self.options.with_value(name, value.strip())
        for one in fields(self.options):
            if name.replace("-", "_") in ("", one.name):
                print(f"  {one.name:<20} {getattr(self.options, one.name)}")

    def _system(self, text: str) -> None:
        if text:
            self.talk.system = "" if text == "-" else text
        print(f"  system: {self.talk.system or 'nothing'}")

    def _regenerate(self, _: str) -> None:
        if not self.talk.turns:
            raise ConfigError("/regenerate: nothing was asked yet")
        if self.options.temperature == 0:
            print("(temperature is 0: the answer will be the same; /set temperature 0.8 draws others)")
        question, answers = self.talk.turns.pop()
        try:
            self.ask(question, again=True)
        except BaseException:
            self.talk.turns.append((question, answers))
            raise

    def _undo(self, _: str) -> None:
        if not self.talk.turns:
            raise ConfigError("/undo: nothing was asked yet")
        question, _answers = self.talk.turns.pop()
        print(f"  taken back: {one_line(question, 80)}")

    def _clear(self, _: str) -> None:
        self.talk = Talk(system=self.talk.system)

    def _save(self, file: str) -> None:
        if not file:
            raise ConfigError("/save: give a file (/save talk.json)")
        try:
            write_json(Path(file).expanduser(), self.talk.to_json(self.names))
        except OSError as error:
            raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
        print(f"  {len(self.talk.turns)} turns in {file}")

    def _load(self, file: str) -> None:
        try:
            value = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file or '/load'}: cannot be read: {one_line(str(error), 80)}") from error
        self.talk = Talk.from_json(value, len(self.names))
        print(f"  {len(self.talk.turns)} turns from {file}")

    def _template(self, _: str) -> None:
        question = self.talk.turns[-1][0] if self.talk.turns else "..."
        earlier = Talk(self.talk.turns[:-1], self.talk.system)
        for number, speaker in enumerate(self._speakers()):
            asked = earlier.conversation(question, number, alone=self.options.alone)
            print(f"  {speaker.name}: {speaker.template.name}, {len(speaker.prompt(asked))} tokens")
            print(speaker.template.prompt(asked))


def visible(text: str) -> str:
    """Text of a model for a terminal: codes that would move the cursor or change its title are shown as a mark."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text)


def put(piece: str) -> None:
    print(visible(piece), end="", flush=True)


@contextmanager
def stopped_by_ctrl_c(*, heard: bool) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C was pressed since; a second one ends the program.

    heard: False leaves Ctrl-C as it is.
    """
    pressed = False

    def handle(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, handle) if heard else signal.getsignal(signal.SIGINT)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def remembered_lines() -> Iterator[None]:
    """Line editing, and what was typed in earlier chats at the arrow keys; in a file for its owner alone."""
    try:
        import readline  # no Windows build has it
    except ImportError:
        yield
        return
    state = os.environ.get("XDG_STATE_HOME")
    path = Path(state) / "ift" / HISTORY.name if state else HISTORY.expanduser()
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.write_history_file(path)
