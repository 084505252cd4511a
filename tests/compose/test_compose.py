"""compose/compose.yaml, really run: a program through it, services killed and cut off, more workers and fewer."""

import asyncio
import json
import os
import signal
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

import legato
from tests.compose.conftest import SERVICES, Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

TOKENS = 400
AT_ONCE = 8


async def answer(client: legato.Client, number: int, begun: asyncio.Event | None = None) -> int:
    """One streamed call of a program of its own; how many tokens came."""
    async with client.program() as program:
        stream = program.agent("writer").stream(f"Story {number}", max_tokens=TOKENS, min_tokens=TOKENS)
        async with stream:
            async for _ in stream:
                if begun is not None:
                    begun.set()
        return stream.reply.usage.completion_tokens


async def worker_that_runs(client: legato.Client, stack: Stack) -> str:
    """A container with calls on its worker, whose id begins with the container's host name."""
    names = {stack.docker.inspect(name, "{{.Config.Hostname}}"): name for name in stack.containers("worker")}
    return next(names[worker.worker_id.split("-")[0]] for worker in await client.workers() if worker.num_placed)


def leader(stack: Stack) -> str:
    """The scheduler's container that leads."""
    ask = "exec 3<>/dev/tcp/$(hostname -i)/9100; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    told = {name: stack.docker.run("exec", name, "bash", "-c", ask) for name in stack.containers("scheduler")}
    (found,) = [name for name, metrics in told.items() if "\nlegato_scheduler_leading 1.0" in metrics]
    return found


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


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


@pytest.mark.parametrize("service", ["worker", "scheduler", "kvpool", "redis", "etcd"])
async def test_a_killed_service_comes_back_and_no_call_is_lost(stack: Stack, service: str) -> None:
    begun = asyncio.Event()
    async with stack.client as client, asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(answer(client, number, begun)) for number in range(AT_ONCE)]
        await begun.wait()
        match service:
            case "worker":
                killed = await worker_that_runs(client, stack)
            case "scheduler":
                killed = leader(stack)
            case _:
                (killed,) = stack.containers(service)
        since = now()
        os.kill(int(stack.docker.inspect(killed, "{{.State.Pid}}")), signal.SIGKILL)
        await asyncio.to_thread(stack.docker.await_event, killed, "start", since)
        await asyncio.to_thread(stack.docker.await_event, killed, "health_status: healthy", since)
    assert [call.result() for call in calls] == [TOKENS] * AT_ONCE
    assert stack.docker.inspect(killed, "{{.RestartCount}}") != "0"


async def test_calls_of_a_worker_that_is_cut_off_go_on_elsewhere_and_it_comes_back(stack: Stack) -> None:
    network = "legato_default"
    begun = asyncio.Event()
    async with stack.client as client:
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(answer(client, number, begun)) for number in range(AT_ONCE)]
            await begun.wait()
            cut_off = await worker_that_runs(client, stack)
            stack.docker.run("network", "disconnect", network, cut_off)
        assert [call.result() for call in calls] == [TOKENS] * AT_ONCE
        assert await serving(client, 1)
        stack.docker.run("network", "connect", "--alias", "worker", network, cut_off)
        assert await serving(client, 2)
        assert cut_off in stack.containers("worker")


async def serving(client: legato.Client, num_workers: int) -> bool:
    """Whether so many serve within a minute. The gateway tells only when it is asked."""
    async with asyncio.timeout(60):
        while [model.num_workers for model in await client.models()] != [num_workers]:  # noqa: ASYNC110 (see above)
            await asyncio.sleep(0.2)
    return True


async def test_workers_are_more_and_fewer_on_demand(stack: Stack) -> None:
    async with stack.client as client:
        for number in (3, 1, 2):
            await asyncio.to_thread(stack.up, "--scale", f"worker={number}")
            assert len(stack.containers("worker")) == number
            assert await serving(client, number)
            assert await answer(client, number) == TOKENS


async def test_what_was_up_is_gone_when_it_is_down(stack: Stack) -> None:
    stack.docker.compose("down", "--volumes", "--timeout", "20")
    try:
        assert stack.containers() == []
        assert stack.docker.run("volume", "ls", "--quiet") == ""
        assert "legato" not in stack.docker.run("network", "ls", "--format", "{{.Name}}")
    finally:
        stack.up()
    assert len(stack.containers()) == len(SERVICES) + 2  # a standby, a second worker
