"""What a pool refuses to be set to."""

import pytest

from services.common.config import SettingsError, load
from services.kvpool.config import Settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RETENTION", "none_such", "unknown retention 'none_such'; known: "),
        ("NAME", "a/b", "name: at most 100 letters"),
        ("RETENTION_PARAMS", "{wrong = 1}", "retention lru"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(Settings, "/dev/null", {"LEGATO_KVPOOL__RETENTION": "lru", f"LEGATO_KVPOOL__{name}": value})
