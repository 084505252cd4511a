"""The admissions of others, each against its formula; and that whole clusters run under their presets."""

from collections.abc import Callable
from math import inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.laws import NEVER, Exponential, Law, Point
from services.scheduler import policy
from services.scheduler.admission import Admission, concur, continuum, reservation, thunderagent
from services.scheduler.events import Event, LoadReported, WorkerJoined
from services.scheduler.ledger import Context, Ledger
from services.scheduler.records import Program, Worker
from tests.scheduler import believed
from tests.scheduler.stage import Stage

NAMED = [
    "fcfs",
    "sjf",
    "srpt",
    "mlfq",
    "plas",
    "atlas",
    "kairos",
    "hexgen",
    "edf",
    "tempo",
    "llmsched",
    "hermes",
    "ps_tcs",
    "justitia",
    "vtc",
    "saga",
    "thunderagent",
    "continuum",
    "concur",
    "maestro",
    "llmd_las",
]
BLOCKS = 100
BLOCK_SIZE = 16


def ledger_of(prefill_tokens_per_second: float = 0.0) -> Ledger:
    load = LoadReported("w", prefill_tokens_per_second=prefill_tokens_per_second)
    return Ledger(Worker(WorkerJoined("w", "host:w", "m", 10**6, 64, BLOCK_SIZE, BLOCKS, load), load))


def enter(
    ledger: Ledger,
    name: str,
    blocks: int,
    *,
    running: bool = False,
    weight: float = 1.0,
    idle_since: float = 0.0,
    returns: Law = NEVER,
    started: float = 0.0,
) -> Context:
    """A context of a program of its own."""
    call = believed.call(believed.expected(), name, started=started)
    program = call.program if running else Program(f"p-{name}", "t", started=started, last_active=0.0)
    program.admitted = started
    context = Context(program, ("a", ""), ledger, call if running else None, blocks=blocks, weight=weight)
    context.idle_since, context.returns = idle_since, returns
    ledger.enter(context)
    return context


SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 40)), max_size=6)


