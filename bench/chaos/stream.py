"""One answer over HTTP, event by event: what it says, and whether it ends but once."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

_PARTS: Final = ("output", "end", "usage", "[DONE]")
"""In this order, and each but output once. The end is a finish reason or an error."""
_SHOWN = 60


@dataclass(slots=True)
class Heard:
    """Of one try."""

    text: str = ""
    num_tokens: int | None = None
    """As the answer counts them; None: it did not say so far."""
    num_restarts: int = 0
    error: str = ""
    """Why it ended early, if it says so."""
    odd: list[str] = field(default_factory=list[str])
    """What no stream may say."""
    _reached: int = 0

    @property
    def whole(self) -> bool:
        return _PARTS[self._reached] == "[DONE]" and self.num_tokens is not None and not self.error

    def take(self, data: bytes) -> bool:
        """An event's data. Whether it was of a choice."""
        if data == b"[DONE]":
            self._reach("[DONE]", data)
            return False
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            self._reach("end", data)
            self.error = reason(event)
            return False
        for choice in event["choices"]:
            self._reach("end" if choice.get("finish_reason") else "output", data)
            self.text += choice["delta"].get("content") or ""
        if usage := event.get("usage"):
            self._reach("usage", data)
            self.num_tokens = usage["completion_tokens"]
            self.num_restarts = int(event.get("timings", {}).get("restarts", 0))
        return bool(event["choices"])

    def _reach(self, part: str, data: bytes) -> None:
        place = _PARTS.index(part)
        if self._reached and place <= self._reached:
            self.odd.append(f"{data[:_SHOWN].decode(errors='replace')} after its {_PARTS[self._reached]}")
        elif place > 1 and not self._reached:
            self.odd.append(f"{part} without an end")
        self._reached = max(place, self._reached)


def reason(body: dict[str, Any]) -> str:
    """Of a failure, as the server names it."""
    error: dict[str, Any] = body.get("error", {})
    return str(error.get("code") or error.get("type"))
