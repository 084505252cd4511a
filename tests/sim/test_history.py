"""A program's call log says what a gateway would have seen, and no more."""

from services.worker.simulated.cost import load_profile
from services.workflow.events import CallBegan, CallEnded, ProgramOver, ToolRan
from sim.history import events_of, merged, times
from sim.trace import Call, Program, Segment

PROFILE = load_profile("llama3-8b@a100-tp1")
PROGRAM = Program(
    "p",
    "set",
    (Segment("system", 50), Segment("task", 20), Segment("thought", 8), Segment("ask", 5), Segment("result", 30)),
    (
        Call(0, "a", 0, (), (0, 1), 10, output=(2, 3), tools=("bash",), tool_s=(2.0,)),
        Call(1, "a", 0, (0,), (0, 1, 2, 3, 4), 10, wait_s=0.5),
    ),
    tenant="acme",
)


def test_a_call_begins_when_its_parents_tools_have_run():
    (_, ended), (began, over) = times(PROGRAM, PROFILE, 100.0)
    assert ended > 100.0
    assert began == ended + 2.0
    assert over > began


def test_what_is_told_is_in_order_of_time_and_ends_with_the_program():
    events = events_of(PROGRAM, PROFILE, 100.0)
    assert [type(event) for _, event in events] == [
        CallBegan,
        CallEnded,
        ToolRan,
        CallBegan,
        CallEnded,
        ProgramOver,
    ]
    assert [when for when, _ in events] == sorted(when for when, _ in events)


def test_an_output_of_several_segments_is_one_message_of_later_prompts():
    events = [event for _, event in events_of(PROGRAM, PROFILE, 0.0)]
    first, ended, _, second = events[:4]
    assert isinstance(first, CallBegan)
    assert isinstance(ended, CallEnded)
    assert isinstance(second, CallBegan)
    assert list(second.messages) == [*first.messages, ended.output, second.messages[-1]]
    assert list(second.message_tokens) == [50, 20, 13, 30]
    assert second.roles == "suau"


def test_the_truth_is_told_only_if_it_is_declared():
    hidden = [event for _, event in events_of(PROGRAM, PROFILE, 0.0, agents=False) if isinstance(event, CallBegan)]
    told = [event for _, event in events_of(PROGRAM, PROFILE, 0.0, declared=True) if isinstance(event, CallBegan)]
    assert {(event.parents, event.thread, event.agent, event.workflow) for event in hidden} == {((), "", "", "")}
    assert (told[1].parents, told[1].thread, told[1].agent, told[1].workflow) == (("0",), "0/a", "a", "set")


def test_logs_of_several_programs_become_one_in_order_of_time():
    one = merged([events_of(PROGRAM, PROFILE, start) for start in (3.0, 1.0, 2.0)])
    assert [when for when, _ in one] == sorted(when for when, _ in one)
    assert len(one) == 18
