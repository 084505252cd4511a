"""An engine over several nodes: the head, which is the worker, and the others, which only compute for it.

vLLM joins them by its multi-node mode, but does not notice when one is gone: whoever waits for it waits for minutes. So
each of the others keeps a connection to the head, and when that ends, both sides do; who keeps them running starts them
anew. Nobody proves here who he is, nor in what vLLM itself sends between nodes (docs/threat-model.md).
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from typing import NoReturn

from services.common.config import KVPoolSection
from services.worker.config import WorkerSection
from services.worker.vllm_engine import arguments, environment

_log = logging.getLogger(__name__)

_GREETING = b"legato\n"
_AGAIN_SECONDS = 0.5
_SILENCE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
"""A node that lost its power is noticed after 11 s."""


class OtherNodes:
    """The head's side: accepts the others from now on. Raises OSError when the port is taken."""

    def __init__(self, head: tuple[str, int]) -> None:
        self._listener = socket.create_server(head)
        self._listener.setblocking(False)

    async def lost(self) -> None:
        """Wait until one that came is gone."""
        accept = asyncio.get_running_loop().sock_accept
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    connection, _ = await accept(self._listener)
                    tasks.create_task(_attend(connection))
        except* _Gone:
            pass


async def _attend(connection: socket.socket) -> None:
    """Raises _Gone when one of the others is."""
    receive = asyncio.get_running_loop().sock_recv
    connection.setblocking(False)
    _keep_alive(connection)
    with connection:
        greeted = False
        with contextlib.suppress(OSError):
            while said := await receive(connection, len(_GREETING)):
                greeted = greeted or said == _GREETING
    if greeted:
        raise _Gone


class _Gone(Exception):
    pass


def compute(section: WorkerSection, kvpool: KVPoolSection) -> NoReturn:
    """Be one of the others, until the head is gone, and all of this process group with it.

    A SIGTERM ends it only as long as there is no head: else calls may still run, and the head knows when they are done.
    """
    head = _reach(section.head)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_with(head)
    config = arguments.configuration(section, kvpool, "")
    environment.choose_start_method()
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    executor = MultiprocExecutor(config, monitor_workers=False)
    _log.info("node %d of %d computes for %s", section.node_rank, section.num_nodes, section.head_address)
    executor.start_worker_monitor(inline=True)  # returns when one of its processes ended
    sys.exit(1)


def _reach(head: tuple[str, int]) -> socket.socket:
    _log.info("waiting for the engine's head at %s:%d", *head)
    while True:
        try:
            connection = socket.create_connection(head)
            _keep_alive(connection)
            connection.sendall(_GREETING)
            return connection
        except OSError:
            time.sleep(_AGAIN_SECONDS)


def _end_with(head: socket.socket) -> None:
    """Kill this process group when the head is gone. A process of its own waits for that: loading a model takes
    minutes, and must not begin with two threads (environment.py)."""
    if os.fork():
        return
    with contextlib.suppress(OSError):
        head.recv(1)  # it never says anything
    os.killpg(0, signal.SIGKILL)


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _SILENCE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
