"""What the person who starts the server decides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and names of one server. Times are in seconds, sizes in bytes.

    `max_queue` counts answers that wait for a place in the batch, `max_streams` the requests that
    one client (an address) may have open. `drain_s` is how long open answers may go on after the
    server was told to stop.
    """

    model_name: str
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 8 << 20
    body_timeout_s: float = 30.0
    max_prompt_tokens: int | None = None
    max_queue: int = 256
    max_streams: int = 64
    request_timeout_s: float = 600.0
    send_timeout_s: float = 60.0
    drain_s: float = 15.0
    max_sessions: int = 256
    session_idle_s: float = 3600.0
    ping_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_queue", "max_streams", "max_sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "body_timeout_s",
            "request_timeout_s",
            "send_timeout_s",
            "session_idle_s",
            "ping_s",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.drain_s < 0:
            raise ValueError(f"drain_s must be at least 0, got {self.drain_s}")
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be at least 1, got {self.max_prompt_tokens}")
        if self.api_key is not None and not self.api_key:
            raise ValueError("api_key must not be empty")
