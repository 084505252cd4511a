"""At which message a prompt departs from the one that it should extend."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.workflow.events import CallBegan, CallEnded
from services.workflow.explain import Drift, Explainer
from services.workflow.structure import Structure

TOKENS = {"t": 300, "s": 500, "u": 40, "a": 80, "o": 120}
"""Of a message, by its role."""


class Told:
    """An explainer, told of one program's calls. A message is its role and a name; equal ones are equal content."""

    def __init__(self) -> None:
        self._explainer = Explainer(Structure())
        self._now = 0.0
        self._count = 0

    def call(
        self,
        prompt: str,
        output: str = "",
        *,
        agent: str = "coder",
        thread: str = "",
        tokens: dict[str, int] | None = None,
    ) -> str:
        """Messages are parted by blanks; its id."""
        call_id = f"c{self._count}"
        self._count += 1
        messages = prompt.split()
        lengths = [(tokens or {}).get(message, TOKENS[message[0]]) for message in messages]
        self._tell(call_id, [content(message) for message in messages], lengths, prompt, agent, thread)
        self._now += 1
        event = CallEnded("p", call_id, True, sum(lengths), 0, 80, 0.0, content(output) if output else 0)
        self._explainer.handle(event, self._now)
        self._now += 1
        return call_id

    def _tell(
        self, call_id: str, hashes: Sequence[int], lengths: Sequence[int], prompt: str, agent: str, thread: str
    ) -> None:
        roles = "".join(message[0] for message in prompt.split())
        event = CallBegan(
            *("p", call_id, sum(lengths)),
            agent=agent,
            thread=thread,
            messages=hashes,
            message_tokens=lengths,
            roles=roles,
        )
        self._explainer.handle(event, self._now)
        self._explainer.check()

    def drift(self, call_id: str) -> Drift | None:
        explanation = self._explainer.explain("p")
        assert explanation is not None
        (found,) = [call.drift for call in explanation.calls if call.began.call_id == call_id]
        return found


def content(message: str) -> int:
    """A role is no part of it."""
    return int.from_bytes(message[1:].encode()[:8].ljust(8, b"."))


def test_a_prompt_that_extends_the_one_before_does_not_drift() -> None:
    told = Told()
    told.call("t1 s1 uask", "aone")
    told.call("t1 s1 uask aone oresult", "atwo")
    assert told.drift(told.call("t1 s1 uask aone oresult atwo omore")) is None


def test_a_date_in_a_system_prompt_costs_all_behind_it() -> None:
    told = Told()
    before = told.call("t1 smonday uask", "aone")
    assert told.drift(told.call("t1 stuesday uask aone oresult")) == Drift(before, 1, "s", "edited", 500 + 40 + 80)


def test_a_date_in_a_system_prompt_is_found_even_where_nothing_else_comes_again() -> None:
    told = Told()
    before = told.call("smonday uone", "aone")
    assert told.drift(told.call("stuesday utwo", tokens={"stuesday": 505})) == Drift(before, 0, "s", "edited", 500)


def test_tools_that_changed_or_were_reordered_are_an_edited_message() -> None:
    told = Told()
    before = told.call("tab s1 uask", "aone")
    assert told.drift(told.call("tba s1 uask aone oresult")) == Drift(before, 0, "t", "edited", 300 + 500 + 40 + 80)


def test_an_output_that_comes_back_otherwise_was_stripped() -> None:
    told = Told()
    before = told.call("s1 uask", "athought")
    stripped = told.call("s1 uask ashort oresult", "amore", tokens={"ashort": 30})
    assert told.drift(stripped) == Drift(before, 2, "a", "stripped", 30)
    assert told.drift(told.call("s1 uask ashort oresult amore uthanks", tokens={"ashort": 30})) is None


def test_an_output_that_is_stripped_turns_later_costs_what_came_since() -> None:
    told = Told()
    told.call("s1 uask", "athought")
    before = told.call("s1 uask athought oone", "atwo")
    assert told.drift(told.call("s1 uask ashort oone atwo othree")) == Drift(before, 2, "a", "stripped", 120 + 80)


def test_messages_in_another_order_are_reordered() -> None:
    told = Told()
    before = told.call("s1 uask aone ox oy", "atwo")
    assert told.drift(told.call("s1 uask aone oy ox atwo u2")) == Drift(before, 3, "o", "reordered", 120 + 120 + 80)


