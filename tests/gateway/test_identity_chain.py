"""Programs recognised by what their calls say."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.identity.content_chain import ContentChain, Path, Place, end_of, path_of
from services.gateway.identity.memory import TenantMemory

LONG = 40


def hashed(text: str) -> int:
    return random.Random(text).getrandbits(63) + 1


def prompt(*messages: tuple[str, str], tokens: int = LONG) -> Path:
    """Of roles and texts."""
    roles = "".join(role for role, _ in messages)
    return path_of([hashed(text) for _, text in messages], [tokens] * len(messages), roles)


@dataclass
class Gateway:
    """The chain as a gateway uses it: who is not placed is a program of its own."""

    chain: ContentChain = field(default_factory=ContentChain)
    num_programs: int = 0

    def call(
        self,
        path: Path,
        output: str = "",
        *,
        tenant: str = "",
        tokens: int = LONG,
        handed_on: Sequence[str] = (),
        named: str = "",
    ) -> Place:
        """A call that gave this output; empty: it still runs. `named`: the program that its caller says."""
        place = None if named else self.chain.place(tenant, path)
        found = place or Place(named or f"program-{self.num_programs}", "", sure=True)
        self.num_programs += place is None
        opened = self.chain.begin(tenant, path, found.program_id, found.thread, placed=place is not None)
        if output:
            self.chain.end(
                opened,
                [end_of(opened.prompt, [hashed(output)])],
                hashed(output),
                tokens,
                [hashed(text) for text in handed_on],
            )
        return found


def test_a_prompt_that_extends_prompt_and_output_goes_on() -> None:
    gateway = Gateway()
    first = gateway.call(prompt(("s", "be good"), ("u", "task")), "plan")
    second = gateway.call(prompt(("s", "be good"), ("u", "task"), ("a", "plan"), ("o", "result")), "done")
    third = gateway.call(
        prompt(("s", "be good"), ("u", "task"), ("a", "plan"), ("o", "result"), ("a", "done"), ("u", "thanks"))
    )
    assert first == second == third


def test_short_outputs_go_on_too() -> None:
    gateway = Gateway()
    first = gateway.call(prompt(("u", "task"), tokens=1), "ok", tokens=1)
    assert gateway.call(prompt(("u", "task"), ("a", "ok"), ("u", "go"), tokens=1)) == first


def test_a_clock_in_the_system_prompt_and_other_tools_break_nothing() -> None:
    gateway = Gateway()
    first = gateway.call(prompt(("t", "tools"), ("s", "it is 10:00"), ("u", "task")), "plan")
    assert gateway.call(prompt(("s", "it is 10:01"), ("u", "task"), ("a", "plan"), ("u", "go"))) == first


def test_what_prompts_share_at_their_beginning_merges_nothing() -> None:
    gateway = Gateway()
    shared = [("t", "tools"), ("s", "be good"), ("u", "example"), ("a", "example's answer")]
    places = [gateway.call(prompt(*shared, ("u", f"task {number % 2}")), f"plan {number}") for number in range(4)]
    assert len({place.program_id for place in places}) == 4


def test_the_same_task_at_the_same_time_is_as_many_programs() -> None:
    gateway = Gateway()
    assert gateway.call(prompt(("u", "task"))) != gateway.call(prompt(("u", "task")))


def test_programs_that_say_the_same_are_kept_apart_with_low_confidence() -> None:
    gateway = Gateway()
    firsts = [gateway.call(prompt(("u", "task")), "plan").program_id for _ in range(3)]
    nexts = [gateway.call(prompt(("u", "task"), ("a", "plan"), ("o", "result"))) for _ in range(3)]
    assert sorted(place.program_id for place in nexts) == sorted(firsts)
    assert [place.sure for place in nexts] == [False, False, True]


def test_a_twin_is_told_by_its_frame() -> None:
    gateway = Gateway()
    one, two = (gateway.call(prompt(("s", frame), ("u", "task")), "plan") for frame in ("one", "two"))
    after = [("u", "task"), ("a", "plan"), ("u", "go")]
    assert gateway.call(prompt(("s", "one"), *after)) == one
    assert gateway.call(prompt(("s", "two"), *after)) == two


def test_forks_are_threads_of_one_program() -> None:
    gateway = Gateway()
    gateway.call(prompt(("u", "task")), "plan")
    forks = [gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", part)), f"did {part}") for part in "xyz"]
    assert {fork.program_id for fork in forks} == {"program-0"}
    assert len({fork.thread for fork in forks}) == 3
    for fork, part in zip(forks, "xyz", strict=True):
        on = gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", part), ("a", f"did {part}"), ("u", "more")))
        assert on == fork


def test_of_several_answers_to_one_prompt_only_the_first_that_is_gone_on_from_keeps_its_thread() -> None:
    chain = ContentChain()
    asked, answers = prompt(("u", "task")), ("one", "two")
    opened = chain.begin("", asked, "p", "", placed=False)
    for answer in answers:
        chain.end(opened, [end_of(asked.ends[-1], [hashed(answer)])], hashed(answer), LONG)
    places: list[Place | None] = []
    for answer in (*answers, *answers):
        path = prompt(("u", "task"), ("a", answer), ("u", f"after {answer}"))
        places.append(place := chain.place("", path))
        assert place is not None
        chain.begin("", path, place.program_id, place.thread, placed=True)
    first, second, first_again, second_again = places
    assert first == first_again == Place("p", "", sure=True)
    assert second == second_again != first


def test_the_same_prompt_again_is_the_same_thread() -> None:
    gateway = Gateway()
    gateway.call(prompt(("u", "task")), "plan")
    path = prompt(("u", "task"), ("a", "plan"), ("u", "go"))
    assert gateway.call(path) == gateway.call(path, "went")


def test_of_several_programs_that_went_on_the_same_prompt_again_is_the_one_that_asked_it() -> None:
    gateway = Gateway()
    for _ in range(2):
        gateway.call(prompt(("u", "task")), "plan")
    after = [("u", "task"), ("a", "plan")]
    one, two = (gateway.call(prompt(*after, ("u", text))) for text in ("one", "two"))
    assert gateway.call(prompt(*after, ("u", "one"))).program_id == one.program_id
    assert gateway.call(prompt(*after, ("u", "two"))).program_id == two.program_id


def test_a_fork_of_one_of_several_programs_that_went_on_is_nobodys() -> None:
    gateway = Gateway()
    for _ in range(2):
        gateway.call(prompt(("u", "task")), "plan")
    forks = [gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", text))).program_id for text in ("1", "2", "3")]
    assert forks == ["program-1", "program-0", "program-2"]


def test_what_callers_name_is_evidence_for_what_they_do_not() -> None:
    gateway = Gateway()
    gateway.call(prompt(("u", "task")), "plan", named="p")
    gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", "go")), "thoughts and more", named="p")
    on = gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", "go"), ("a", "more"), ("u", "on")))
    assert (on.program_id, on.thread) == ("p", "")


def test_a_join_belongs_to_the_one_program_that_said_it() -> None:
    gateway = Gateway()
    first = gateway.call(prompt(("u", "task")), "a long report")
    joined = gateway.call(prompt(("s", "judge"), ("u", "a long report")), "good")
    assert joined.program_id == first.program_id
    assert joined.thread != first.thread
    assert not joined.sure
    on = gateway.call(prompt(("s", "judge"), ("u", "a long report"), ("a", "good"), ("u", "sure?")))
    assert on == joined._replace(sure=True)


def test_short_outputs_and_those_of_several_programs_join_nothing() -> None:
    gateway = Gateway()
    gateway.call(prompt(("u", "task 1")), "ok", tokens=2)
    for number in (2, 3):
        gateway.call(prompt(("u", f"task {number}")), "a long report")
    others = {gateway.call(prompt(("u", text), ("u", "x"))).program_id for text in ("ok", "a long report")}
    assert others == {"program-3", "program-4"}


def test_outputs_of_two_programs_in_one_prompt_join_neither() -> None:
    gateway = Gateway()
    for number in (1, 2):
        gateway.call(prompt(("u", f"task {number}")), f"report {number}")
    assert gateway.call(prompt(("u", "report 1"), ("u", "report 2"))).program_id == "program-2"


def test_a_task_that_was_handed_to_a_tool_is_found_in_the_agent_that_gets_it() -> None:
    gateway = Gateway()
    first = gateway.call(prompt(("u", "task")), "delegate", handed_on=["a long task"])
    assert gateway.call(prompt(("s", "worker"), ("u", "a long task"))).program_id == first.program_id
    assert gateway.call(prompt(("u", "read"), ("o", "a long task"))).program_id != first.program_id


def test_a_history_that_was_cut_is_still_its_program() -> None:
    gateway = Gateway()
    first = gateway.call(prompt(("u", "task")), "a long plan")
    assert gateway.call(prompt(("a", "a long plan"), ("u", "go"))).program_id == first.program_id


def test_an_output_that_comes_back_changed_goes_on_with_low_confidence() -> None:
    gateway = Gateway()
    first = gateway.call(prompt(("u", "task")), "thoughts and plan")
    second = gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", "go")), "thoughts and more")
    assert second == first._replace(sure=False)
    third = gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", "go"), ("a", "more"), ("u", "on")))
    assert third == first


def test_a_changed_output_of_one_of_several_programs_is_nobodys() -> None:
    gateway = Gateway()
    for _ in range(2):
        gateway.call(prompt(("u", "task")), "thoughts and plan")
    assert gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", "go"))).program_id == "program-2"


def test_nobody_goes_on_from_a_call_that_gave_nothing_yet() -> None:
    gateway = Gateway()
    gateway.call(prompt(("u", "task")))
    assert gateway.call(prompt(("u", "task"), ("a", "plan"), ("u", "go"))).program_id == "program-1"


def test_tenants_are_strangers() -> None:
    gateway = Gateway()
    gateway.call(prompt(("u", "task")), "a long plan", tenant="one")
    path = prompt(("u", "task"), ("a", "a long plan"), ("u", "go"))
    assert gateway.call(path, tenant="two").program_id == "program-1"


def test_it_remembers_within_its_bound_and_forgets_the_oldest() -> None:
    gateway = Gateway(ContentChain(most_points=300))
    for number in range(1000):
        gateway.call(prompt(("u", f"task {number}")), f"plan {number}")
    assert len(gateway.chain) <= 300
    last = gateway.call(prompt(("u", "task 999"), ("a", "plan 999"), ("u", "go")))
    assert last.program_id == "program-999"
    assert gateway.call(prompt(("u", "task 0"), ("a", "plan 0"), ("u", "go"))).program_id == "program-1000"


def test_who_says_much_forgets_its_own() -> None:
    memory: TenantMemory[int] = TenantMemory(100)
    for number in range(10):
        memory.put("quiet", number, number)
    for number in range(1000):
        memory.put("loud", number, number)
    assert [memory.get("quiet", number) for number in range(10)] == list(range(10))
    assert memory.get("loud", 0) is None
    assert memory.get("loud", 999) == 999
    assert len(memory) == 100


def test_who_has_less_than_its_share_forgets_nothing_however_many_tenants_there_are() -> None:
    memory: TenantMemory[int] = TenantMemory(3_000)
    for number in range(2_000):
        memory.put("loud", number, number)
    for tenant in range(1_000):
        memory.put(f"{tenant}", 0, tenant)
    for tenant in range(1_000, 1_500):
        memory.put(f"{tenant}", 0, tenant)
    assert all(memory.get(f"{tenant}", 0) == tenant for tenant in range(1_500))
    assert [memory.get("loud", number) for number in (499, 500, 1_999)] == [None, 500, 1_999]
    assert len(memory) == 3_000


@st.composite
def turns(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Which program makes its next call, from which of its calls, after which other call's end (by number)."""
    count = draw(st.integers(1, 40))
    return [(draw(st.integers(0, 4)), draw(st.integers(0, 5)), draw(st.integers(0, 2))) for _ in range(count)]


