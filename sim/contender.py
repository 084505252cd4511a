"""What is compared, as one writes it on a command line.

legato                                      a preset of services/scheduler/policies
legato+oracle                               told the truth about every call
legato+forecasts                            told what a workflow service foresees that knows nothing at the start
fcfs+admission=program_cap:programs=8       with another file in a slot, and its parameters
router:session                              no scheduler: a plain router of sim/router.py
"""

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from sim.experiment import Setup
from sim.router import NAMES as ROUTERS

_SLOTS = ("ordering", "placement", "admission")


def contender(text: str, setup: Setup) -> Setup:
    """The cluster of `setup` under the policy that the text says. Raises ValueError."""
    name, *parts = text.split("+")
    if name.startswith("router:"):
        router = name.removeprefix("router:")
        if parts or router not in ROUTERS:
            raise ValueError(f"{text!r}: router: and one of {', '.join(ROUTERS)}, alone")
        return replace(setup, direct=True, router=router)
    scheduler: dict[str, Any] = dict(setup.scheduler)
    oracle, workflow = setup.oracle, setup.workflow
    for part in parts:
        slot, _, filled = part.partition("=")
        if part == "oracle":
            oracle = True
        elif part == "forecasts":
            workflow = "cold"
        elif slot in _SLOTS and filled:
            file, *params = filled.split(":")
            scheduler[slot] = file
            scheduler[f"{slot}_params"] = dict(_parameter(text, param) for param in params)
        else:
            raise ValueError(
                f"{text!r}: {part!r} is neither oracle nor forecasts nor one of {', '.join(_SLOTS)}, =, a file's name"
            )
    chosen = replace(setup, policy=name, scheduler=scheduler, oracle=oracle, workflow=workflow)
    try:
        chosen.section()
    except ValidationError as error:
        raise ValueError(f"{text!r}: {error.errors()[0]['msg']}") from error
    return chosen


def _parameter(text: str, param: str) -> tuple[str, float]:
    key, _, value = param.partition("=")
    try:
        return key, float(value)
    except ValueError as error:
        raise ValueError(f"{text!r}: {param!r} is not name=number") from error
