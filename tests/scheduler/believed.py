"""Calls of which all is believed that a test says, for orderings alone."""

from dataclasses import replace
from math import inf

from services.common.laws import NEVER, Law, Point
from services.scheduler.events import CallSubmitted
from services.scheduler.expected import Expected
from services.scheduler.records import Call, Program
from services.scheduler.service_class import ServiceClass
from services.scheduler.tenants import Tenant

TYPICAL_SECONDS = 10.0
"""Of a wait."""


def expected(remaining: Law | None = None, attained: float = 0.0, service: float = 1.0, **others: object) -> Expected:
    """`remaining`: of the whole program, of which `attained` has passed; by default this call is the last."""
    law = Point(attained + service) if remaining is None else remaining
    known = Expected(service, law, attained, law, NEVER, Point(100.0))
    return replace(known, **others)  # pyright: ignore[reportArgumentType] (fields of Expected)


def call(
    believed: Expected,
    name: str = "c",
    *,
    arrived: float = 0.0,
    started: float = 0.0,
    deadline: float = inf,
    prompt: int = 100,
    weight: float = 1.0,
    service_class: ServiceClass = ServiceClass.DEFAULT,
    output: float = 100.0,
) -> Call:
    """One that waits."""
    program = Program(f"p-{name}", "t", started=started, last_active=arrived, account=Tenant("t", weight))
    program.deadline = deadline
    program.service_class = service_class
    program.served_seconds = program.attained_seconds = believed.attained_seconds
    made = Call(CallSubmitted(1, program.program_id, name, "m", prompt, 0), program, arrived)
    made.expected = replace(believed, aged=arrived / TYPICAL_SECONDS, patience_seconds=TYPICAL_SECONDS)
    made.expected_output = output
    return made
