"""Requests that are refused, in the form that clients of OpenAI's API read."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """
    param  the parameter that is wrong, as `messages[0].content`
    code   what programs go by, as `context_length_exceeded`
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, kind: str | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.headers: dict[str, str] = {}

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def wrong(param: str, what: str, code: str | None = None) -> ApiError:
    """A parameter that has no meaning here: `temperature: must be a number from 0 to 2`."""
    return ApiError(400, f"{param}: {what}", param=param, code=code)


def unsupported(param: str, what: str = "is not supported by this server (leave it out)") -> ApiError:
    return wrong(param, what, "unsupported_parameter")


def busy(seconds: int = 1) -> ApiError:
    error = ApiError(
        429, "too many requests wait already (try again soon)", code="queue_full", kind="rate_limit_exceeded"
    )
    error.headers["Retry-After"] = str(seconds)
    return error


def ending() -> ApiError:
    error = ApiError(503, "the server is shutting down", code="shutting_down")
    error.headers["Retry-After"] = "5"
    return error
