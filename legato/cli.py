"""The `legato` command: talk to a cluster and look at it.

Exit code 0, 1 with one line on stderr when the cluster refused or was not there, 2 for bad arguments, 130 after Ctrl-C.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from legato import chat_command
from legato.client import Client, default_address
from legato.cluster import Model, ProgramStatus, Worker
from legato.errors import LegatoError, Unavailable
from legato.table import lines_of

_MAX_RETRIES = 3  # a person waits


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv, argparse.Namespace(address=None, tenant="", json=False))
    client = Client(arguments.address, tenant=arguments.tenant, max_retries=_MAX_RETRIES)
    try:
        return arguments.run(client, arguments)
    except LegatoError as error:
        print(f"legato: {_said(error, client)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    absent = argparse.SUPPRESS  # a subcommand without the option must not undo the one given before it
    common.add_argument(
        "--address", metavar="HOST:PORT", default=absent, help=f"gateway (LEGATO_ADDRESS; now {default_address()})"
    )
    common.add_argument("--tenant", default=absent, help="organisation or user; otherwise the default tenant")
    common.add_argument("--json", action="store_true", default=absent, help="print JSON")
    parser = argparse.ArgumentParser("legato", description="Talk to a Legato cluster and look at it.", parents=[common])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_chat(commands.add_parser("chat", parents=[common], help="make calls in a program of their own"))
    workers = commands.add_parser("workers", parents=[common], help="list the workers and their load")
    workers.set_defaults(run=_listing(lambda client, _: client.workers(), _worker_rows))
    programs = commands.add_parser("programs", parents=[common], help="list the programs, newest first")
    programs.add_argument("--all", action="store_true", help="ended ones too")
    programs.add_argument("--limit", type=int, default=100, help="at most this many (%(default)s)")
    programs.set_defaults(run=_listing(_programs, _program_rows))
    models = commands.add_parser("models", parents=[common], help="list the served models")
    models.set_defaults(run=_listing(lambda client, _: client.models(), _model_rows))
    return parser


def _add_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="otherwise stdin: a dialogue on a terminal")
    parser.add_argument("--model", help="not needed when the cluster serves only one")
    parser.add_argument("--program", default="", metavar="ID", help="otherwise a fresh id")
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions for the model")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of an answer")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    parser.set_defaults(run=chat_command.run)


def _listing(
    fetch: Callable[[Client, argparse.Namespace], Coroutine[Any, Any, list[Any]]],
    rows: Callable[[list[Any]], list[Sequence[object]]],
) -> Callable[[Client, argparse.Namespace], int]:
    """A command that prints what `fetch` returns: as JSON, or as the table that `rows` makes of it."""

    async def fetched(client: Client, arguments: argparse.Namespace) -> list[Any]:
        async with client:
            return await fetch(client, arguments)

    def run(client: Client, arguments: argparse.Namespace) -> int:
        values = asyncio.run(fetched(client, arguments))
        if arguments.json:
            print(json.dumps([asdict(value) for value in values], default=_iso, indent=2))
        else:
            print("\n".join(lines_of(rows(values))))
        return 0

    return run


def _programs(client: Client, arguments: argparse.Namespace) -> Coroutine[Any, Any, list[ProgramStatus]]:
    return client.programs(include_ended=arguments.all, limit=arguments.limit)


def _worker_rows(workers: list[Worker]) -> list[Sequence[object]]:
    head = ("WORKER", "MODEL", "ENGINE", "ADDRESS", "PLACED", "RUNNING", "WAITING", "KV", "CACHED", "STATE")
    return [
        head,
        *(
            (
                worker.worker_id,
                worker.model,
                worker.engine,
                worker.address,
                worker.num_placed,
                worker.num_running,
                worker.num_waiting,
                f"{worker.kv_usage:.0%}",
                _share(worker.cached_tokens, worker.prompt_tokens),
                "draining" if worker.draining else "serving",
            )
            for worker in workers
        ),
    ]


def _program_rows(programs: list[ProgramStatus]) -> list[Sequence[object]]:
    head = ("PROGRAM", "STATE", "AGE", "QUEUED", "RUNNING", "DONE", "RESTARTS", "SERVICE", "QUEUE", "TOKENS", "CACHED")
    now = datetime.now(UTC)
    return [
        head,
        *(
            (
                program.program_id,
                "ended" if program.ended else "live",
                f"{((program.ended or now) - program.started).total_seconds():.1f}s" if program.started else "",
                program.num_queued,
                program.num_running,
                program.num_finished,
                program.num_restarted,
                f"{program.service_seconds:.2f}s",
                f"{program.queue_seconds:.2f}s",
                program.usage.prompt_tokens + program.usage.completion_tokens,
                _share(program.usage.cached_tokens, program.usage.prompt_tokens),
            )
            for program in programs
        ),
    ]


def _model_rows(models: list[Model]) -> list[Sequence[object]]:
    return [
        ("MODEL", "CONTEXT", "WORKERS"),
        *((model.name, model.max_model_len, model.num_workers) for model in models),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")


def _said(error: LegatoError, client: Client) -> str:
    """One line for a person. Where the address itself does not answer, what to do about it."""
    if isinstance(error, Unavailable) and error.reason == Unavailable.default_reason:
        return f"nothing answers at {client.address}: start a gateway, or set --address or LEGATO_ADDRESS"
    return " ".join(str(error).split())
