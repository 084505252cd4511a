"""Who leads, and in which term, with etcd and with the embedded stand-in."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.common.registry import Leader, Registry, election
from services.common.registry.client import Client
from services.common.registry.connection import Connection, Method, Q, R
from services.common.registry.election import Election
from tests.registry.conftest import Connect
from tests.registry.test_conformance import PATIENCE_SECONDS, first_changes


async def until_told(leaders: AsyncGenerator[Leader | None]) -> Leader:
    """The next one who leads."""
    async for found in leaders:
        if found is not None:
            return found
    raise AssertionError("nobody leads")


async def leads(registry: Registry, name: str = "scheduler") -> str | None:
    """Whose id leads."""
    leader = await registry.leader(name)
    return leader and leader.id


class TestElection:
    async def test_one_leads_and_the_next_takes_over(self, open_registry: Connect):
        async with asyncio.timeout(PATIENCE_SECONDS), open_registry() as one, open_registry() as two:
            assert await one.leader("scheduler") is None
            waiting = asyncio.Event()

            async def succeed() -> int:
                waiting.set()
                async with two.lead("scheduler", "two") as leadership:
                    assert await leads(one) == "two"
                    return leadership.term

            async with asyncio.TaskGroup() as tasks, one.lead("scheduler", "one") as first:
                second = tasks.create_task(succeed())
                await waiting.wait()
                assert await leads(two) == "one"
                assert not first.lost.is_set()
            assert first.lost.is_set()
            assert await second > first.term
            assert await one.leader("scheduler") is None

    async def test_a_leader_that_loses_its_lease_is_told_and_replaced(
        self, open_registry: Connect, client: Client, cluster: str
    ):
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            open_registry() as registry,
            registry.lead("scheduler", "one") as first,
        ):
            candidates = (await client.list(f"/legato/{cluster}/leaders/scheduler/")).entries
            await client.revoke(candidates[0].lease)
            await first.lost.wait()
            async with registry.lead("scheduler", "two") as second:
                assert await leads(registry) == "two"
                assert second.term > first.term

    async def test_whoever_leads_is_told_with_address_and_term_as_it_changes(self, open_registry: Connect):
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            open_registry() as registry,
            aclosing(registry.leaders("scheduler")) as leaders,
        ):
            assert await anext(leaders) is None
            async with registry.lead("scheduler", "one", "one.example:1") as leadership:
                leader = await until_told(leaders)
                assert leader == await registry.leader("scheduler")
                assert (leader.id, leader.address, leader.term) == ("one", "one.example:1", leadership.term)
            assert await anext(leaders) is None

    async def test_a_leader_that_is_dead_is_deposed_and_no_other(self, open_registry: Connect):
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            open_registry() as one,
            open_registry() as two,
            one.lead("scheduler", "one") as first,
        ):
            dead = await two.leader("scheduler")
            assert dead is not None
            assert await two.depose(dead)
            await first.lost.wait()
            async with two.lead("scheduler", "two") as second:
                assert not await one.depose(dead)
                assert await leads(one) == "two"
                assert not second.lost.is_set()

    async def test_whoever_has_heard_of_a_later_term_leads_a_later_one_still(self, open_registry: Connect):
        async with asyncio.timeout(PATIENCE_SECONDS), open_registry() as registry:
            heard = 10**12
            async with registry.lead("scheduler", "one", above=heard) as first:
                assert first.term > heard
                leader = await registry.leader("scheduler")
                assert leader is not None
                assert leader.term == first.term
            async with registry.lead("scheduler", "two") as second:
                assert second.term > first.term

    async def test_elections_are_apart(self, open_registry: Connect):
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            open_registry() as registry,
            registry.lead("scheduler", "one"),
            registry.lead("scheduler2", "two"),
        ):
            assert await leads(registry) == "one"
            assert await leads(registry, "scheduler2") == "two"

    async def test_a_candidate_that_gives_up_leaves_the_queue(
        self, open_registry: Connect, client: Client, cluster: str
    ):
        prefix = f"/legato/{cluster}/leaders/scheduler/"
        async with open_registry() as registry, registry.lead("scheduler", "one"):
            revision = (await client.list(prefix)).revision

            async def stand() -> None:
                async with registry.lead("scheduler", "two"):
                    raise AssertionError("there is a leader")

            async with asyncio.TaskGroup() as tasks:
                candidate = tasks.create_task(stand())
                entered = await first_changes(client, prefix, revision, 1)
                candidate.cancel()
            left = await first_changes(client, prefix, entered[-1].revision, 1)
            assert (left[0].key, left[0].value) == (entered[0].key, None)

    async def test_who_leads_in_which_term_is_read_at_one_moment(self, client: Client, address: str, cluster: str):
        here = Election(f"{cluster}/leaders", f"{cluster}/era")

        class Overtaken(Connection):
            """Another one leads, in a later era, by the time that an answer is here."""

            async def call(
                self, method: Method[Q, R], request: Q, *, repeatable: bool, timeout_seconds: float | None = None
            ) -> R:
                answer = await super().call(method, request, repeatable=repeatable, timeout_seconds=timeout_seconds)
                await client.delete(f"{here.prefix}/1")
                await client.put(f"{here.prefix}/2", b"two")
                await client.put(here.era_key, b"7")
                return answer

        began = await client.put(f"{here.prefix}/1", b"one")
        connection = Overtaken([address])
        found, at = await election.leader(Client(connection), here)
        await connection.close()
        assert found is not None
        assert (found.id, found.term, at) == ("one", began, began)
