"""The smallest instance of a JSON Schema that a plain walk finds, the same each time.

Knows the vocabulary that structured output uses: type, enum, const, properties, required, items, prefixItems, anyOf,
oneOf, allOf, local $ref, bounds of numbers, strings and arrays, pattern and common formats. Keywords that only narrow
further (not, if, dependentRequired, uniqueItems beyond prefixItems, ...) are not looked at.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from services.worker.simulated.patterns import Unsupported, example

_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "a@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_MAX_DEPTH = 32
_MAX_LENGTH = 10_000
_TYPES = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}

Schema = Mapping[str, Any]


def instance(schema_json: str, words: Sequence[str]) -> Any:
    """An instance of the schema. Strings that it leaves open are made of `words`. Raises Unsupported."""
    try:
        root = json.loads(schema_json)
    except (ValueError, RecursionError) as error:
        raise Unsupported(f"the schema is not JSON: {error}") from None
    if not isinstance(root, dict | bool):
        raise Unsupported("the schema is neither an object nor a boolean")
    try:
        return _Walk(root, words).value(root, 0)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        # The walk takes the schema at its word; one that is no schema fails wherever that shows.
        raise error if isinstance(error, Unsupported) else Unsupported(f"the schema is not valid: {error}") from None


class _Walk:
    def __init__(self, root: Any, words: Sequence[str]) -> None:
        self._root = root
        self._words = words

    def value(self, schema: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise Unsupported("the schema has no finite instance")
        if isinstance(schema, bool):
            if not schema:
                raise Unsupported("the schema allows nothing")
            return self._text({})
        schema = self._resolved(cast("Schema", schema), depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._one_of(schema["enum"])
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                rest = {key: item for key, item in schema.items() if key != keyword}
                return self._first([_merged(rest, self._resolved(option, depth)) for option in schema[keyword]], depth)
        kinds = schema.get("type") or _implied(schema)
        if isinstance(kinds, str):
            return self._of_type(kinds, schema, depth)
        return self._first([{**schema, "type": kind} for kind in kinds], depth)

    def _first(self, options: list[Schema], depth: int) -> Any:
        """The first alternative that has an instance."""
        reason = Unsupported("the schema offers no alternative")
        for option in options:
            try:
                return self.value(option, depth + 1)
            except Unsupported as error:
                reason = error
        raise reason

    @staticmethod
    def _one_of(values: Sequence[Any]) -> Any:
        if not values:
            raise Unsupported("the schema has an empty enum")
        return values[0]

    def _resolved(self, schema: Any, depth: int) -> dict[str, Any]:
        """The schema with its $ref and allOf merged in."""
        if depth > _MAX_DEPTH:
            raise Unsupported("the schema refers to itself")
        if isinstance(schema, bool):
            return {} if schema else {"enum": []}
        result = {key: item for key, item in schema.items() if key not in ("$ref", "allOf")}
        if "$ref" in schema:
            result = _merged(result, self._resolved(self._target(schema["$ref"]), depth + 1))
        for part in schema.get("allOf", ()):
            result = _merged(result, self._resolved(part, depth + 1))
        return result

    def _target(self, reference: str) -> Any:
        if not reference.startswith("#"):
            raise Unsupported(f"the schema refers outside of itself: {reference!r}")
        target: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target[int(name) if isinstance(target, list) else name]
        return target

    def _of_type(self, kind: str, schema: Schema, depth: int) -> Any:
        match kind:
            case "null":
                return None
            case "boolean":
                return True
            case "integer" | "number":
                return _number(schema, kind == "integer")
            case "string":
                return self._text(schema)
            case "array":
                return self._array(schema, depth)
            case "object":
                return self._object(schema, depth)
            case _:
                raise Unsupported(f"the schema has the unknown type {kind!r}")

    def _text(self, schema: Schema) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if least > most or least > _MAX_LENGTH:
            raise Unsupported("the schema asks for a string of impossible length")
        if "pattern" in schema:
            text = example(schema["pattern"], whole=False)
            if not least <= len(text) <= most:
                raise Unsupported("no match of the schema's pattern with the right length was found")
            return text
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = " ".join(self._words)
        text = text * (least // len(text) + 1) if len(text) < least else text
        return text if len(text) <= most else text[: int(most)].rstrip().ljust(least, "a")

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems", [])
        least = schema.get("minItems", 0)
        if least > schema.get("maxItems", math.inf) or least > _MAX_LENGTH:
            raise Unsupported("the schema asks for an array of impossible length")
        schemas = [*prefix[:least], *[schema.get("items", True)] * (least - len(prefix))]
        return [self.value(item, depth + 1) for item in schemas]

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        required: list[str] = schema.get("required", [])
        names = [name for name in properties if name in required] + [
            name for name in required if name not in properties
        ]
        missing = schema.get("minProperties", 0) - len(names)
        names += [name for name in properties if name not in names][: max(missing, 0)]
        other = schema.get("additionalProperties", True)
        result = {name: self.value(properties.get(name, other), depth + 1) for name in names}
        while len(result) < schema.get("minProperties", 0):
            result[f"property_{len(result)}"] = self.value(other, depth + 1)
        return result


def _implied(schema: Schema) -> str:
    """The type that a schema without one must mean, by its keywords."""
    return next((kind for kind, keywords in _TYPES.items() if any(keyword in schema for keyword in keywords)), "string")


def _merged(left: Schema, right: Schema) -> dict[str, Any]:
    """Both at once, for the keywords that can be united; of the others, the right one's."""
    result = {**left, **right}
    if "properties" in left and "properties" in right:
        result["properties"] = {**left["properties"], **right["properties"]}
    if "required" in left and "required" in right:
        result["required"] = list(dict.fromkeys([*left["required"], *right["required"]]))
    for keyword, choose in (("minimum", max), ("minLength", max), ("maximum", min), ("maxLength", min)):
        if keyword in left and keyword in right:
            result[keyword] = choose(left[keyword], right[keyword])
    return result


def _number(schema: Schema, whole: bool) -> int | float:
    """A number close to zero within the bounds."""
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    low, high = max(schema.get("minimum", -math.inf), above), min(schema.get("maximum", math.inf), below)
    near: float = min(max(0, low), high)
    step = schema.get("multipleOf", 1 if whole else None)
    if step is not None:
        candidates = [(math.floor(near / step) + more) * step for more in (0, 1, -1)]
    else:
        candidates = [near, (low + high) / 2, low + 1, high - 1]
    for number in candidates:
        if low <= number <= high and above < number < below and (not whole or float(number).is_integer()):
            return int(number) if float(number).is_integer() else number
    raise Unsupported("no number within the schema's bounds was found")
