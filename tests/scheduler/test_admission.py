"""Which programs may hold KV: the lobby, the ledger of residents, and what each policy makes of them."""

import pytest

from services.common.errors import Reason
from services.common.forecast import Forecast
from services.common.laws import NEVER, Exponential, Law, Lomax, Point, sometimes
from services.scheduler import admission
from services.scheduler.events import GatewayLost, ProgramEnded
from services.scheduler.ledger import Ledger
from tests.scheduler.stage import MODEL, Stage

HOUR = 3600.0


def stage(name: str = "working_set", /, **params: float) -> Stage:
    """Contexts are worth keeping for 100 s while they are likely to come back; nobody is impatient."""
    settings: dict[str, float] = {"patience_seconds": HOUR, **params}
    if name == "working_set":
        settings = {"refills": 500.0, "share": 1.0, **settings}
    return Stage(admission=name, admission_params=settings, lookahead_calls=0)


def ledger(on: Stage, worker_id: str = "w") -> Ledger:
    (found,) = [each for each in on.core.residents.ledgers() if each.worker_id == worker_id]
    return found


def lobby(on: Stage) -> list[str]:
    return [call.key[1] for call in on.core.queue.lobby(MODEL, 100)]


def call(on: Stage, call_id: str, program: str, returns: Law | None = None, prompt: int = 784, **more: object) -> None:
    """800 tokens: 50 blocks of 16."""
    on.submit(call_id, program, prompt=prompt, forecast=Forecast(returns=returns or Exponential(0.1)), **more)  # pyright: ignore[reportArgumentType]


def full(**params: float) -> Stage:
    """A worker with room for 100 blocks, of which two programs in their tools hold all."""
    on = stage("working_set", **params)
    on.join("w", seqs=8, blocks=100)
    for program in ("a", "b"):
        call(on, f"{program}1", program)
        on.finish(f"{program}1", program)
    return on


def test_a_newcomer_waits_until_a_program_ends() -> None:
    on = full()
    call(on, "c1", "c")
    assert lobby(on) == ["c1"]
    on.feed(ProgramEnded("a"))
    assert on.order == ["a1", "b1", "c1"]


def test_programs_that_hold_kv_do_not_queue_behind_newcomers() -> None:
    on = full()
    call(on, "c1", "c")
    call(on, "a2", "a")
    call(on, "b2", "b")
    assert on.order == ["a1", "b1", "a2", "b2"]


def test_a_paused_program_can_be_seen() -> None:
    on = full()
    call(on, "c1", "c")
    program = on.core.programs.get("c")
    assert program is not None
    assert program.paused
    on.feed(ProgramEnded("a"))
    assert not program.paused
    assert program.home == "w"


def test_all_calls_of_a_program_are_let_in_with_its_first() -> None:
    on = full()
    for number in range(3):
        call(on, f"c{number}", "c", thread=str(number), prompt=100)
    assert len(lobby(on)) == 3
    on.feed(ProgramEnded("a"))
    assert lobby(on) == []
    assert on.order[2:] == ["c0", "c1", "c2"]


def test_a_context_that_is_overdue_gives_way_without_anything_happening() -> None:
    on = stage()
    on.join("w", seqs=8, blocks=100)
    for program in ("a", "b"):
        call(on, f"{program}1", program, returns=Lomax(1.0, 10.0))  # kept for 90 s
        on.finish(f"{program}1", program)
    call(on, "c1", "c")
    on.run(80)
    assert lobby(on) == ["c1"]
    on.run(60)
    assert on.order == ["a1", "b1", "c1"]
    assert on.clock.now() < 150


@pytest.mark.parametrize(
    ("returns", "kept"),
    [(Point(90.0), True), (Point(110.0), False), (sometimes(Exponential(0.1), 0.95), False), (NEVER, False)],
)
def test_a_context_is_kept_while_a_return_costs_less_room_than_computing_it(returns: Law, kept: bool) -> None:
    on = stage()
    on.join("w", seqs=8, blocks=100)
    call(on, "a1", "a", returns=returns)
    on.finish("a1", "a")
    assert bool(ledger(on).num_idle) is kept


def test_with_a_pool_beside_the_engine_contexts_are_kept_for_less_long() -> None:
    alone, beside = stage(), stage()
    alone.join("w", seqs=8, blocks=100)
    beside.pool("h")
    beside.join("w", seqs=8, blocks=100, pool="h")
    for on in (alone, beside):
        call(on, "a1", "a", returns=Point(50.0))
        on.finish("a1", "a")
    assert ledger(alone).num_idle == 1
    assert ledger(beside).num_idle == 0


