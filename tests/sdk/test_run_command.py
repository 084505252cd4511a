"""`legato run`: a real process as one program, told by its environment alone."""

import asyncio
import json
import os
import pty
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import legato
from tests.sdk.fake_gateway import FakeGateway
from tests.sdk.test_command import Outcome, interruptible, start
from tests.servers import free_port

DUMP = "import json, os; print(json.dumps(dict(os.environ)))"
CHAT = """
import openai
messages = [{"role": "user", "content": "hi"}]
answer = openai.OpenAI(max_retries=0).chat.completions.create(model="tiny", messages=messages)
print(answer.choices[0].message.content)
"""
SDK = """
import asyncio, legato
async def main():
    async with legato.Client() as client:
        for _ in range(2):
            async with client.program() as program:
                await program.agent("coder").chat("hi")
        async with client.program("own") as program:
            await program.agent("coder").chat("hi")
asyncio.run(main())
"""
WAIT = """
import signal, sys
def leave(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(7)
for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
    signal.signal(getattr(signal, name), leave)
print("waiting", flush=True)
signal.pause()
"""
PRESSED = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("waiting", flush=True)
signal.sigwait([signal.SIGINT])
print("once" if signal.sigtimedwait([signal.SIGINT], 0.5) is None else "twice")
"""


async def run(address: str, *arguments: str, **environ: str) -> Outcome:
    """`legato run` with variables beside this process's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_API_KEY", "OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS", "LEGATO_HTTP"):
            patch.delenv(name, raising=False)
        for name, value in environ.items():
            patch.setenv(name, value)
        process = await start(address, "run", *arguments)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return Outcome(process.returncode, out.decode(), err.decode())


async def environment(address: str, *arguments: str, **environ: str) -> dict[str, str]:
    outcome = await run(address, *arguments, "--", sys.executable, "-c", DUMP, **environ)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


async def test_a_process_learns_its_program_and_the_base_urls(address: str, gateway: FakeGateway) -> None:
    said = await environment(address)
    program = said["LEGATO_PROGRAM_ID"]
    assert said["OPENAI_BASE_URL"] == said["OPENAI_API_BASE"] == f"http://127.0.0.1:8000/p/{program}/v1"
    assert said["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:8000/p/{program}"
    assert said["OPENAI_CUSTOM_HEADERS"] == said["ANTHROPIC_CUSTOM_HEADERS"] == f"x-legato-program-id: {program}"
    assert (said["OPENAI_API_KEY"], said["LEGATO_ADDRESS"]) == ("none", address)
    assert gateway.ended == [program]


async def test_each_run_is_another_program(address: str, gateway: FakeGateway) -> None:
    first, second = await environment(address), await environment(address)
    assert first["LEGATO_PROGRAM_ID"] != second["LEGATO_PROGRAM_ID"]


async def test_what_is_set_already_stays(address: str) -> None:
    said = await environment(
        address, "--program", "p-1", "--workflow", "fix issue", "--tenant", "acme",
        OPENAI_API_KEY="secret", OPENAI_CUSTOM_HEADERS="x-team: a\nX-Legato-Program-Id: outer",
    )  # fmt: skip
    own = ["x-legato-program-id: p-1", "x-legato-workflow: fix issue", "x-legato-tenant: acme"]
    assert said["OPENAI_API_KEY"] == "secret"
    assert said["OPENAI_CUSTOM_HEADERS"].splitlines() == ["x-team: a", *own]


async def test_clients_get_the_clusters_key(address: str, tmp_path: Path) -> None:
    said = await environment(address, LEGATO_API_KEY="ours", OPENAI_API_KEY="openai's")
    assert said["OPENAI_API_KEY"] == said["LEGATO_API_KEY"] == "ours"
    file = tmp_path / "connection.json"
    file.write_text(json.dumps({"addresses": [address], "api_key": "the file's"}), encoding="utf-8")
    assert (await environment(str(file)))["OPENAI_API_KEY"] == "the file's"


@pytest.mark.parametrize(
    ("arguments", "environ", "door"),
    [
        (["--http", "gw:81"], {"LEGATO_HTTP": "other:80"}, "http://gw:81"),
        (["--http", "https://gw.example/"], {}, "https://gw.example"),
        ([], {"LEGATO_HTTP": "gw:80"}, "http://gw:80"),
    ],
)
async def test_the_http_door_is_the_one_named(
    address: str, arguments: list[str], environ: dict[str, str], door: str
) -> None:
    said = await environment(address, "--program", "p", *arguments, **environ)
    assert (said["OPENAI_BASE_URL"], said["LEGATO_HTTP"]) == (f"{door}/p/p/v1", door)


async def test_an_unchanged_client_says_whose_call_it_is(address: str) -> None:
    with answering() as (port, requests):
        outcome = await run(address, "--program", "p", "--http", f"127.0.0.1:{port}", "--", sys.executable, "-c", CHAT)
    assert (outcome.code, outcome.out) == (0, "hello\n"), outcome.err
    assert requests == [("/p/p/v1/chat/completions", "p")]


async def test_sdk_programs_without_an_id_are_the_process_program(address: str, gateway: FakeGateway) -> None:
    outcome = await run(address, "--program", "p", "--", sys.executable, "-c", SDK)
    assert outcome.code == 0, outcome.err
    assert [call.identity.program_id for call in gateway.calls] == ["p", "p", "own"]
    assert gateway.ended == ["own", "p"]


async def test_the_sdk_says_tenant_and_workflow_as_other_clients_do(address: str, gateway: FakeGateway) -> None:
    told = ("--tenant", "t", "--workflow", "w")
    outcome = await run(address, "--program", "p", *told, "--", sys.executable, "-c", SDK)
    assert outcome.code == 0, outcome.err
    said = [(call.identity.program_id, call.identity.tenant, call.identity.workflow) for call in gateway.calls]
    assert said == [("p", "t", "w"), ("p", "t", "w"), ("own", "t", "")]


async def test_elsewhere_sdk_programs_are_fresh(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as first, client.program() as second:
        assert first.id != second.id
    assert gateway.ended == [second.id, first.id]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], 3),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 137),
        (["no-such-command"], 127),
        ([str(Path(__file__).parent)], 126),
    ],
)
async def test_the_exit_code_is_the_process_own(address: str, command: list[str], code: int) -> None:
    outcome = await run(address, "--", *command)
    assert outcome.code == code, outcome.err


