"""What is kept of programs until somebody asks."""

from services.common.laws import Key
from services.workflow.explain import Explainer, Explanation
from services.workflow.recent import Kept, Recent, tell
from services.workflow.structure import Structure
from services.workflow.translation import event_of
from tests.workflow.log_entries import life

START = 1_700_000_000.0


def keep(recent: Recent, program_id: str, num_calls: int, kind: Key | None = None) -> None:
    """A whole program; `kind`: what is known of it while it lives."""
    for entry in life(program_id, num_calls, START):
        event = event_of(entry)
        assert event is not None
        recent.add(event, entry, None if entry.HasField("over") else kind)
        recent.check()


def explained(kept: Kept | None) -> Explanation:
    assert kept is not None
    explainer = Explainer(Structure())
    for entry in kept.entries():
        tell(explainer, entry)
    [program_id] = {entry.began.identity.program_id for entry in kept.entries() if entry.HasField("began")}
    explanation = explainer.explain(program_id)
    assert explanation is not None
    return kept.completed(explanation)


def test_a_program_is_kept_as_it_was_told() -> None:
    recent = Recent()
    keep(recent, "p", 2)
    keep(recent, "q", 1)
    kept = recent.of("p")
    assert kept is not None
    assert list(kept.entries()) == life("p", 2, START)


def test_a_program_keeps_the_kind_that_it_was_of_last() -> None:
    recent = Recent()
    keep(recent, "p", 1, ("", "family", "coder", 2))
    keep(recent, "q", 1, ("acme", "workflow", "review"))
    assert explained(recent.of("p")).workflow == "coder.2"
    assert explained(recent.of("q")).workflow == "review"


def test_the_program_not_heard_of_longest_is_forgotten_first() -> None:
    recent = Recent(max_programs=2)
    for program_id in ("a", "b", "a", "c"):
        keep(recent, program_id, 1)
    assert [recent.of(program_id) is None for program_id in "abc"] == [False, True, False]


def test_programs_are_forgotten_when_all_take_too_many_bytes() -> None:
    size = sum(entry.ByteSize() for entry in life("a", 3, START))
    recent = Recent(max_bytes=int(2.5 * size))
    for program_id in "abc":
        keep(recent, program_id, 3)
    assert [recent.of(program_id) is None for program_id in "abc"] == [True, False, False]


def test_of_a_long_program_the_newest_entries_are_kept_and_the_calls_before_counted() -> None:
    recent = Recent(max_bytes_per_program=sum(entry.ByteSize() for entry in life("p", 2, START)))
    keep(recent, "p", 10)
    explanation = explained(recent.of("p"))
    assert explanation.calls[-1].began.call_id == "c9"
    assert explanation.num_forgotten == 10 - len(explanation.calls) > 0
