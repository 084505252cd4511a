"""How urgent is a call, and what is known of its program: the one place that knows what callers call it.

Our own headers go first, then those of peers, then the body. A caller of another router works unchanged; what it says
is brought to one polarity (higher is more urgent; vLLM's priorities are lower first) and to three classes. A value that
is not taken raises Failure with the name of its header or field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from legato.v1 import call_pb2
from services.common.errors import Failure, Reason

MOST_PRIORITY: Final = 1000
LONGEST_DEADLINE_SECONDS: Final = 31_536_000.0
MOST_OUTPUT_TOKENS: Final = 2**31 - 1

INTERACTIVE: Final = call_pb2.SERVICE_CLASS_INTERACTIVE
DEFAULT: Final = call_pb2.SERVICE_CLASS_DEFAULT
BATCH: Final = call_pb2.SERVICE_CLASS_BATCH
UNSAID: Final = call_pb2.SERVICE_CLASS_UNSPECIFIED

SERVICE_TIERS: Final = {
    "auto": UNSAID,
    "default": DEFAULT,
    "flex": BATCH,
    "batch": BATCH,
    "priority": INTERACTIVE,
    "scale": INTERACTIVE,
}
"""OpenAI's `service_tier`."""
_CLASSES: Final = {"interactive": INTERACTIVE, "default": DEFAULT, "batch": BATCH}
_SMG_CLASSES: Final = {"system": INTERACTIVE, "interactive": INTERACTIVE, "default": DEFAULT, "bulk": BATCH}
_OBJECTIVE_HEADER: Final = "x-llm-d-inference-objective"
"""Names an object of the caller's own cluster; those that are named as our classes are understood."""
_DYNAMO_PRIORITY: Final = "x-dynamo-request-priority"
_DYNAMO_TIER: Final = "x-dynamo-request-strict-priority"
_PRIORITY_HEADERS: Final = (
    ("x-legato-priority", 1),
    ("x-override-priority", 1),
    (_DYNAMO_PRIORITY, 1),
    ("x-vllm-priority", -1),
    ("x-litellm-priority", -1),
)
"""Ours, SGLang's, Dynamo's, vLLM's, LiteLLM's; with their polarity."""
_TIER: Final = 100
"""Priorities between two of Dynamo's strict tiers."""


@dataclass(frozen=True, slots=True)
class Urgency:
    """What a caller said. Zero, None and UNSAID: nothing."""

    service_class: call_pb2.ServiceClass.ValueType = UNSAID
    priority: int | None = None
    """Higher is more urgent."""
    deadline_seconds: float = 0.0
    """From now to the program's end."""
    expected_output_tokens: int = 0

    def over(self, other: "Urgency") -> "Urgency":
        """What this one leaves unsaid as the other says it."""
        return Urgency(
            self.service_class or other.service_class,
            other.priority if self.priority is None else self.priority,
            self.deadline_seconds or other.deadline_seconds,
            self.expected_output_tokens or other.expected_output_tokens,
        )


NOTHING_SAID: Final = Urgency()


def from_headers(headers: Mapping[str, str]) -> Urgency:
    """Of an HTTP request, its body apart. Raises Failure."""
    tokens = "x-legato-expected-output-tokens"
    return Urgency(
        _class(headers),
        _priority(headers),
        _number(headers, "x-legato-deadline-seconds", LONGEST_DEADLINE_SECONDS),
        int(_number(headers, tokens, MOST_OUTPUT_TOKENS)),
    )


def tiered(tier: int | None, priority: int | None) -> int | None:
    """Dynamo's two priorities as one: what is in a higher tier goes first as long as priorities lie within 100."""
    if not tier:
        return priority
    return max(-MOST_PRIORITY, min(MOST_PRIORITY, _TIER * tier + (priority or 0)))


def checked_deadline(seconds: float, field: str) -> float:
    """Seconds to the program's end, 0 for none. Raises Failure."""
    if not (seconds == 0 or 0 < seconds <= LONGEST_DEADLINE_SECONDS):  # a NaN is neither
        raise _refuse(field, f"must be seconds in (0, {LONGEST_DEADLINE_SECONDS:.0f}], got {seconds}")
    return seconds


def _class(headers: Mapping[str, str]) -> call_pb2.ServiceClass.ValueType:
    for name, known in (("x-legato-service-class", _CLASSES), ("x-smg-priority", _SMG_CLASSES)):
        if said := headers.get(name):
            if (found := known.get(said.strip().lower())) is None:
                raise _refuse(name, f"must be one of {', '.join(known)}, got {said[:50]!r}")
            return found
    return _CLASSES.get(headers.get(_OBJECTIVE_HEADER, ""), UNSAID)


def _priority(headers: Mapping[str, str]) -> int | None:
    for name, polarity in _PRIORITY_HEADERS:
        if (priority := _integer(headers, name)) is not None:
            return (
                tiered(_integer(headers, _DYNAMO_TIER), priority) if name == _DYNAMO_PRIORITY else polarity * priority
            )
    return tiered(_integer(headers, _DYNAMO_TIER), None)


def _integer(headers: Mapping[str, str], name: str) -> int | None:
    """None where the header is absent."""
    if not (said := headers.get(name)):
        return None
    try:
        priority = int(said)
    except ValueError:
        priority = MOST_PRIORITY + 1
    if abs(priority) > MOST_PRIORITY:
        raise _refuse(name, f"must be an integer in [-{MOST_PRIORITY}, {MOST_PRIORITY}], got {said[:50]!r}")
    return priority


def _number(headers: Mapping[str, str], name: str, most: float) -> float:
    """0 where the header is absent."""
    if not (said := headers.get(name)):
        return 0.0
    try:
        number = float(said)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise _refuse(name, f"must be a number in (0, {most:.0f}], got {said[:50]!r}")
    return number


def _refuse(field: str, message: str) -> Failure:
    return Failure(Reason.INVALID_ARGUMENT, f"{field}: {message}", field)
