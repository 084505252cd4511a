"""What programs are made of: which calls waited for which, which programs are of a kind, what graph a kind has."""

from services.workflow.structure.graph import Graph
from services.workflow.structure.seen import Key, Seen
from services.workflow.structure.structure import Structure

__all__ = ["Graph", "Key", "Seen", "Structure"]
