"""Errors as OpenAI's API words them: status, and a body with message, type, param and code."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llama_cu.errors import LlamaCuError

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """A request that is answered with an error. `param` names the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def bad_request(error: ValueError | LlamaCuError) -> ApiError:
    """A 400 for what the library refused; its messages begin with the argument's name."""
    message = str(error)
    first = message.split(" ", 1)[0].split("[")[0]
    return ApiError(400, message, param=first if first.isidentifier() else None)


async def on_api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def on_invalid_body(request: Request, error: Exception) -> JSONResponse:
    """A body that is not JSON, or JSON with a field that is unknown, missing or of a wrong kind."""
    assert isinstance(error, RequestValidationError)
    first = min(error.errors(), key=_importance)
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON").response()
    if first["type"] == "model_attributes_type" and not isinstance(first["input"], (dict, list)):
        kind = request.headers.get("content-type")
        if kind is None or "json" not in kind:
            message = f"the Content-Type must be application/json, got {kind or 'none'}"
            return ApiError(400, message).response()
    name = _field(first["loc"])
    if _is_unknown(first):
        message = f"unknown or unsupported field: {name}"
    else:
        message = f"{name or 'the body'}: {first['msg']}"
    return ApiError(400, message, param=name).response()


def _importance(entry: dict[str, Any]) -> int:
    """Which of several errors to tell: the one that says most, the first of those.

    An unknown field is the reason of others. Where a field may be a text or a list, that a list is
    no text says nothing.
    """
    if _is_unknown(entry):
        return 0
    return {"too_long": 1, "string_type": 3}.get(entry["type"], 2)


def _is_unknown(entry: dict[str, Any]) -> bool:
    """Whether a field is not understood, or no more of it than an empty list."""
    return bool(
        entry["type"] == "extra_forbidden"
        or (entry["type"] == "too_long" and entry["ctx"]["max_length"] == 0)
    )


def _field(location: tuple[int | str, ...]) -> str | None:
    """A field as the client wrote it: without the kinds of value that were tried for it."""
    parts = [str(part) for part in location if part not in ("body", "str")]
    return ".".join(part for part in parts if not part.startswith("list[")) or None


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: unknown paths, wrong methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    return ApiError(error.status_code, str(error.detail), headers=headers).response()


async def on_crash(request: Request, error: Exception) -> JSONResponse:
    return ApiError(500, f"internal error: {type(error).__name__}").response()