@settings(max_examples=300)
@given(turns=turns(), few_outputs=st.booleans(), shared_tokens=st.sampled_from([2, LONG]))
def test_programs_of_distinct_tasks_are_never_merged_nor_split(
    turns: list[tuple[int, int, int]], few_outputs: bool, shared_tokens: int
) -> None:
    """Random interleavings and forks; outputs and tools' results that programs share, system prompts that all share."""
    gateway = Gateway()
    calls: dict[int, list[list[tuple[str, str]]]] = {}
    found: dict[int, set[str]] = {}
    for number, (program, parent, result) in enumerate(turns):
        known = calls.setdefault(program, [])
        if known:
            messages = [*known[parent % len(known)], ("o", f"result {result}")]
        else:
            messages = [("t", "tools"), ("s", "be good"), ("u", f"task {program}")]
        output = f"output {number % 2}" if few_outputs else f"output {number}"
        place = gateway.call(prompt(*messages, tokens=shared_tokens), output, tokens=shared_tokens)
        found.setdefault(program, set()).add(place.program_id)
        known.append([*messages, ("a", output)])
    assert all(len(ids) == 1 for ids in found.values())
    assert len({program_id for ids in found.values() for program_id in ids}) == len(found)


@pytest.mark.parametrize("copies", [2, 30])
def test_copies_of_one_program_in_lockstep_stay_as_many_programs(copies: int) -> None:
    gateway = Gateway()
    history = [("u", "task")]
    for turn in range(5):
        ids = {gateway.call(prompt(*history), f"output {turn}").program_id for _ in range(copies)}
        assert len(ids) == copies
        history = [*history, ("a", f"output {turn}"), ("o", f"result {turn}")]
    assert gateway.num_programs == copies
