"""Two stacks on one machine do not meet in one pool."""

from services.common.config import KVPoolSection
from services.local.config import Settings, pool_directory


def test_a_stack_that_is_told_nothing_has_a_pool_of_its_own() -> None:
    assert pool_directory(Settings(), "/private") == "/private"


def test_a_directory_that_was_configured_is_taken() -> None:
    settings = Settings(kvpool=KVPoolSection(directory="run/other"))
    assert pool_directory(settings, "/private") == "run/other"