@given(running=st.lists(st.integers(1, 60), max_size=4), idle=SIZES, low=st.floats(0.1, 1.0), more=st.floats(0.0, 1.0))
def test_thunderagent_compares_running_and_decayed_contexts_with_the_kv(
    running: list[int], idle: list[tuple[int, int]], low: float, more: float
) -> None:
    policy = thunderagent.Policy(pause_share=low + more, restore_share=low)
    ledger = ledger_of()
    for number, blocks in enumerate(running):
        enter(ledger, f"r{number}", blocks, running=True)
    wanted = float(sum(running))
    for number, (blocks, seconds_idle) in enumerate(idle):
        context = enter(ledger, f"i{number}", blocks)
        weighed = policy.weigh(context, float(seconds_idle))
        assert weighed is not None
        weight, again = weighed
        ledger.turn(context, None, weight)
        wanted += blocks * 2.0 ** -(seconds_idle // 5)
        assert again == (seconds_idle // 5 + 1) * 5
    assert policy.excess(ledger) == (wanted > (low + more) * BLOCKS) or abs(wanted - (low + more) * BLOCKS) < 1e-6
    assert policy.room(ledger) == pytest.approx(low * BLOCKS - wanted)


def test_thunderagent_without_decay_is_as_its_code_has_it() -> None:
    context = enter(ledger_of(), "p", 10)
    assert thunderagent.Policy(decay=0).weigh(context, 1000.0) == (1.0, inf)


def test_thunderagent_pauses_the_shortest_first() -> None:
    ledger = ledger_of()
    long, short = enter(ledger, "long", 50), enter(ledger, "short", 5)
    admission = thunderagent.Policy()
    assert admission.pause_order(short) < admission.pause_order(long)


@pytest.mark.parametrize("rate", [0.05, 0.5, 2.0, 20.0])
def test_continuum_pins_for_the_time_that_pays_best(rate: float) -> None:
    """Of an exponential law: P' (tau) * gain = 1, at tau = ln(gain * rate) / rate, if that is above 0."""
    ledger = ledger_of(prefill_tokens_per_second=100.0)
    context = enter(ledger, "p", 25, idle_since=10.0, returns=Exponential(rate))
    gain = 2.0 + 25 * BLOCK_SIZE / 100.0
    ttl = max(0.0, log(gain * rate) / rate)
    admission = continuum.Policy(delay_seconds=2.0)
    weighed = admission.weigh(context, 10.0)
    if not ttl:
        assert weighed is None
        return
    assert weighed is not None
    assert weighed[0] == 1.0
    assert weighed[1] - 10.0 == pytest.approx(ttl, rel=0.5), "as near as the law's horizons are"
    assert admission.weigh(context, weighed[1]) is None


def test_continuum_with_a_ttl_of_its_own() -> None:
    context = enter(ledger_of(), "p", 10, idle_since=1.0, returns=Point(9.0))
    admission = continuum.Policy(ttl_seconds=2.0)
    assert admission.weigh(context, 1.0) == (1.0, 3.0)
    assert admission.weigh(context, 3.0) is None


def test_continuum_unpins_the_programs_that_came_last() -> None:
    ledger = ledger_of()
    admission = continuum.Policy()
    first, last = enter(ledger, "first", 60, started=1.0), enter(ledger, "last", 40, started=2.0)
    assert admission.room(ledger) == 0
    assert not admission.excess(ledger)
    enter(ledger, "runs", 1, running=True)
    assert admission.excess(ledger)
    assert admission.pause_order(last) < admission.pause_order(first)


@given(st.lists(st.integers(0, 250), min_size=1, max_size=30))
def test_concur_adds_while_there_is_room_and_divides_when_there_is_too_much(loads: list[int]) -> None:
    admission = concur.Policy(first=4, step=2.0, cut=0.5, low=0.8, high=1.0)
    window = 4.0
    ledger = ledger_of()
    for moment, blocks in enumerate(loads):
        contexts = [enter(ledger, f"p{moment}-{i}", blocks // int(window)) for i in range(int(window))]
        wanted = blocks // int(window) * int(window)
        assert admission.room(ledger) == window - int(window)
        admission.adjust(ledger, float(moment))
        if wanted > BLOCKS:
            window = max(1.0, window / 2)
        elif wanted < 0.8 * BLOCKS:
            window += 2
        assert ledger.window == window
        assert admission.excess(ledger) == (len(contexts) > window)
        for context in contexts:
            ledger.leave(context)


def test_concur_does_not_grow_a_window_that_is_not_used() -> None:
    ledger = ledger_of()
    admission = concur.Policy(first=4)
    enter(ledger, "p", 1)
    admission.adjust(ledger, 2.0)
    assert ledger.window == 4


def test_concur_pauses_who_came_last() -> None:
    ledger = ledger_of()
    first, last = enter(ledger, "first", 1, started=1.0), enter(ledger, "last", 9, started=2.0)
    admission = concur.Policy()
    assert admission.pause_order(last) < admission.pause_order(first)


@given(running=st.lists(st.integers(1, 40), max_size=6), new=st.integers(1, 120), margin=st.integers(0, 300))
def test_a_reservation_fits_with_the_margins_of_all(running: list[int], new: int, margin: int) -> None:
    ledger = ledger_of()
    for number, blocks in enumerate(running):
        enter(ledger, f"r{number}", blocks, running=True)
    admission = reservation.Policy(margin_tokens=margin)
    each = -(-margin // BLOCK_SIZE)
    fits = sum(blocks + each for blocks in [*running, new]) <= BLOCKS
    call = believed.call(believed.expected())
    assert (admission.need(call, new) <= admission.room(ledger)) == fits


def test_a_reservation_keeps_nothing_for_tools() -> None:
    assert reservation.Policy().weigh(enter(ledger_of(), "p", 10), 0.0) is None


@pytest.mark.parametrize(
    ("make", "params"),
    [
        (thunderagent.Policy, {"restore_share": 1.1}),
        (thunderagent.Policy, {"decay": -1.0}),
        (thunderagent.Policy, {"tick_seconds": 0.0}),
        (continuum.Policy, {"ttl_seconds": -1.0}),
        (concur.Policy, {"first": 0.0}),
        (concur.Policy, {"cut": 1.0}),
        (concur.Policy, {"low": 2.0}),
        (concur.Policy, {"period_seconds": 0.0}),
        (reservation.Policy, {"margin_tokens": -1.0}),
    ],
)
def test_bad_values_are_named(make: Callable[..., Admission], params: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"need .*{next(iter(params))}"):
        make(**params)


def test_every_policy_has_its_name() -> None:
    assert set(NAMED) <= set(policy.names())


@pytest.mark.parametrize("name", policy.names())
def test_under_every_preset_more_programs_than_fit_are_served_to_their_ends(name: str) -> None:
    assert not crowd(name).rejected


@pytest.mark.parametrize(
    ("name", "params"), [("thunderagent", {}), ("continuum", {}), ("reservation", {}), ("concur", {"first": 2.0})]
)
def test_each_admission_makes_programs_wait_between_calls_only(name: str, params: dict[str, float]) -> None:
    stage = crowd("fcfs", admission=name, admission_params=params)
    assert any(place.waited_seconds > 0 for place in stage.placed)
    assert stage.most_paused > 0
    assert len(stage.placed) == len({(place.program_id, place.call_id) for place in stage.placed}), "none twice"


class Crowded(Stage):
    """Looks how many calls are kept in the lobby."""

    most_paused = 0

    def feed(self, event: Event) -> None:
        super().feed(event)
        self.most_paused = max(self.most_paused, len(self.core.queue.lobby("m", 100)))


def crowd(preset: str, **settings: object) -> Crowded:
    """Two engines with room for four contexts each, sixteen programs of three calls that grow; all of it is served."""
    stage = Crowded(runs_seconds=2.0, **{"policy": preset, "ordering": "", **settings})
    for worker in ("a", "b"):
        stage.join(worker, seqs=4, blocks=80, prefill=4000.0, step=0.02)
    for turn in range(3):
        for number in range(16):
            blocks = [1000 * number + i for i in range(8 + 4 * turn)]
            stage.submit(f"c{number}-{turn}", f"p{number}", blocks=blocks, output=32, agent="coder")
        stage.run(3.0 + turn)
    stage.run(300.0)
    assert len({(place.program_id, place.call_id) for place in stage.placed}) == 48
    assert not stage.running
    assert not len(stage.core.queue)
    return stage