def test_a_history_that_lost_its_beginning_has_something_removed() -> None:
    told = Told()
    before = told.call("s1 uone aone utwo", "atwo")
    assert told.drift(told.call("s1 utwo atwo uthree")) == Drift(before, 1, "u", "removed", 40 + 80)


def test_a_message_in_between_was_inserted() -> None:
    told = Told()
    before = told.call("s1 uone", "aone")
    assert told.drift(told.call("s1 scontext uone aone utwo")) == Drift(before, 1, "s", "inserted", 40 + 80)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("s1 uone", "s1 utwo"),
        ("s1 udoc1 uquestion", "s1 udoc2 uquestion"),
        ("s1 uone aone utwo", "s1 uone aone uother"),
        ("s1 uone aone utwo", "s1 uone"),
        ("s1 uone", "s1 uone"),
        ("s1 uone", ""),
        ("", "s1 uone"),
    ],
)
def test_a_prompt_that_asks_something_else_does_not_drift(first: str, second: str) -> None:
    told = Told()
    told.call(first, "aout")
    assert told.drift(told.call(second)) is None


def test_agents_and_threads_have_prompts_of_their_own() -> None:
    told = Told()
    told.call("smonday uask", "aone", agent="coder")
    told.call("smonday uask", "aone", agent="coder", thread="branch")
    assert told.drift(told.call("stuesday uask aone", agent="critic")) is None


def test_nameless_agents_with_prompts_of_like_length_do_not_drift() -> None:
    told = Told()
    told.call("scoder uone", "aone", agent="")
    assert told.drift(told.call("scritic utwo", agent="")) is None


def test_of_several_samples_any_may_be_the_one_that_comes_back() -> None:
    told = Told()
    told.call("s1 uask", "aone")
    told.call("s1 uask", "atwo")
    assert told.drift(told.call("s1 uask aone unext")) is None


def test_branches_extend_what_they_branched_from() -> None:
    told = Told()
    told.call("s1 uask", "aone")
    told.call("s1 uask aone ux", "ax")
    told.call("s1 uask aone uy", "ay")
    assert told.drift(told.call("s1 uask aone ux ax umore")) is None
    assert told.drift(told.call("s1 uask aone uy ay umore")) is None


def test_what_is_less_than_a_block_is_not_worth_a_word() -> None:
    told = Told()
    told.call("s1 uask", "athought")
    assert told.drift(told.call("s1 uask ashort", tokens={"ashort": 9})) is None


def test_a_drift_costs_no_more_than_the_call_had_to_compute() -> None:
    on = Explainer(Structure())
    for call_id, system, cached in (("a", 1, 0), ("b", 2, 500)):
        on.handle(
            CallBegan("p", call_id, 540, agent="x", messages=(system, 3), message_tokens=(500, 40), roles="su"), 0
        )
        on.handle(CallEnded("p", call_id, True, 540, cached, 5, 0.0, 9), 1)
    explanation = on.explain("p")
    assert explanation is not None
    assert explanation.calls[1].drift == Drift("a", 0, "s", "edited", 40)


@given(st.integers(3, 12), st.data())
def test_a_planted_change_is_found_where_it_is(num_turns: int, data: st.DataObject) -> None:
    told = Told()
    messages = ["s0"] + [f"{'au'[turn % 2]}{turn}" for turn in range(1, 2 * num_turns)]
    for end in range(2, len(messages), 2):
        told.call(" ".join(messages[:end]), messages[end])
    before = f"c{num_turns - 2}"
    kind = data.draw(st.sampled_from(["edited", "removed", "inserted", "reordered"]))
    at = data.draw(st.integers(1, len(messages) - 4 if kind in ("removed", "reordered") else len(messages) - 3))
    match kind:
        case "edited":
            messages[at] = f"{messages[at][0]}new"
        case "removed":
            del messages[at]
        case "inserted":
            messages.insert(at, "unew")
        case _:
            messages[at : at + 2] = reversed(messages[at : at + 2])
    drift = told.drift(told.call(" ".join([*messages, "ulast"])))
    assert drift is not None
    assert (drift.call_id, drift.message) == (before, at)
    assert drift.kind == ("stripped" if kind == "edited" and messages[at][0] == "a" else kind)
    assert drift.lost_tokens <= sum(TOKENS[message[0]] for message in messages[at:])
