"""legato.toml names every setting with the default that the models give it."""

from pathlib import Path

from services.common.config import load
from services.local import defaults
from services.local.config import Settings

FILE = Path(__file__).parents[2] / "legato.toml"


def test_the_committed_file_is_what_the_models_say() -> None:
    assert FILE.read_text(encoding="utf-8") == defaults.text()


def test_the_committed_file_loads_as_the_defaults() -> None:
    assert load(Settings, FILE, environ={}) == Settings()
