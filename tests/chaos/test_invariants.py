"""The invariants of a chaos run see what they are to see."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from bench.chaos import call_ends, clock, invariants, kv_user, layout, memory
from bench.chaos.conductor import Injected
from bench.chaos.faults.freeze import Fault as Freeze
from bench.chaos.faults.kill import Fault as Kill
from bench.chaos.faults.slow_link import Fault as SlowLink
from bench.chaos.memory import Memory
from bench.chaos.plan import Planned
from bench.chaos.record import Ended, Listening, OnceMore, Record
from bench.chaos.report import Report
from legato.v1 import call_pb2, workflow_pb2
from tests.servers import binary

STOP, ABORT = call_pb2.FINISH_REASON_STOP, call_pb2.FINISH_REASON_ABORT


def ended(call_id: str, at: float = 50.0, restarts: int = 0) -> Ended:
    return Ended("program", call_id, "sdk", at - 1, at, restarts)


def entry(call_id: str, at: float = 1.0, reason: "call_pb2.FinishReason.ValueType" = STOP) -> workflow_pb2.LogEntry:
    return workflow_pb2.LogEntry(
        at=at, ended=workflow_pb2.CallEnded(program_id="program", call_id=call_id, reason=reason)
    )


def begun(call_id: str, at: float) -> workflow_pb2.LogEntry:
    identity = call_pb2.CallIdentity(program_id="program", call_id=call_id)
    return workflow_pb2.LogEntry(at=at, began=workflow_pb2.CallBegan(identity=identity))


def killed(target: str, at: float) -> Injected:
    return Injected(Planned(at, "kill", Kill(target, Random(1))), at, at + 5)


def slowed(node: str, began: float, until: float) -> Injected:
    return Injected(Planned(began, "slow_link", SlowLink(node, Random(1))), began, until)


def frozen(target: str, began: float, until: float) -> Injected:
    return Injected(Planned(began, "freeze", Freeze(target, Random(1))), began, until)


def test_a_call_may_end_badly_before_it_ends_well_and_an_entry_may_be_written_twice() -> None:
    log = [entry("1", reason=ABORT), entry("1"), entry("1"), entry("2")]
    ends = call_ends.compare([ended("1"), ended("2")], [], log, [])
    assert (ends.once, ends.missing, ends.twice) == (2, [], [])


def test_a_call_that_was_asked_of_two_gateways_may_end_at_both() -> None:
    begins = [begun("1", 0.5), begun("1", 0.8)]
    both = call_ends.compare([ended("1")], [], [*begins, entry("1", 1.0), entry("1", 2.0)], [])
    assert (both.at_each_gateway, both.twice) == (1, [])
    once = call_ends.compare([ended("1")], [], [begins[0], entry("1", 1.0), entry("1", 2.0)], [])
    assert (once.at_each_gateway, once.twice) == (0, ["program/1 (sdk)"])


def test_a_call_that_ends_twice_or_never_is_seen() -> None:
    log = [entry("1", 1.0), entry("1", 2.0), entry("2", 1.0, ABORT)]
    ends = call_ends.compare([ended("1"), ended("2")], [], log, [])
    assert (ends.once, ends.missing, ends.twice) == (0, ["program/2 (sdk), 50.0 s"], ["program/1 (sdk)"])
    assert len(invariants.of_log(ends).broken) == 2


@pytest.mark.parametrize(
    ("at", "faults", "excused"),
    [
        (50.0, [killed("gateway-1", 50.5)], True),
        (50.0, [killed("gateway-1", 55.0)], False),
        (50.0, [killed("worker-1", 50.5)], False),
        (50.0, [frozen("redis", 49.0, 56.0), killed("gateway-1", 55.0)], True),
        (45.0, [frozen("redis", 49.0, 56.0), killed("gateway-1", 55.0)], False),
        (50.0, [frozen("redis", 49.0, 52.0), killed("gateway-1", 55.0)], True),
        (50.0, [frozen("redis", 49.0, 52.0), killed("gateway-1", 65.0)], False),
        (50.0, [slowed("left", 40.0, 49.5), killed("gateway-2", 48.0)], True),
        (50.0, [slowed("left", 40.0, 48.5), killed("gateway-2", 48.0)], False),
        (50.0, [slowed("right", 40.0, 49.5), killed("gateway-2", 48.0)], False),
    ],
)
def test_only_what_a_killed_gateway_had_to_write_may_be_missing(
    at: float, faults: list[Injected], excused: bool
) -> None:
    ends = call_ends.compare([ended("1", at)], [], [], faults)
    assert (ends.lost_with_gateway, bool(ends.missing)) == (int(excused), not excused)


@pytest.mark.parametrize(
    ("num_tries", "faults", "anew"),
    [
        (1, [], True),
        (2, [], False),
        (1, [frozen("redis", 49.0, 52.0)], False),
        (1, [frozen("redis", 45.0, 49.0)], False),
        (1, [frozen("redis", 30.0, 39.0)], True),
        (1, [frozen("redis", 52.5, 55.0)], True),
        (1, [frozen("worker-1", 49.0, 52.0)], True),
        (1, [killed("gateway-2", 51.0)], False),
        (1, [slowed("left", 49.0, 52.0)], False),
    ],
)
def test_a_call_that_is_asked_again_begins_again_only_if_its_answer_could_not_be_kept(
    num_tries: int, faults: list[Injected], anew: bool
) -> None:
    log = [begun("1", 49.0), entry("1", 50.0), begun("1", 51.0), entry("1", 52.0)]
    asked = OnceMore("program", "1", num_tries, 50.0, 52.0)
    ends = call_ends.compare([ended("1")], [asked], log, faults)
    assert (bool(ends.anew), bool(invariants.of_log(ends).broken)) == (anew, anew)
    assert not call_ends.compare([ended("1")], [asked], log[:2], faults).anew


def test_clients_see_programs_that_fail_or_never_end_and_calls_that_end_twice() -> None:
    record = Record(num_programs=3, num_completed=1, calls=[ended("1"), ended("1")], failed=["chaos-2: broke"])
    completes, once, text = invariants.of_clients(record)
    assert completes.broken == ("chaos-2: broke", "1 programs never ended")
    assert once.broken == ("program/1: 2 times",)
    assert not text.broken


def test_streams_that_ended_twice_and_runs_without_programs_are_seen() -> None:
    completes, once, _ = invariants.of_clients(Record(misended=["chaos-1/call-1: [DONE] after its [DONE]"]))
    assert completes.broken == ("there was none",)
    assert once.broken == ("chaos-1/call-1: [DONE] after its [DONE]",)


def test_memory_that_grew_is_seen_and_the_slack_is_not() -> None:
    watched = Memory()
    base = 100 << 20
    for name in layout.names():
        watched.samples[name] += [(1.0, base), (9.0, memory.allowed(name, base, 0) + (name in ("etcd", "workflow")))]
    compared = watched.compared((0.0, 2.0), (8.0, 10.0))
    assert invariants.of_memory(compared, 0).broken == (
        "etcd: 100 MiB grew to 178 MiB",
        "workflow: 100 MiB grew to 178 MiB",
    )
    assert invariants.of_memory(compared, 1).broken == ("etcd: 100 MiB grew to 178 MiB",)
    assert len({memory.allowed(name, base, 1) for name in layout.names("etcd", "scheduler")}) == 1


def test_memory_that_nobody_looked_at_does_not_hold() -> None:
    watched = Memory()
    for name in layout.names():
        watched.samples[name] += [(1.0, 1 << 20), (9.0, 1 << 20)]
    assert not invariants.of_memory(watched.compared((0.0, 2.0), (8.0, 10.0)), 0).broken
    del watched.samples["workflow"]
    watched.samples["etcd"].pop()
    broken = invariants.of_memory(watched.compared((0.0, 2.0), (8.0, 10.0)), 0).broken
    assert broken == ("etcd: not seen at both times", "workflow: not seen at both times")
    assert invariants.of_memory({}, 0).broken


def at_rest() -> dict[str, dict[str, float]]:
    """What services say that is all as it must be."""
    return {name: dict(invariants.IDLE[layout.service(name).kind]) for name in layout.names(*invariants.IDLE)}


@pytest.mark.parametrize(
    ("name", "metric"),
    [(name, metric) for name, metrics in at_rest().items() for metric in metrics],
)
def test_what_is_not_idle_or_does_not_say_so_is_seen(name: str, metric: str) -> None:
    said = at_rest()
    assert not invariants.of_metrics(said).broken
    said[name][metric] += 2
    assert len(invariants.of_metrics(said).broken) == 1
    del said[name][metric]
    assert invariants.of_metrics(said).broken == (f"{name} does not say {metric}",)


def test_whoever_does_not_answer_is_not_idle() -> None:
    assert {layout.service(name).kind for name in at_rest()} == {
        "gateway",
        "scheduler",
        "workflow",
        "worker",
        "kvpool",
        "kvuser",
    }
    assert invariants.of_metrics({**at_rest(), "workflow": None}).broken == ("workflow does not answer",)


def logs(folder: Path, **said: str) -> list[str]:
    """What is broken by the logs; `said`: kvuser_1's and others' words."""
    for name in layout.names():
        (folder / f"{name}.log").write_text(said.get(name.replace("-", "_"), USED if "kvuser" in name else ""))
    return [how for one in invariants.of_logs(folder) for how in one.broken]


USED = "12:00:00.001 INFO kv_user loaded 3 blocks\n12:00:00.002 INFO kv_user stored 2 blocks\n"


def test_kv_users_that_used_no_pool_are_seen(tmp_path: Path) -> None:
    assert not logs(tmp_path)
    assert [one.note for one in invariants.of_logs(tmp_path)][1] == (
        "kvuser-1 loaded 3 and stored 2, kvuser-2 loaded 3 and stored 2"
    )
    assert logs(tmp_path, kvuser_2="") == ["kvuser-2 loaded 0 and stored 0"]
    assert logs(tmp_path, kvuser_1=USED.replace("loaded 3", "loaded 0")) == ["kvuser-1 loaded 0 and stored 2"]


def test_what_logs_tell_of_bugs_and_wrong_blocks_is_seen(tmp_path: Path) -> None:
    wrong = f"{USED}12:00:00.003 ERROR kv_user {kv_user.WRONG}: block 1 of 2\n"
    assert logs(tmp_path, worker_1="Traceback (most recent call last):\n", kvuser_1=wrong) == [
        "worker-1: 1 tracebacks",
        "kvuser-1: 1 blocks",
    ]


def test_a_service_that_died_by_itself_is_seen() -> None:
    watched = Memory()
    watched.lives["worker-1"] |= {1, 2}
    watched.lives["worker-2"] |= {3, 4}
    watched.lives["etcd"] |= {5}
    assert invariants.of_lives(watched, [killed("worker-1", 1.0)]).broken == (
        "worker-2: 1 deaths, 0 of them asked for",
    )


def test_a_fault_costs_the_silence_and_the_repeats_of_its_time_alone() -> None:
    record = Record(calls=[ended("1", 51.0, restarts=2), ended("2", 90.0, restarts=1)])
    listening = Listening(record, "sdk")
    for at in (49.9, 53.0, 53.1, 80.0, 89.0):
        listening.heard(at)
    record.repeats += [(52.0, "http", "cut"), (79.0, "http", "cut")]
    report = Report(1, 60.0, 1, record, [killed("worker-1", 50.0)])
    cost = report.costs()["kill", "worker-1"]
    assert (cost.faults, round(cost.longest_silence_seconds, 1), cost.restarts, cost.repeats) == (1, 26.9, 2, 1)
    longest, *_ = report.longest_silences()
    assert longest == "26.9 s from 53.1 s on (sdk): 50.0 s  worker-1: kill -9"


LOOKS_AT_CLOCKS = """
import time
wall, monotonic = time.time(), time.monotonic()
print("looked", flush=True)
input()
print(time.time() - wall, time.monotonic() - monotonic)
"""


def test_a_process_has_a_clock_of_its_own_that_jumps_and_its_monotonic_clock_does_not(tmp_path: Path) -> None:
    binary("cc")
    library = clock.build(tmp_path)
    assert library is not None
    file = tmp_path / "clock"
    environment = clock.environment(library, file)
    with subprocess.Popen(
        (sys.executable, "-c", LOOKS_AT_CLOCKS),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "looked\n"
        clock.put(file, 3600.0)
        jumped, passed = map(float, process.communicate("\n")[0].split())
    assert 0 <= passed < 1800 <= jumped < passed + 3601