@pytest.mark.parametrize("first", [True, False])
def test_a_program_sent_away_comes_back_before_newcomers_where_that_is_asked_for(first: bool) -> None:
    on = stage(resumes_first=float(first))
    on.join("w", seqs=8, blocks=100)
    for program in ("a", "b"):
        call(on, f"{program}1", program, returns=NEVER if program == "a" else None)
        on.finish(f"{program}1", program)
    call(on, "c1", "c")
    call(on, "d1", "d")
    assert lobby(on) == ["d1"]
    call(on, "a2", "a")
    assert lobby(on) == (["a2", "d1"] if first else ["d1", "a2"])


def test_what_programs_share_counts_once() -> None:
    on = stage()
    on.join("w", seqs=8, blocks=200)
    shared = list(range(64))  # 1,024 tokens
    call(on, "a1", "a", prompt=1600, blocks=[*shared, *range(100, 136)])
    call(on, "b1", "b", prompt=1600, blocks=[*shared, *range(200, 236)])
    assert ledger(on).live_blocks == 101 + 101 - 64
    on.finish("a1", "a")
    on.feed(ProgramEnded("a"))
    assert ledger(on).live_blocks == 101, "who is left pays for all"


def test_contexts_grow_and_the_longest_idle_one_is_sent_away() -> None:
    on = full()
    on.run(1)
    call(on, "b2", "b", prompt=1000)
    assert set(ledger(on).programs) == {"b"}


def test_a_thread_has_one_context() -> None:
    on = stage()
    on.join("w", seqs=8, blocks=1000)
    for number in range(3):
        call(on, f"a{number}", "a", thread="x")
    assert ledger(on).num_live == 3
    for number in range(3):
        on.finish(f"a{number}", "a")
    assert ledger(on).num_idle == 1
    call(on, "a4", "a", thread="y")
    assert (ledger(on).num_live, ledger(on).num_idle) == (1, 1)


def test_a_context_moves_where_its_call_runs() -> None:
    on = stage()
    on.join("v", seqs=8, blocks=100)
    call(on, "a1", "a")
    on.finish("a1", "a")
    on.join("w", seqs=8, blocks=100)
    on.load("v", draining=True)
    call(on, "a2", "a")
    assert not ledger(on, "v").programs
    assert ledger(on, "w").num_live == 1


def test_a_draining_worker_keeps_no_context_and_lets_nobody_in() -> None:
    on = full()
    call(on, "b2", "b")
    on.load("w", draining=True)
    assert set(ledger(on).programs) == {"b"}
    on.finish("b2", "b")
    assert not ledger(on).programs


def test_small_programs_slip_past_a_large_one_but_not_for_ever() -> None:
    on = stage()
    on.join("w", seqs=64, blocks=100)
    call(on, "a1", "a")
    call(on, "large", "l", prompt=1500)
    for number in range(30):
        call(on, f"s{number}", f"s{number}", prompt=100)
        if f"s{number}" in on.order:
            on.finish(f"s{number}", f"s{number}")
            on.feed(ProgramEnded(f"s{number}"))
    assert len(on.order) == 1 + 16
    on.finish("a1", "a")
    on.feed(ProgramEnded("a"))
    assert on.order[17] == "large"


def test_a_worker_that_rests_takes_who_is_first() -> None:
    on = full(patience_seconds=5.0)
    call(on, "c1", "c")
    call(on, "d1", "d")
    on.run(4.9)
    assert lobby(on) == ["c1", "d1"]
    on.run(0.2)
    assert lobby(on) == ["d1"]


def test_a_program_larger_than_any_cache_runs_alone() -> None:
    on = stage()
    on.join("w", seqs=8, blocks=100)
    call(on, "a1", "a", prompt=5000)
    assert on.order == ["a1"]


def test_calls_in_the_lobby_count_as_queued() -> None:
    on = Stage(
        admission="program_cap",
        admission_params={"programs": 1, "patience_seconds": HOUR},
        max_queued_calls=2,
        lookahead_calls=0,
    )
    on.join("w", seqs=8, blocks=100)
    for program in ("a", "b", "c", "d"):
        call(on, f"{program}1", program, prompt=16)
    (refused,) = on.rejected
    assert (refused.call_id, refused.reason) == ("d1", Reason.QUEUE_FULL)


def test_calls_time_out_and_leave_in_the_lobby() -> None:
    on = full()
    call(on, "c1", "c", timeout=7.0)
    call(on, "d1", "d", link=2)
    call(on, "e1", "e")
    on.run(8)
    (refused,) = on.rejected
    assert (refused.call_id, refused.reason) == ("c1", Reason.QUEUE_TIMEOUT)
    on.feed(GatewayLost(2))
    on.finish("e1", "e", 0.0)
    assert len(on.core.queue) == 0


