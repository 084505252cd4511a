"""What is known when a quantity is asked for, as cells: what each of them is conditional on. General ones learn fast,
special ones tell more; which are worth hearing is learned (services/workflow/learning)."""

from math import log2

from services.common.laws import Key
from services.workflow.events import CallBegan
from services.workflow.records import Call, Habit, Program, Thread

NUM_OUTPUT = 10
NUM_REMAINING = 8
NUM_RETURNS = 9
_HIGHEST = 1e18


def level(value: float, per_octave: float = 1.0) -> int:
    """A logarithmic level of a value from 0 on. Of one that is beyond all sense, or none, there is one too."""
    return int(log2(1.0 + min(max(0.0, value), _HIGHEST)) * per_octave + 0.5)


def span(seconds: float, per_octave: float = 1.0) -> int:
    """The same of a time, which may be milliseconds; -1: there was none."""
    return level(seconds * 100.0, per_octave) if seconds >= 0 else -1


def habit(of: Habit) -> int:
    return -1 if of.num < 2 else int(of.mean * 2.0)


def roles(program: Program, call: Call) -> list[Key]:
    """Its program's kinds, and its role in the last of them, by one model. All cells of a role name it, so it is one
    string, whose hash is worked out once."""
    name = "\x1f".join((call.role, call.model, *map(str, program.kinds[-1])))
    return [*program.kinds, ("role", name)]


def output_cells(program: Program, call: Call, event: CallBegan, last: Call | None, role: Key) -> list[Key]:
    """Of the length of a call's output, when it begins."""
    thread = call.thread
    letter = event.roles[-1:]
    grown = level(call.uncached_tokens)
    turn, prompt = level(call.turn, 2.0), level(call.prompt_tokens, 2.0)
    before = level(last.output_tokens, 2.0) if last else -1
    tools = last.tools if last else ""
    messages = event.messages
    newest = messages[len(messages) - 1] if len(messages) else 0
    return [
        ("turn", turn, *role),
        ("prompt", prompt, *role),
        ("before", before, *role),
        ("tools", tools, *role),
        ("habit", habit(thread.outputs), *role),
        ("own", program.program_id, *role),
        ("tools grown", tools, letter, grown, *role),
        ("before grown", before // 2, grown, *role),
        ("step", event.step, call.turn, *role),
        ("newest", newest, *role),
    ]


def remaining_cells(program: Program, call: Call, event: CallBegan, last: Call | None, role: Key) -> list[Key]:
    """Of what remains of a program, when a call of it begins. The last one may be of this program alone."""
    num = program.num_live + program.num_ended
    turn, prompt = level(num, 2.0), level(call.prompt_tokens, 2.0)
    attained = span(program.attained_seconds, 1.0)
    pace = span(program.attained_seconds / num, 1.0) if num else -1
    tools = last.tools if last else ""
    return [
        ("turn", turn, *role),
        ("attained", attained, *role),
        ("pace", pace, turn // 2, *role),
        ("tools", tools, *role),
        ("before", level(last.output_tokens) if last else -1, turn // 2, *role),
        ("turn prompt", turn // 2, prompt // 2, *role),
        ("step", event.step, min(call.turn, 64), *role),
        ("task", program.task, turn, *role),
    ]


def returns_cells(program: Program, thread: Thread, last: Call, role: Key) -> list[Key]:
    """Of the time to a thread's next call, when its last one has ended."""
    output, tools = level(last.output_tokens, 2.0), last.tools
    gap = span(thread.returned_after, 1.0)
    return [
        ("tools", tools, *role),
        ("tools output", tools, output, *role),
        ("gap", gap, *role),
        ("habit", habit(thread.gaps), *role),
        ("own", program.program_id, *role),
        ("turn", level(last.turn, 2.0), *role),
        ("own tools", program.program_id, tools, *role),
        ("output gap", output // 2, gap // 2, *role),
        ("step", last.turn, program.task, *role),
    ]
