"""Keeps vLLM workers running: imports vLLM once, then forks a process per worker, again when one dies.

This process stays single-threaded and does nothing else, so its forks are sound; a worker is up two seconds after its
fork on a CPU. A worker leads a process group with its EngineCore in it, and the whole group is killed when the worker
ends. Should this process be killed, its workers stop gracefully.
"""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from services.common import server, telemetry
from services.worker import engines, service
from services.worker.config import Settings

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_MAX_PAUSE_SECONDS = 30.0
_YOUNG_SECONDS = 60.0
_ENGINE_NICENESS = 10


@dataclass(slots=True)
class _Place:
    """One worker's place: the process in it, or when the next one starts."""

    index: int
    pid: int = 0
    started_at: float = 0.0
    pause_seconds: float = 0.0
    due_at: float = 0.0


def run(settings: Settings) -> NoReturn:
    """Keep `count` workers running until SIGTERM or SIGINT, then stop them gracefully; a second signal kills them."""
    telemetry.configure(settings.telemetry, "worker")
    engines.make(settings)  # for its imports; making an engine starts nothing
    telemetry.shutdown()
    gc.freeze()  # what is loaded now stays shared between the workers
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    places = [_Place(index) for index in range(settings.worker.count)]
    while True:
        now = time.monotonic()
        for place in places:
            if not place.pid and now >= place.due_at:
                place.pid, place.started_at = _fork(settings, place.index), now
        due = [place.due_at for place in places if not place.pid]
        received = _wait(min(due) - now if due else None)
        if received in (signal.SIGTERM, signal.SIGINT):
            _stop(places)
            os._exit(0)  # torch's libraries complain at length when they are torn down
        _reap(places, settings.worker.restart_seconds)


def _wait(seconds: float | None) -> int | None:
    if seconds is None:
        return signal.sigwait(_SIGNALS)
    received = signal.sigtimedwait(_SIGNALS, max(seconds, 0))
    return None if received is None else received.si_signo


def _reap(places: list[_Place], restart_seconds: float) -> None:
    now = time.monotonic()
    for place in places:
        if not place.pid or os.waitpid(place.pid, os.WNOHANG)[0] == 0:
            continue
        _kill_group(place.pid)
        if now - place.started_at > _YOUNG_SECONDS:
            place.pause_seconds = 0
        place.pid = 0
        place.due_at = now + place.pause_seconds
        place.pause_seconds = min(max(place.pause_seconds * 2, restart_seconds), _MAX_PAUSE_SECONDS)


def _stop(places: list[_Place]) -> None:
    running = [place for place in places if place.pid]
    for place in running:
        os.kill(place.pid, signal.SIGTERM)
    while running:
        if signal.sigwait(_SIGNALS) != signal.SIGCHLD:
            for place in running:
                _kill_group(place.pid)
        for place in list(running):
            if os.waitpid(place.pid, os.WNOHANG)[0]:
                _kill_group(place.pid)
                running.remove(place)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _fork(settings: Settings, index: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _work(settings, index, parent)
    except SystemExit:
        pass  # it was logged
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _work(settings: Settings, index: int, parent: int) -> NoReturn:
    """Be a worker. The engine is loaded before anything starts a thread, for it may fork."""
    os.setpgid(0, 0)
    _end_with(parent, signal.SIGKILL if settings.worker.node_rank else signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    forking: list[int] = []
    os.register_at_fork(before=lambda: forking.append(os.getpid()), after_in_child=lambda: _begin_engine(forking[-1]))
    own = _numbered(settings, index)
    if own.worker.node_rank:
        quiet = own.telemetry.model_copy(update={"otlp_endpoint": ""})  # which would start threads
        telemetry.configure(quiet, "worker")
        engines.compute(own)
    engine = engines.make(own)
    engines.load(engine)
    server.run("worker", own, lambda: service.running(own, engine))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _begin_engine(parent: int) -> None:
    """In a forked process of the engine: it stands for a GPU, so it leaves the processor to whoever else needs it."""
    _end_with(parent, signal.SIGKILL)
    os.setpriority(os.PRIO_PROCESS, 0, _ENGINE_NICENESS)


def _numbered(settings: Settings, index: int) -> Settings:
    """The settings of one worker: where a port is given, each has the next one."""
    worker, metrics_port = settings.worker, settings.telemetry.metrics_port
    changed = {
        "worker": worker.model_copy(update={"port": worker.port and worker.port + index}),
        "telemetry": settings.telemetry.model_copy(update={"metrics_port": metrics_port and metrics_port + index}),
    }
    return settings.model_copy(update=changed)


def _end_with(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)  # it ended before