def test_calls_without_workers_are_given_up_in_the_lobby_too() -> None:
    on = full()
    call(on, "c1", "c")
    on.lose_worker("w")
    on.run(20)
    (refused,) = on.rejected
    assert (refused.call_id, refused.reason) == ("c1", Reason.NO_WORKER)


def test_calls_that_lost_their_worker_do_not_wait_for_room() -> None:
    on = full()
    call(on, "a2", "a")
    on.join("v", seqs=8, blocks=100)
    for program in ("c", "d"):
        call(on, f"{program}1", program)
    assert on.order[-2:] == ["c1", "d1"]
    on.lose_worker("w")
    call(on, "e1", "e")
    assert lobby(on) == ["e1"], "one waits for room, the other for a slot"
    on.finish("c1", "c")
    assert on.order[-1] == "a2"


def test_each_model_has_a_lobby_of_its_own() -> None:
    on = full()
    on.join("o", seqs=8, blocks=100, model="other")
    call(on, "c1", "c")
    call(on, "c2", "c", model="other")
    assert lobby(on) == ["c1"]
    assert on.order[-1] == "c2"


def test_a_cap_counts_programs_whatever_they_hold() -> None:
    on = stage("program_cap", programs=2)
    on.join("w", seqs=8, blocks=100)
    for program in ("a", "b", "c"):
        call(on, f"{program}1", program, prompt=16)
        on.run(100)
    assert lobby(on) == ["c1"]
    call(on, "a2", "a", prompt=16, thread="another")
    assert on.order == ["a1", "b1", "a2"]


def test_thunderagent_counts_a_context_half_as_much_every_5_seconds() -> None:
    on = stage("thunderagent")
    on.join("w", seqs=8, blocks=100)
    call(on, "a1", "a", prompt=1584)
    on.finish("a1", "a")
    call(on, "b1", "b")
    assert ledger(on).taken_blocks == 100
    on.run(4.9)
    assert lobby(on) == ["b1"]
    on.run(0.3)
    assert ledger(on).weighed_blocks == 50
    assert on.order == ["a1", "b1"]


def test_thunderagent_pauses_the_shortest_first() -> None:
    on = stage("thunderagent", decay=0)
    on.join("w", seqs=8, blocks=100)
    for program, prompt in (("a", 784), ("b", 384), ("c", 304)):
        call(on, f"{program}1", program, prompt=prompt)
        on.finish(f"{program}1", program)
    call(on, "a2", "a", prompt=1000)
    assert set(ledger(on).programs) == {"a", "b"}


def test_concur_opens_its_window_while_contexts_are_found_again_and_closes_it_when_not() -> None:
    on = stage("concur", programs=2, period_seconds=10)
    on.join("w", seqs=64, blocks=100)
    window = ledger(on)
    most = 0.0
    for turn in range(12):
        for program in ("a", "b", "c"):
            call(on, f"{program}{turn}", program)
            on.finish(f"{program}{turn}", program, cached=700 if turn < 6 else 0, prompt=784)
        on.run(11)
        if turn == 5:
            assert window.window > 2
            most = window.window
    assert window.window < most


def test_continuum_pins_a_context_for_as_long_as_it_pays() -> None:
    on = stage("continuum")
    on.join("w", seqs=8, blocks=1000)
    call(on, "a1", "a", returns=Point(0.05), prompt=7984)  # a second of prefill
    call(on, "b1", "b", returns=Point(1.5), prompt=7984)
    for program in ("a", "b"):
        on.finish(f"{program}1", program)
    assert set(ledger(on).programs) == {"a"}
    on.run(1)
    call(on, "c1", "c")
    assert set(ledger(on).programs) == {"c"}


def test_a_reservation_is_the_predicted_output_and_a_margin() -> None:
    on, whole = stage("reservation", margin=0.5), stage("reservation", whole=1)
    for each in (on, whole):
        each.join("w", seqs=8, blocks=1000)
        for number in range(20):
            call(each, f"a{number}", "a", output=8000)
            each.finish(f"a{number}", "a", tokens=160)
        call(each, "b1", "b", output=8000)
    assert ledger(whole).live_blocks == (784 + 8000) // 16
    assert (784 + 160) // 16 < ledger(on).live_blocks < (784 + 600) // 16


@pytest.mark.parametrize("name", admission.names())
def test_bad_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        admission.load(name, nonsense=1.0)
    if name != "open":
        with pytest.raises(ValueError, match=name):
            admission.load(name, patience_seconds=-1.0)
