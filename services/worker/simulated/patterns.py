"""A string that a regular expression matches: the shortest that a plain walk over the expression finds.

Understands what Python's `re` parses, less look-around and conditionals. What it finds is checked with `re` before it
is returned.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

# The parser is private to `re` and has no types; there is no public way to the structure of an expression.
_parse: Callable[[str], Any] = importlib.import_module("re._parser").parse


class Unsupported(ValueError):
    """No instance can be made; the message says of what."""


_PRINTABLE = "".join(map(chr, range(32, 127)))
_PREFERRED = "aA0 " + _PRINTABLE
_MAX_LENGTH = 10_000


def example(pattern: str, *, whole: bool = True) -> str:
    """A string that `pattern` matches: all of it, or with `whole` unset somewhere in it. Raises Unsupported."""
    try:
        compiled = re.compile(pattern)
        tree = _parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Unsupported(f"the expression {pattern!r} is not understood: {error}") from None
    text = _Walk().sequence(tree)
    if (compiled.fullmatch if whole else compiled.search)(text) is None:
        raise Unsupported(f"no match of {pattern!r} was found")
    return text


class _Walk:
    """Builds the text of a parsed expression, remembering its groups."""

    def __init__(self) -> None:
        self._groups: dict[int, str] = {}

    def sequence(self, items: Any) -> str:
        text = "".join(self._item(str(operation), argument) for operation, argument in items)
        if len(text) > _MAX_LENGTH:
            raise Unsupported("the shortest match is too long")
        return text

    def _item(self, operation: str, argument: Any) -> str:
        match operation:
            case "LITERAL":
                return chr(argument)
            case "NOT_LITERAL":
                return next(letter for letter in _PREFERRED if ord(letter) != argument)
            case "ANY":
                return "a"
            case "AT":
                return ""
            case "IN":
                return _member(argument)
            case "BRANCH":
                return min((self.sequence(branch) for branch in argument[1]), key=len)
            case "SUBPATTERN":
                text = self._groups[argument[0]] = self.sequence(argument[-1])
                return text
            case "ATOMIC_GROUP":
                return self.sequence(argument)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                return "".join(self.sequence(argument[2]) for _ in range(_bounded(argument[0])))
            case "GROUPREF":
                return self._groups.get(argument, "")
            case _:
                raise Unsupported(f"the expression uses {operation.lower()}")


def _bounded(count: int) -> int:
    if count > _MAX_LENGTH:
        raise Unsupported("the shortest match is too long")
    return count


def _member(items: list[tuple[Any, Any]]) -> str:
    """A character of a set."""
    tests = [_test(str(operation), argument) for operation, argument in items]
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    for letter in _candidates(items):
        if any(test(letter) for test in tests) is not negated:
            return letter
    raise Unsupported("the expression has an empty set")


def _candidates(items: list[tuple[Any, Any]]) -> Iterator[str]:
    """Pleasant characters first, then those that the set itself names."""
    yield from _PREFERRED
    for operation, argument in items:
        if str(operation) == "LITERAL":
            yield chr(argument)
        elif str(operation) == "RANGE":
            yield chr(argument[0])


def _test(operation: str, argument: Any) -> Callable[[str], bool]:
    match operation:
        case "LITERAL":
            return lambda letter: ord(letter) == argument
        case "RANGE":
            return lambda letter: argument[0] <= ord(letter) <= argument[1]
        case "NEGATE":
            return lambda letter: False
        case "CATEGORY":
            name = str(argument)
            positive = re.compile({"DIGIT": r"\d", "WORD": r"\w", "SPACE": r"\s"}[name.rsplit("_", 1)[1]])
            return lambda letter: (positive.match(letter) is not None) is ("_NOT_" not in name)
        case _:
            raise Unsupported(f"the expression uses {operation.lower()} in a set")
