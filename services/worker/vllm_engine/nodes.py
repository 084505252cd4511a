"""An engine over several nodes: the head, which is the worker, and the others, which only compute for it.

vLLM joins them by its multi-node mode, but does not notice when one is gone: whoever waits for it waits for minutes, or
for ever. So each of the others keeps a connection to the head, and when it ends, both sides are killed; who keeps them
running starts them anew. A process of its own attends to that on each side, from before the model is loaded: that takes
minutes, and must not begin with two threads (environment.py). Nobody proves here who he is, nor in what vLLM itself
sends between nodes (docs/threat-model.md).
"""

import contextlib
import logging
import multiprocessing.connection
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from services.common.config import KVPoolSection
from services.worker.config import WorkerSection
from services.worker.vllm_engine import arguments, environment

_log = logging.getLogger(__name__)

_GREETING = b"legato\n"
_AGAIN_SECONDS = 0.5
_SILENCE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
"""A node that lost its power is noticed after 11 s."""


def attend_to_others(section: WorkerSection) -> int:
    """For the head, before it loads: kill this process group when one of the others came and is gone. The pid of who
    sees to that. Raises OSError when the port is taken."""
    with socket.create_server(section.head) as listener:
        return _beside(lambda: _one_gone(listener))


def compute(section: WorkerSection, kvpool: KVPoolSection) -> NoReturn:
    """Be one of the others, until the head is gone, and all of this process group with it.

    A SIGTERM ends it only as long as there is no head: else calls may still run, and the head knows when they are done.
    """
    with _reach(section.head) as head:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        attending = _beside(lambda: _received(head))  # it never says anything
    config = arguments.configuration(section, kvpool, "")
    environment.choose_start_method()
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    executor = MultiprocExecutor(config, monitor_workers=False)
    _log.info("node %d of %d computes for %s", section.node_rank, section.num_nodes, section.head_address)
    multiprocessing.connection.wait([os.pidfd_open(attending), *(worker.proc.sentinel for worker in executor.workers)])
    sys.exit(1)


def _beside(until: Callable[[], object]) -> int:
    """Fork a process that kills this process group when `until` returns; its pid."""
    if pid := os.fork():
        return pid
    with contextlib.suppress(BaseException):
        until()
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _one_gone(listener: socket.socket) -> None:
    """Return when one that greeted is gone; of others nothing is expected."""
    heard: dict[socket.socket, bytes] = {}
    while True:
        ready, _, _ = select.select([listener, *heard], [], [])
        for connection in ready:
            if connection is listener:
                accepted, _ = listener.accept()
                _keep_alive(accepted)
                heard[accepted] = b""
            elif more := _received(connection):
                heard[connection] = (heard[connection] + more)[: len(_GREETING) + 1]
            else:
                connection.close()
                if heard.pop(connection) == _GREETING:
                    return


def _received(connection: socket.socket) -> bytes:
    """What comes next; nothing: the other side is gone."""
    with contextlib.suppress(OSError):
        return connection.recv(len(_GREETING) + 1)
    return b""


def _reach(head: tuple[str, int]) -> socket.socket:
    _log.info("waiting for the engine's head at %s:%d", *head)
    while True:
        try:
            connection = socket.create_connection(head)
            _keep_alive(connection)
            connection.sendall(_GREETING)
            return connection
        except OSError:  # it may not run yet, and nobody tells us when it does
            time.sleep(_AGAIN_SECONDS)


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _SILENCE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
