"""`legato run -- CMD`: any process as one program, told by its environment alone.

What the process gets:

    LEGATO_PROGRAM_ID                            the id, which the SDK takes for programs that name none
    LEGATO_TENANT, LEGATO_WORKFLOW               for the SDK, too, if they are given
    LEGATO_ADDRESS, LEGATO_HTTP                  the gateway's two doors
    OPENAI_BASE_URL, OPENAI_API_BASE             http://GATEWAY/p/ID/v1: clients without headers of their own say it too
    ANTHROPIC_BASE_URL                           the same without /v1, which its clients add
    OPENAI_CUSTOM_HEADERS, ANTHROPIC_CUSTOM_HEADERS   the id, workflow and tenant, behind what is there already
    OPENAI_API_KEY                               LEGATO_API_KEY or the connection file's key, else as it was; for none
                                                 "none": clients refuse to start without one

Signals are passed on and the exit code is the process's own (128 + n after signal n; 126 and 127 as in shells where it
cannot be started). When it has ended, so has the program.
"""
# ruff: noqa: T201 (a command prints)

import argparse
import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from legato.addresses import Connection
from legato.client import API_KEY_VARIABLE, PROGRAM_VARIABLE, TENANT_VARIABLE, WORKFLOW_VARIABLE, Client
from legato.errors import LegatoError, Unavailable

HTTP_VARIABLE = "LEGATO_HTTP"
DEFAULT_HTTP_PORT = 8000

_HEADERS = ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS")
_CANNOT_EXECUTE, _NOT_FOUND, _KILLED = 126, 127, 128
_PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_TYPED = (signal.SIGINT, signal.SIGQUIT)
"""What a terminal sends to all processes in its foreground, the child among them."""
_PROGRAM_ID = re.compile(r"[A-Za-z0-9_\-.~:@+=,;!$()*]{1,256}")


def program_id(text: str) -> str:
    """An id that gateways take. Raises ArgumentTypeError."""
    if not _PROGRAM_ID.fullmatch(text) or text in (".", ".."):
        raise argparse.ArgumentTypeError("1 to 256 characters out of A-Z a-z 0-9 _ - . ~ : @ + = , ; ! $ ( ) *")
    return text


def header_value(text: str) -> str:
    """What can stand in a header. Raises ArgumentTypeError."""
    if not _sayable(text):
        raise argparse.ArgumentTypeError("printable ASCII only")
    return text


def run(client: Client, arguments: argparse.Namespace) -> int:
    """The command."""
    command: list[str] = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command or not _sayable(arguments.tenant):
        print("legato run: " + ("the tenant: printable ASCII only" if command else "no command"), file=sys.stderr)
        return 2
    program = arguments.program or secrets.token_hex(8)
    told = {"program-id": program, "workflow": arguments.workflow or "", "tenant": arguments.tenant}
    connection = _connection(client)
    http = arguments.http or os.environ.get(HTTP_VARIABLE, "") or connection.base_url.removesuffix("/v1")
    base_url, key = _base_url(http, client.address), os.environ.get(API_KEY_VARIABLE, "") or connection.api_key
    print(f"legato: program {program} at {base_url}", file=sys.stderr)
    headers = {f"x-legato-{name}": value for name, value in told.items()}
    environment = environment_of(os.environ, base_url, headers, key)
    try:
        code = _run(command, {**environment, "LEGATO_ADDRESS": client.addresses.said})
    except OSError as error:
        print(f"legato: {command[0]}: {error.strerror or error}", file=sys.stderr)
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_EXECUTE
    _end(client, program)
    return code


def environment_of(
    environ: Mapping[str, str], base_url: str, headers: Mapping[str, str], key: str = ""
) -> dict[str, str]:
    """The environment with the gateway's URLs, its API key if it has one, and what is to be said in each request. Empty
    headers are left out."""
    url = f"{base_url}/p/{headers['x-legato-program-id']}"
    said = {name: value for name, value in headers.items() if value}
    variables = (("program-id", PROGRAM_VARIABLE), ("tenant", TENANT_VARIABLE), ("workflow", WORKFLOW_VARIABLE))
    return {
        **environ,
        **{variable: value for name, variable in variables if (value := said.get(f"x-legato-{name}"))},
        HTTP_VARIABLE: base_url,
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_BASE": f"{url}/v1",
        "ANTHROPIC_BASE_URL": url,
        "OPENAI_API_KEY": key or environ.get("OPENAI_API_KEY") or "none",
        **{variable: _joined(environ.get(variable, ""), said) for variable in _HEADERS},
    }


def _sayable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _joined(present: str, said: Mapping[str, str]) -> str:
    """Lines of `name: value`; what an outer `legato run` said gives way."""
    kept = [
        line for line in present.splitlines() if line.strip() and line.partition(":")[0].strip().lower() not in said
    ]
    return "\n".join([*kept, *(f"{name}: {value}" for name, value in said.items())])


def _connection(client: Client) -> Connection:
    """What a connection file says, as far as there is one."""
    try:
        return client.addresses.read()
    except Unavailable:
        return Connection(())


def _base_url(http: str, address: str) -> str:
    """Of the gateway's HTTP door: as given, with http:// where no scheme is; else on the host of its gRPC address."""
    if not http:
        host = urlsplit(f"//{address.rpartition('/')[2]}").hostname or "127.0.0.1"
        http = f"[{host}]:{DEFAULT_HTTP_PORT}" if ":" in host else f"{host}:{DEFAULT_HTTP_PORT}"
    return (http if "://" in http else f"http://{http}").rstrip("/")


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run it to its end. Its exit code. Raises OSError when it cannot be started."""
    pending: list[int] = []
    deliver: Callable[[int], object] = pending.append
    with _receiving(lambda number: deliver(number)):
        process = subprocess.Popen(command, env=environment)
        deliver = process.send_signal
        for number in pending:
            process.send_signal(number)
        code = process.wait()
    return code if code >= 0 else _KILLED - code


@contextmanager
def _receiving(deliver: Callable[[int], object]) -> Generator[None]:
    """Deliver signals instead of ending by them; not those that the terminal sent to the child as well, nor those that
    were ignored here, for the child ignores them too."""

    def on_signal(number: int, frame: object) -> None:
        if number not in _TYPED or not _in_foreground():
            deliver(number)

    before = {number: signal.getsignal(number) for number in _PASSED_ON}
    taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno() if sys.__stdin__ else 0) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _end(client: Client, program: str) -> None:
    """Tell the cluster. The process's own outcome matters more than this courtesy."""

    async def end() -> None:
        async with client:
            await client.program(program).end()

    try:
        asyncio.run(end())
    except LegatoError as error:
        said = " ".join(str(error).split())
        print(f"legato: program {program} could not be ended at {client.address}: {said}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"legato: program {program} was not ended", file=sys.stderr)