async def test_a_command_needs_no_dashes_and_keeps_its_own(address: str) -> None:
    outcome = await run(address, sys.executable, "-c", "import sys; print(sys.argv[1:])", "--program", "--", "x")
    assert outcome.out == "['--program', '--', 'x']\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
async def test_signals_reach_the_process(address: str, gateway: FakeGateway, number: signal.Signals) -> None:
    process = await start(address, "run", "--program", "p", "--", sys.executable, "-c", WAIT)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (7, f"{number.name}\n")
    assert gateway.ended == ["p"]


async def test_a_key_pressed_reaches_the_process_once(address: str, gateway: FakeGateway) -> None:
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "legato", "run", "--address", address, "--", sys.executable, "-c", PRESSED]
    at_terminal = f'exec "$@" <>{os.ttyname(terminal)} >&0 2>&1'  # the first that a new session opens is its own
    with interruptible():
        process = await asyncio.create_subprocess_exec("sh", "-c", at_terminal, "sh", *command, start_new_session=True)
    await asyncio.to_thread(shown_until, keyboard, b"waiting\r\n")
    os.close(terminal)  # the process holds it now, and when that ends so does what is shown
    os.write(keyboard, b"\x03")
    shown = await asyncio.to_thread(shown_until, keyboard, b"once\r\n")
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    os.close(keyboard)
    assert shown.endswith(b"once\r\n")
    assert len(gateway.ended) == 1


async def test_a_gateway_that_is_not_there_is_said_and_changes_nothing() -> None:
    address = f"127.0.0.1:{free_port()}"
    outcome = await run(address, "--program", "p", "--", sys.executable, "-c", "print('done'); raise SystemExit(4)")
    assert (outcome.code, outcome.out) == (4, "done\n")
    assert f"legato: program p could not be ended at {address}" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "arguments", [[], ["--"], ["--program", "a b", "--", "true"], ["--tenant", "a\nb", "--", "true"]]
)
async def test_what_cannot_be_run_or_said_is_refused(address: str, gateway: FakeGateway, arguments: list[str]) -> None:
    outcome = await run(address, *arguments)
    assert outcome.code == 2
    assert "legato run: " in outcome.err
    assert not gateway.ended


def shown_until(terminal: int, end: bytes) -> bytes:
    """What is shown up to that, or up to the end of all processes that hold the terminal."""
    shown = b""
    with suppress(OSError):  # how a terminal ends on Linux
        while not shown.endswith(end) and (more := os.read(terminal, 4096)):
            shown += more
    return shown


@contextmanager
def answering() -> Generator[tuple[int, list[tuple[str, str | None]]]]:
    """A server that answers each chat with "hello": its port, and the path and program of each request."""
    requests: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            requests.append((self.path, self.headers["x-legato-program-id"]))
            message = {"role": "assistant", "content": "hello"}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            chat = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "choices": choices}
            body = json.dumps(chat).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, requests
        finally:
            server.shutdown()
            thread.join()
