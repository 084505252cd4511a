"""`python -m services.local.defaults`: legato.toml as it follows from the settings' models."""

import json
import textwrap
from typing import Any, cast

from pydantic import BaseModel, SecretStr

from services.common.config import SECTIONS
from services.local.config import Settings

HEADER = """\
# Every setting of Legato with its default. Copy what you change into a file of your own and name it in LEGATO_CONFIG,
# or set LEGATO_<SECTION>__<FIELD>. Misspelt sections, keys and variables are refused.
# Written by `python -m services.local.defaults`; a test keeps it equal to the models.
"""


def text() -> str:
    """The whole file."""
    settings = Settings()
    sections = (_section(name, getattr(settings, name)) for name in SECTIONS if hasattr(settings, name))
    return "\n".join((HEADER, *sections))


def _section(name: str, section: BaseModel) -> str:
    model = type(section)
    lines = [*_comment(model.__doc__ or ""), f"[{name}]"]
    for field, info in model.model_fields.items():
        lines += _comment(info.description or "")
        lines.append(f"{field} = {_value(getattr(section, field))}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), 118)]


def _value(value: Any) -> str:
    """A TOML value; JSON's forms are TOML's for what settings hold."""
    match value:
        case SecretStr():
            return json.dumps(value.get_secret_value())
        case BaseModel():
            return _table(value.model_dump())
        case dict():
            return _table(cast(dict[str, Any], value))
        case _:
            return json.dumps(value)


def _table(items: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key} = {_value(value)}" for key, value in items.items()) + "}"


if __name__ == "__main__":
    print(text(), end="")  # noqa: T201 (its output)
