"""The one thread that owns the models: requests of all clients join its engines, pieces of answers leave it.

The HTTP side submits jobs and cancels them, from its own thread; it never touches a model. What answers are made of
goes back in one call after each step, so that a step of many rows wakes the other thread once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from ift.apps.serving.choices import Choice, Order, Piece
from ift.apps.serving.models import Served
from ift.errors import report
from ift.generation.cache import slots_that_fit
from ift.generation.engine import Engine, Generated, Request
from ift.generation.likelihoods import token_likelihoods
from ift.generation.likely import Likely
from ift.model.linear import prepared

SHORT = 1024  # positions of most requests: they have an engine apart from long ones, whose rows take more memory
SLOTS = 32  # rows of an engine that are computed together
ECHO_TOKENS = {True: 512, False: 4096}  # of prompts that are scored at once, where somebody streams and where not


@dataclass(frozen=True)
class Failed:
    """A job that the model's side could not answer: a defect of ours, or no memory."""

    message: str


Event = Piece | Failed


@dataclass(eq=False)
class Job:
    """The orders of one request. `deliver` is called on the HTTP side, with events in order.

    numbers  of those that are in an engine, by the place of the order
    """

    served: Served
    orders: Sequence[Order]
    deliver: Callable[[Event], None]
    streams: bool
    cancelled: bool = False
    numbers: dict[int, int] = field(default_factory=dict)


class Lane:
    """An engine for rows of up to so many positions, and whose they are."""

    def __init__(self, served: Served, capacity: int, prefix: Sequence[int]):
        model = served.speaker.model
        self.served, self.capacity = served, capacity
        self.slots = min(SLOTS, slots_that_fit(model, capacity))
        self._new = partial(Engine, model, slots=self.slots, capacity=capacity, prefix=prefix)
        self.engine = self._new()
        self.jobs: dict[int, Job] = {}  # by the engine's number

    def submit(self, job: Job, choice: Choice) -> None:
        order = choice.order

        def on_end(answer: Generated) -> None:
            self.jobs.pop(job.numbers.pop(order.index), None)
            choice.on_end(answer)

        number = self.engine.submit(
            Request(
                prompt=order.prompt,
                max_new_tokens=order.max_tokens,
                sampling=order.sampling,
                end_tokens=self.served.end_tokens,
                until=choice.until,
                on_token=_waits if job.streams else None,
                on_end=on_end,
                on_likely=choice.on_likely if order.top is not None else None,
                top=order.top or 0,
            )
        )
        job.numbers[order.index], self.jobs[number] = number, job

    def cancel(self, job: Job) -> None:
        for number in [number for number, owner in self.jobs.items() if owner is job]:
            self.engine.cancel(number)

    def give_up(self) -> set[Job]:
        """After a failure inside of the model: begin anew; returns the jobs that were in it."""
        lost = set(self.jobs.values())
        for job in lost:
            job.numbers.clear()
        self.jobs.clear()
        self.engine = self._new()
        return lost


def _waits(_: int) -> None:
    """Somebody waits for each token: long prompts of others enter in pieces."""


