"""compose/compose.yaml, really run: a program through it, services killed and cut off, more workers and fewer."""

import asyncio
import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

import legato
from tests.compose.conftest import SERVICES, Stack, now, serving

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

TOKENS = 400
AT_ONCE = 8
CUT_SECONDS = 15.0
"""Three leases."""
PORTS = {"worker": 9100, "scheduler": 9100, "kvpool": 9100, "redis": 6379, "etcd": 2379}


async def answer(client: legato.Client, number: int, begun: asyncio.Event | None = None) -> int:
    """One streamed call of a program of its own; how many tokens came."""
    async with client.program() as program:
        stream = program.agent("writer").stream(f"Story {number}", max_tokens=TOKENS, min_tokens=TOKENS)
        async with stream:
            async for _ in stream:
                if begun is not None:
                    begun.set()
        return stream.reply.usage.completion_tokens


async def steps(client: legato.Client, seconds: float) -> list[int]:
    """A program that makes one call after another for so long; how many workers served after each."""
    end, seen = time.monotonic() + seconds, list[int]()
    async with client.program() as program:
        agent = program.agent("coder")
        while time.monotonic() < end:
            reply = await agent.chat(f"Step {len(seen)}", max_tokens=32, min_tokens=32)
            assert reply.usage.completion_tokens == 32
            seen += [model.num_workers for model in await client.models()]
    return seen


async def worker_that_runs(client: legato.Client, stack: Stack) -> str:
    """A container with calls on its worker, whose id begins with the container's host name."""
    names = {stack.docker.inspect(name, "{{.Config.Hostname}}"): name for name in stack.containers("worker")}
    return next(names[worker.worker_id.split("-")[0]] for worker in await client.workers() if worker.num_placed)


def leaders(stack: Stack) -> list[str]:
    """The scheduler's containers that lead, for all that they know."""
    ask = "exec 3<>/dev/tcp/$(hostname -i)/9100; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    told = {name: stack.docker.run("exec", name, "bash", "-c", ask) for name in stack.containers("scheduler")}
    return [name for name, metrics in told.items() if "\nlegato_scheduler_leading 1.0" in metrics]


async def one_that_matters(client: legato.Client, stack: Stack, service: str) -> str:
    """A container of the service: the worker that has calls, the scheduler that leads."""
    if service == "worker":
        return await worker_that_runs(client, stack)
    (found,) = leaders(stack) if service == "scheduler" else stack.containers(service)
    return found


async def test_nothing_runs_as_root_or_may_write_or_gain_privileges(stack: Stack) -> None:
    for container in stack.containers():
        told = json.loads(stack.docker.inspect(container, "{{json .}}"))
        host = told["HostConfig"]
        assert told["State"]["Health"]["Status"] == "healthy", container
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False), container
        assert "no-new-privileges:true" in host["SecurityOpt"], container
        assert host["Memory"] > 0, container
        assert host["NanoCpus"] > 0, container
        assert host["RestartPolicy"]["Name"] == "unless-stopped", container
        assert os.stat(f"/proc/{told['State']['Pid']}").st_uid != 0, container


def test_no_secret_is_in_arguments_environment_or_logs(stack: Stack) -> None:
    folder = Path(stack.docker.variables["SECRETS"])
    secrets = [(folder / name).read_text() for name in ("redis_password", "salt", "grafana_password", "api_keys")]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for container in stack.containers():
        told = stack.docker.inspect(container, "{{json .}}") + stack.docker.run("logs", container)
        assert not any(secret in told for secret in secrets), container


async def test_callers_need_the_key(stack: Stack) -> None:
    async with legato.Client(stack.address, api_key="another") as stranger:
        with pytest.raises(legato.LegatoError, match="API key"):
            await stranger.models()


