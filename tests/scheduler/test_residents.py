"""In whatever order things happen, the residents' ledger is right and the lobby lets everyone in."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from services.scheduler import admission
from tests.scheduler.stage import MODEL, Stage
from tests.scheduler.test_machine import PROGRAMS, Traffic

TIGHT: dict[str, dict[str, float]] = {
    **{name: {} for name in admission.names()},
    "concur": {"programs": 1, "period_seconds": 1},
    "continuum": {"eta": 5.0},
    "program_cap": {"programs": 1},
    "working_set": {"refills": 1000},
}
"""So tight, or with contexts kept so long, that programs wait."""


class Crowd(Traffic):
    """As there, with threads, and with programs that must wait for room."""

    @initialize(name=st.sampled_from(list(TIGHT)), lookahead=st.integers(0, 2))
    def begin(self, name: str, lookahead: int) -> None:
        self.stage = Stage(
            admission=name, admission_params=TIGHT[name], lookahead_calls=lookahead, scan_limit=4, max_queued_calls=12
        )
        self.stage.join("a", seqs=2, blocks=40)

    @rule(
        program=PROGRAMS,
        prompt=st.integers(1, 900),
        family=st.integers(0, 2),
        shared=st.integers(0, 60),
        thread=st.sampled_from(["", "x", "y"]),
        timeout=st.sampled_from([0.0, 0.0, 7.0]),
        link=st.integers(1, 2),
    )
    def submit_in_thread(
        self, program: str, prompt: int, family: int, shared: int, thread: str, timeout: float, link: int
    ) -> None:
        self.next_call += 1
        key = (program, f"c{self.next_call}")
        self.open[key], self.links[key] = 0, link
        blocks = [100 * family + i for i in range(shared)]
        self.stage.submit(key[1], program, prompt=prompt, blocks=blocks, timeout=timeout, link=link, thread=thread)

    @invariant()
    def nobody_waits_while_a_worker_rests(self) -> None:
        if not hasattr(self, "stage") or not self.stage.core.queue.lobby(MODEL, 1):
            return
        now, residents = self.stage.clock.now(), self.stage.core.residents
        for ledger in residents.ledgers():
            rests = ledger.open and not ledger.num_live
            patience = residents.policy.patience_seconds if ledger.programs else 0.0
            assert not rests or now < ledger.rested_since + patience, f"{ledger.worker_id} rests while programs wait"


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=100, stateful_step_count=40)
