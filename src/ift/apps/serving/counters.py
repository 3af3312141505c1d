"""What /metrics shows, in Prometheus' text form. No text of anybody is a label."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)


class Counters:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ift_requests", "Requests that have ended, by route and status (499: the client left)",
            ["route", "status"], registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("ift_prompt_tokens", "Tokens of prompts", ["model"], registry=registry)
        self.answer_tokens = Counter("ift_answer_tokens", "Tokens of answers", ["model"], registry=registry)
        self.first = Histogram(
            "ift_first_token_seconds", "From a request to the first token of its answer",
            ["model"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "ift_request_seconds", "From a request to the end of its answer",
            ["model"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.unknown = Counter("ift_unknown_keys", "Keys of requests that mean nothing here", registry=registry)
        self.slow = Counter("ift_slow_readers", "Streams that were ended as nobody read them", registry=registry)

    def watch(self, open_rows: Callable[[], float]) -> None:
        """open_rows: answers on their way or waiting, now."""
        gauge = Gauge("ift_open_answers", "Answers on their way or waiting", registry=self.registry)
        gauge.set_function(open_rows)

    def text(self) -> bytes:
        return generate_latest(self.registry)
