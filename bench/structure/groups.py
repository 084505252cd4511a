"""Groups: how well families agree with labels. Both are read as partitions of the same programs."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import log

from sim.trace import Program


@dataclass(frozen=True)
class Agreement:
    """Of families with labels."""

    programs: int
    labels: int
    families: int
    purity: float
    """Share of the programs that have the commonest label of their family."""
    inverse_purity: float
    """Share of the programs that are in the largest family of their label."""
    mutual_information: float
    """Normalised by the mean of both entropies."""


def label(program: Program) -> str:
    """The set, and the domain or task where its programs differ by it and the source says so."""
    match program.workload:
        case "tau2_sierra":
            return f"{program.workload}/{program.tenant}"
        case "tot_gpt4":
            return f"{program.workload}/{program.task}"
        case _:
            return program.workload


def agreement(pairs: Iterable[tuple[str, Hashable]]) -> Agreement:
    """Of (label, family) of each program."""
    families: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
    labels: defaultdict[str, Counter[Hashable]] = defaultdict(Counter)
    for name, family in pairs:
        families[family][name] += 1
        labels[name][family] += 1
    total = sum(counts.total() for counts in labels.values())
    shared = sum(
        count / total * log(count * total / (families[family].total() * counts.total()))
        for counts in labels.values()
        for family, count in counts.items()
    )
    entropies = _entropy(families, total) + _entropy(labels, total)
    return Agreement(
        total,
        len(labels),
        len(families),
        sum(max(counts.values()) for counts in families.values()) / total,
        sum(max(counts.values()) for counts in labels.values()) / total,
        2 * shared / entropies if entropies else 1.0,
    )


def _entropy(groups: Mapping[str, Counter[Hashable]] | Mapping[Hashable, Counter[str]], total: int) -> float:
    shares = [counts.total() / total for counts in groups.values()]
    return -sum(share * log(share) for share in shares)
