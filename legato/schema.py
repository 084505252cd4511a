"""JSON Schema of a function's arguments, from its type hints: just enough for tools."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN: dict[object, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def parameters_of(function: Callable[..., object]) -> dict[str, Any]:
    """Schema of the keyword arguments of `function`. Raises TypeError for a parameter that JSON cannot say."""
    hints = typing.get_type_hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        where = f"parameter {name} of {function.__name__}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{where} cannot be given by name")
        if name not in hints:
            raise TypeError(f"{where} has no type hint")
        properties[name] = _schema_of(hints[name], where)
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            properties[name] = {**properties[name], "default": parameter.default}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema_of(hint: object, where: str) -> dict[str, Any]:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    arguments = get_args(hint)
    match get_origin(hint) or hint:
        case origin if origin is Literal:
            return {"enum": list(arguments)}
        case origin if origin in (Union, types.UnionType):
            return {"anyOf": [_schema_of(choice, where) for choice in arguments]}
        case origin if origin is list:
            return {"type": "array", "items": _schema_of(arguments[0], where)} if arguments else {"type": "array"}
        case origin if origin is dict:
            if not arguments:
                return {"type": "object"}
            return {"type": "object", "additionalProperties": _schema_of(arguments[1], where)}
        case _:
            raise TypeError(f"{where}: no JSON Schema for {hint!r}")