async def test_a_program_runs_through_it(stack: Stack) -> None:
    async with stack.client as client:
        assert [model.num_workers for model in await client.models()] == [2]
        async with client.program("through") as program:
            coder = program.agent("coder")
            plan = await coder.chat("How?", max_tokens=32)
            async with program.tool("run_tests"):
                pass
            done = await coder.chat(plan.text + "\nNow?", max_tokens=32)
        assert done.usage.completion_tokens > 0
        (program_status,) = [each for each in await client.programs(include_ended=True) if each.program_id == "through"]
        assert program_status.ended is not None
        assert [pool.pool_id for pool in await client.pools()] == ["pool"]


@pytest.mark.parametrize("service", ["gateway", "worker", "scheduler", "workflow", "kvpool", "redis", "etcd"])
async def test_a_killed_service_comes_back_and_no_call_is_lost(stack: Stack, service: str) -> None:
    begun = asyncio.Event()
    async with stack.client as client, asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(answer(client, number, begun)) for number in range(AT_ONCE)]
        await begun.wait()
        killed = await one_that_matters(client, stack, service)
        restarts, since = int(stack.docker.inspect(killed, "{{.RestartCount}}")), now()
        os.kill(int(stack.docker.inspect(killed, "{{.State.Pid}}")), signal.SIGKILL)
        assert not all(call.done() for call in calls)
        await asyncio.to_thread(stack.docker.await_event, killed, "start", since)
        await asyncio.to_thread(stack.docker.await_event, killed, "health_status: healthy", since)
    assert [call.result() for call in calls] == [TOKENS] * AT_ONCE
    assert int(stack.docker.inspect(killed, "{{.RestartCount}}")) == restarts + 1


@pytest.mark.parametrize("service", ["worker", "scheduler", "kvpool", "redis", "etcd"])
async def test_programs_go_on_while_a_container_is_cut_off_and_it_comes_back(stack: Stack, service: str) -> None:
    begun = asyncio.Event()
    async with stack.client as client:
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(answer(client, number, begun)) for number in range(AT_ONCE)]
            await begun.wait()
            away = await one_that_matters(client, stack, service)
            life, address = stack.docker.inspect(away, "{{.State.StartedAt}}"), stack.docker.address(away)
            with stack.docker.cut_off(away):
                assert not all(call.done() for call in calls)
                assert not await asyncio.to_thread(stack.docker.reaches, "legato-gateway-1", address, PORTS[service])
                seen = await steps(client, CUT_SECONDS)
                assert seen[-1] == (1 if service == "worker" else 2)
                assert service in ("worker", "scheduler") or set(seen) == {2}  # what is away is no reason to forget
                assert service != "scheduler" or set(leaders(stack)) - {away}
        assert [call.result() for call in calls] == [TOKENS] * AT_ONCE
        assert await serving(client, 2)
        await asyncio.to_thread(stack.up)  # all are healthy
        assert stack.docker.inspect(away, "{{.State.StartedAt}}") == life
        assert await asyncio.to_thread(stack.docker.reaches, "legato-gateway-1", address, PORTS[service])
        assert len(leaders(stack)) == 1
        assert await answer(client, 0) == TOKENS


async def test_workers_are_more_and_fewer_on_demand_and_calls_of_those_that_go_are_not_lost(stack: Stack) -> None:
    async with stack.client as client:
        for number in (3, 1, 2):
            begun = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                calls = [tasks.create_task(answer(client, number, begun)) for number in range(AT_ONCE)]
                await begun.wait()
                await asyncio.to_thread(stack.up, "--scale", f"worker={number}")
            assert [call.result() for call in calls] == [TOKENS] * AT_ONCE
            assert len(stack.containers("worker")) == number
            assert await serving(client, number)


async def test_what_was_up_is_gone_when_it_is_down(stack: Stack) -> None:
    stack.docker.compose("down", "--volumes", "--timeout", "20")
    try:
        assert stack.containers() == []
        assert stack.docker.run("volume", "ls", "--quiet") == ""
        assert "legato" not in stack.docker.run("network", "ls", "--format", "{{.Name}}")
    finally:
        stack.up()
    assert len(stack.containers()) == len(SERVICES) + 2  # a standby, a second worker
