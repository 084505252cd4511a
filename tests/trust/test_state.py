"""The state store behind TLS and a password, on a real Redis."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.common import state
from services.common.config import SettingsError, StateSection
from services.common.state import StoreUnavailable
from services.common.tls import Identity
from tests.trust.conftest import Who, issued
from tests.trust.redis import locked_redis

PASSWORD = "a-very-secret-word"


@pytest.fixture(scope="module")
def port(certificates: Path) -> Iterator[int]:
    with locked_redis(certificates, PASSWORD, "somebody") as bound:
        yield bound


def section(port: int, certificates: Path, service: str = "scheduler", **changes: object) -> StateSection:
    whole = StateSection(
        url=f"rediss://localhost:{port}/0",
        password=SecretStr(PASSWORD),
        ca_file=f"{certificates}/ca.pem",
        cert_file=service and f"{certificates}/{service}.pem",
        key_file=service and f"{certificates}/{service}.key",
        timeout_seconds=5,
    )
    return whole.model_copy(update=changes)


async def test_values_go_to_a_server_that_is_who_it_should_be(port: int, certificates: Path) -> None:
    for changes in ({}, {"user": "somebody"}):
        async with state.connect(section(port, certificates, **changes), "c") as store:
            await store.put("k", b"v")
            assert await store.get("k") == b"v"


async def test_the_process_shows_its_own_certificate_where_none_is_named(
    port: int, certificates: Path, who: Who, assume: Callable[[Identity], None]
) -> None:
    assume(who("workflow"))
    async with state.connect(section(port, certificates, service=""), "c") as store:
        assert await store.get("nothing") is None


async def test_nobody_else_comes_in_and_no_failure_tells_the_password(
    port: int, certificates: Path, tmp_path: Path
) -> None:
    stranger = issued(tmp_path)
    for wrong, message in (
        (section(port, certificates, password=SecretStr("wrong-word")), "WRONGPASS|invalid username-password"),
        (section(port, certificates, password=SecretStr("")), "already authenticated"),
        (section(port, certificates, service=""), "certificate required|reset|closed"),
        (section(port, stranger), "certificate verify failed"),
        (section(port, certificates, url=f"rediss://127.0.0.2:{port}/0"), "not valid for .127.0.0.2"),
        (section(port, certificates, url=f"rediss://:{PASSWORD}@127.0.0.2:{port}/0"), "not valid for .127.0.0.2"),
    ):
        async with state.connect(wrong, "c") as store:
            with pytest.raises(StoreUnavailable, match=message) as refused:
                await store.get("k")
        assert PASSWORD not in repr(refused.value)
        assert "wrong-word" not in repr(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "redis://localhost/0"}, "begins with rediss://"),
        ({"key_file": ""}, "both or neither"),
        ({"ca_file": "/missing.pem"}, "/missing.pem: there is no such file"),
    ],
)
async def test_settings_that_cannot_be_used_say_why(certificates: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        await state.connect(section(1, certificates, **changes), "c").__aenter__()


def test_settings_in_a_log_hide_their_secrets(certificates: Path) -> None:
    assert PASSWORD not in repr(section(1, certificates))
