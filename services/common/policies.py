"""Policies: folders in which each file is one, by its name, with a class `Policy` whose keywords are its settings."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def names(package: ModuleType) -> list[str]:
    """The policies that the package holds."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(package: ModuleType, name: str, params: Mapping[str, float]) -> Any:
    """The package's policy of that name. Raises ValueError for an unknown name, an unknown parameter or a bad value."""
    kind = package.__name__.rpartition(".")[2]
    if name not in names(package):
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(names(package))}")
    module = importlib.import_module(f"{package.__name__}.{name}")
    try:
        return module.Policy(**params)
    except TypeError as error:
        raise ValueError(f"{kind} {name}: {error}") from None
