"""Policy: an ordering, a placement and an admission that go together, under one name.

`policies/NAME.toml` says which; its comment says whose idea it is and what of it is a reconstruction. Settings may take
any of the three from elsewhere.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.scheduler import admission, ordering, placement
from services.scheduler.admission import Admission
from services.scheduler.ordering import Ordering
from services.scheduler.placement import Placement

_PRESETS = Path(__file__).with_name("policies")
_SLOTS = {"ordering": ordering.load, "placement": placement.load, "admission": admission.load}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the core asks."""

    ordering: Ordering
    placement: Placement
    admission: Admission


def names() -> list[str]:
    """The presets that there are."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def load(name: str, overrides: Mapping[str, tuple[str, Mapping[str, float]]] | None = None) -> Policy:
    """The preset of that name. `overrides`: slot -> (name of the file in its folder, parameters).

    Raises ValueError for unknown names, slots or parameters and for bad values.
    """
    if name not in names():
        raise ValueError(f"unknown policy {name!r}; known: {', '.join(names())}")
    preset: dict[str, Any] = tomllib.loads((_PRESETS / f"{name}.toml").read_text(encoding="utf-8"))
    chosen: dict[str, Any] = {}
    for slot, load_slot in _SLOTS.items():
        file, params = (overrides or {}).get(slot, ("", {}))
        if not file:
            settings = preset[slot]
            file, params = settings["name"], {key: value for key, value in settings.items() if key != "name"}
        chosen[slot] = load_slot(file, **params)
    return Policy(**chosen)
