"""compose/tls.yaml beside compose.yaml: the same stack, in which all prove who they are."""

import ssl
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

import legato
from tests.compose import bed
from tests.compose.conftest import SERVICES, Stack
from tests.compose.prometheus import PROCESSES, running, scraped

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

_BY_CERTIFICATE = "--cacert=/certs/ca.pem --cert=/certs/operator.pem --key=/certs/operator.key"


@pytest.fixture(scope="module")
def secure(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    ca_file = tmp_path_factory.mktemp("tls") / "ca.pem"
    variables = {**stack.docker.variables, "COMPOSE_FILE": "compose.yaml:tls.yaml", "NAMES": bed.THEIRS}
    made = replace(stack, docker=replace(stack.docker, variables=variables), ca_file=str(ca_file))
    try:
        made.up()
        ca_file.write_text(made.docker.compose("exec", "-T", "gateway", "cat", "/certs/ca.pem"))
        yield made
    finally:
        made.docker.compose("down", "--volumes", "--timeout", "20")
        stack.up()


def outside(stack: Stack, command: str, *flags: str) -> str:
    """What a container of the stack's network, which is none of its services, is told."""
    return stack.docker.run(
        *("run", "--rm", "--network", "legato_default", "--user", "65534", *flags, bed.STAND_IN),
        *("sh", "-c", f"{command} 2>&1 || echo refused"),
    )


async def test_a_program_runs_through_both_doors_of_those_who_trust_the_authority(secure: Stack) -> None:
    async with secure.client as client, client.program() as program:
        assert [model.num_workers for model in await client.models()] == [2]
        assert (await program.agent("coder").chat("How?", max_tokens=32)).usage.completion_tokens > 0
        assert [pool.pool_id for pool in await client.pools()] == ["pool"]
    trust = ssl.create_default_context(cafile=secure.ca_file)
    headers = {"Authorization": f"Bearer {secure.api_key}"}
    url = f"https://{bed.THEIRS}:8000/v1/models"
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(url, ssl=trust) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url)


async def test_plain_text_is_not_spoken_at_the_doors(secure: Stack) -> None:
    async with legato.Client(secure.address, api_key=secure.api_key, max_retries=0, reconnect_seconds=0) as client:
        with pytest.raises(legato.LegatoError):
            await client.models()


def test_who_has_no_certificate_reaches_neither_etcd_nor_redis(secure: Stack) -> None:
    operator = ("--volume", "legato_certificates-operator:/certs:ro")
    etcdctl, redis = "etcdctl --endpoints=https://etcd:2379", "redis-cli -h redis --tls"
    assert "is healthy" in outside(secure, f"{etcdctl} {_BY_CERTIFICATE} endpoint health", *operator)
    assert "NOAUTH" in outside(secure, f"{redis} {_BY_CERTIFICATE.replace('=', ' ')} ping", *operator)
    assert "refused" in outside(secure, f"{etcdctl} --insecure-skip-tls-verify endpoint health")
    told = outside(secure, f"{redis} --insecure ping")
    assert "PONG" not in told
    assert "NOAUTH" not in told


def test_each_service_sees_its_own_key_alone(secure: Stack) -> None:
    for service in SERVICES:
        files = secure.docker.compose("exec", "-T", service, "sh", "-c", "cd /certs && stat -c '%n %a' *").splitlines()
        assert sorted(files) == sorted(f"{name} 400" for name in ("ca.pem", f"{service}.key", f"{service}.pem"))


async def test_prometheus_scrapes_all_as_an_operator(secure: Stack, tmp_path: Path) -> None:
    async with running(secure.docker, tmp_path) as prometheus:
        await scraped(prometheus, PROCESSES)
