"""The `legato` command: talk to a cluster and look at it.

Exit code 0, 1 with one line on stderr when the cluster refused or was not there, 2 for bad arguments, 130 after Ctrl-C.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from legato import calibrate_command, certs_command, chat_command, explain_command, record_command, run_command
from legato.client import Client, default_address
from legato.cluster import ROLES, ProgramStatus
from legato.errors import LegatoError, Unavailable
from legato.listings import (
    Rows,
    eviction_rows,
    kept_rows,
    model_rows,
    pool_rows,
    program_rows,
    tier_rows,
    worker_rows,
)
from legato.slurm import command as slurm_command
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
    except OSError as error:
        print(f"legato: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    absent = argparse.SUPPRESS  # a subcommand without the option must not undo the one given before it
    common.add_argument(
        "--address",
        metavar="HOST:PORT",
        default=absent,
        help=f"gateway, several with commas, or a connection file (LEGATO_ADDRESS; now {default_address()})",
    )
    common.add_argument("--tenant", default=absent, help="organisation or user; otherwise the default tenant")
    common.add_argument("--json", action="store_true", default=absent, help="print JSON")
    parser = argparse.ArgumentParser("legato", description="Talk to a Legato cluster and look at it.", parents=[common])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_chat(commands.add_parser("chat", parents=[common], help="make calls in a program of their own"))
    _add_workers(commands.add_parser("workers", parents=[common], help="list the workers and their load"), common)
    programs = commands.add_parser("programs", parents=[common], help="list the programs, newest first")
    programs.add_argument("--all", action="store_true", help="ended ones too")
    programs.add_argument("--limit", type=int, default=100, help="at most this many (%(default)s)")
    programs.set_defaults(run=_listing(_programs, program_rows))
    models = commands.add_parser("models", parents=[common], help="list the served models")
    models.set_defaults(run=_listing(lambda client, _: client.models(), model_rows))
    _add_run(commands.add_parser("run", parents=[common], help="run any process as one program: legato run -- CMD"))
    _add_calibrate(commands.add_parser("calibrate", parents=[common], help="fit the simulator's cost model to workers"))
    _add_explain(commands.add_parser("explain", parents=[common], help="show where a program's time went"))
    _add_record(commands.add_parser("record", parents=[common], help="write what happened as a trace to simulate"))
    certs_command.add(commands.add_parser("certs", parents=[common], help="make a cluster's own certificates"))
    slurm_command.add(commands.add_parser("slurm", help="run a cluster as jobs of Slurm"), common)
    kv = commands.add_parser("kv", parents=[common], help="list the KV pools: what they hold, give and drop")
    kv.set_defaults(run=_listing(lambda client, _: client.pools(), tier_rows, pool_rows, eviction_rows, kept_rows))
    return parser


def _add_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="otherwise stdin: a dialogue on a terminal")
    parser.add_argument("--model", help="not needed when the cluster serves only one")
    parser.add_argument("--program", default="", metavar="ID", help="otherwise a fresh id")
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions for the model")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of an answer")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    parser.set_defaults(run=chat_command.run)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.usage = "legato run [--program ID] [--tenant NAME] [--workflow NAME] [--http HOST:PORT] -- CMD..."
    parser.add_argument("--program", type=run_command.program_id, metavar="ID", help="otherwise a fresh id")
    parser.add_argument("--workflow", type=run_command.header_value, metavar="NAME", help="its family's name")
    parser.add_argument(
        "--http", metavar="HOST:PORT", help="gateway's HTTP door (LEGATO_HTTP; else port 8000 of --address's host)"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD...", help="what to run")
    parser.set_defaults(run=run_command.run)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROGRAM", help="its id")
    parser.add_argument("--perfetto", metavar="FILE", help="write a trace for ui.perfetto.dev as well")
    parser.set_defaults(run=explain_command.run)


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--program", default="", metavar="ID", help="only this one; otherwise all in the call log")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until interrupted")
    parser.add_argument("--out", metavar="FILE", help="programs as the simulator reads them; FILE.gz is packed")
    parser.add_argument("--perfetto", metavar="FILE", help="a trace for ui.perfetto.dev")
    parser.set_defaults(run=record_command.run)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="whose workers, where several are served; they must be idle")
    parser.add_argument("--out", default="profile.json", metavar="FILE", help="the profile (%(default)s)")
    parser.set_defaults(run=calibrate_command.run)


def _add_workers(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_listing(lambda client, _: client.workers(), worker_rows))
    role = parser.add_subparsers(metavar="COMMAND").add_parser(
        "role", parents=[common], help="change what a worker is for; the calls that it runs go on"
    )
    role.add_argument("worker_id", metavar="WORKER")
    role.add_argument("role", choices=ROLES)
    role.set_defaults(run=_set_role)


def _set_role(client: Client, arguments: argparse.Namespace) -> int:
    async def change() -> None:
        async with client:
            await client.set_worker_role(arguments.worker_id, arguments.role)

    asyncio.run(change())
    return 0


def _listing(
    fetch: Callable[[Client, argparse.Namespace], Coroutine[Any, Any, list[Any]]],
    *tables: Callable[[list[Any]], Rows],
) -> Callable[[Client, argparse.Namespace], int]:
    """A command that prints what `fetch` returns: as JSON, or as tables, of which the first may be empty."""

    async def fetched(client: Client, arguments: argparse.Namespace) -> list[Any]:
        async with client:
            return await fetch(client, arguments)

    def run(client: Client, arguments: argparse.Namespace) -> int:
        values = asyncio.run(fetched(client, arguments))
        if arguments.json:
            print(json.dumps([asdict(value) for value in values], default=_iso, indent=2))
        else:
            rows = [table(values) for table in tables]
            shown = [table for table in rows if len(table) > 1 or table is rows[0]]
            print("\n\n".join("\n".join(lines_of(table)) for table in shown))
        return 0

    return run


def _programs(client: Client, arguments: argparse.Namespace) -> Coroutine[Any, Any, list[ProgramStatus]]:
    return client.programs(include_ended=arguments.all, limit=arguments.limit)


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")


def _said(error: LegatoError, client: Client) -> str:
    """One line for a person. Where the address itself does not answer, what to do about it."""
    if isinstance(error, Unavailable) and error.reason == Unavailable.default_reason:
        return f"nothing answers at {client.address}: start a gateway, or set --address or LEGATO_ADDRESS"
    return " ".join(str(error).split())