class Worker:
    """
    post  runs a function on the HTTP side, soon: loop.call_soon_threadsafe
    """

    def __init__(self, models: Sequence[Served], post: Callable[[Callable[[], None]], object]):
        self.post = post
        self.lanes = {served.name: _lanes(served) for served in models}
        self._models = [served.speaker.model for served in models]
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._scoring: deque[tuple[Job, Choice]] = deque()  # whose prompts are to be scored
        self._events: list[tuple[Job, Event]] = []
        self._thread = threading.Thread(target=self._run, name="ift-models", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def slots(self, served: Served) -> int:
        return self.lanes[served.name][0].slots

    # -- called from the HTTP side -------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        self._call(lambda: self._guarded(job, lambda: self._begin(job)))

    def cancel(self, job: Job) -> None:
        """Whatever of it has not ended ends at once; it hears of nothing more."""
        job.cancelled = True
        self._call(lambda: self._cancel(job))

    def close(self) -> None:
        """End the thread after its step; whatever was not answered is given up."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _call(self, call: Callable[[], None]) -> None:
        with self._changed:
            self._calls.append(call)
            self._changed.notify()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with ExitStack() as stack:
            for model in self._models:
                stack.enter_context(prepared(model))
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._calls or self._ended or self._busy)
                    if self._ended:
                        return
                    calls, self._calls = self._calls, deque()
                for call in calls:
                    call()
                self._score()
                for lane in self._all_lanes:
                    if lane.engine.busy:
                        self._step(lane)
                self._send()

    @property
    def _all_lanes(self) -> list[Lane]:
        return [lane for lanes in self.lanes.values() for lane in lanes]

    @property
    def _busy(self) -> bool:
        return bool(self._scoring) or any(lane.engine.busy for lane in self._all_lanes)

    def _guarded(self, job: Job, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            report(error)
            self._fail(job)

    def _begin(self, job: Job) -> None:
        if job.cancelled:
            return
        for order in job.orders:
            choice = Choice(order, job.served.decode_bytes, lambda piece: self._events.append((job, piece)))
            if order.echo is None:
                self._answer(job, choice)
            elif order.top is None:
                choice.echo([])
                self._answer(job, choice)
            else:
                self._scoring.append((job, choice))

    def _answer(self, job: Job, choice: Choice) -> None:
        order = choice.order
        if order.max_tokens == 0:
            choice.on_end(Generated([], "length"))
            return
        lanes = self.lanes[job.served.name]
        lane = next((lane for lane in lanes if len(order.prompt) + order.max_tokens <= lane.capacity), lanes[-1])
        lane.submit(job, choice)

    def _cancel(self, job: Job) -> None:
        self._scoring = deque(one for one in self._scoring if one[0] is not job)
        for lane in self.lanes[job.served.name]:
            lane.cancel(job)

    def _step(self, lane: Lane) -> None:
        try:
            lane.engine.step()
        except Exception as error:
            report(error)
            for job in lane.give_up():
                self._fail(job)

    def _fail(self, job: Job) -> None:
        self._cancel(job)
        job.cancelled = True
        self._events.append((job, Failed("the model could not answer this (see the server's log)")))

    def _score(self) -> None:
        """Score prompts that wait, as many as a step may hold: one at least."""
        if not self._scoring:
            return
        served, top = self._scoring[0][0].served, self._scoring[0][1].order.top
        room = ECHO_TOKENS[any(job.streams for lane in self._all_lanes for job in lane.jobs.values())]
        taken: list[tuple[Job, Choice]] = []
        while self._scoring and self._scoring[0][0].served is served and self._scoring[0][1].order.top == top:
            room -= len(self._scoring[0][1].order.prompt)
            if taken and room < 0:
                break
            taken.append(self._scoring.popleft())
        try:
            found = token_likelihoods(
                served.speaker.model, [choice.order.prompt for _, choice in taken], top=max(top or 0, 1)
            )
        except Exception as error:
            report(error)
            for job in {job for job, _ in taken}:
                self._fail(job)
            return
        for (job, choice), likely in zip(taken, found, strict=True):
            wanted = [one._replace(top=one.top[:top]) for one in likely]
            choice.echo(wanted)
            order = choice.order
            if order.max_tokens == 1 and order.sampling.temperature == 0 and not order.sampling.repetition_penalty:
                self._next(choice, wanted[-1], served)
            elif len(order.prompt) < served.context_length or order.max_tokens == 0:
                self._answer(job, choice)
            else:
                choice.on_end(Generated([], "context"))

    def _next(self, choice: Choice, likely: Likely, served: Served) -> None:
        """The one token that was asked for after the prompt is known already."""
        if likely.token in served.end_tokens:
            choice.on_end(Generated([], "end"))
            return
        choice.on_likely(likely)
        stopped = choice.until([likely.token])
        choice.on_end(Generated([likely.token], "stop" if stopped else "length"))

    def _send(self) -> None:
        events, self._events = self._events, []
        if events:
            self.post(lambda: _deliver(events))


def _deliver(events: Sequence[tuple[Job, Event]]) -> None:
    for job, event in events:
        if not job.cancelled or isinstance(event, Failed):
            job.deliver(event)


def _lanes(served: Served) -> list[Lane]:
    """From short to long."""
    capacities = [*([SHORT] if served.context_length > SHORT else []), served.context_length]
    return [Lane(served, capacity, served.prefix) for capacity in capacities]
