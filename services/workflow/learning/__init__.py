"""What is learned of calls and programs: laws of lengths and times, conditional on what is known when asked.

A quantity's values fall into cells: those of all, of a kind of programs, of a role in it, and of the role under one
thing known or another (the tools asked for, the last output's length, the program's own past). Each cell knows the
chance that a value ends in a stretch given that it got there, with the cell above as its prior. What the cells of one
moment say is put together with weights that are learned as the truth comes out (logistic mixing, as in PAQ), so a cell
that tells nothing costs nothing. Bounded, deterministic, and decaying: a cell that is full forgets half.
"""

from services.workflow.learning.quantity import Quantity, Question
from services.workflow.learning.scale import SECONDS, TOKENS, Scale
from services.workflow.learning.speeds import Speeds

__all__ = ["SECONDS", "TOKENS", "Quantity", "Question", "Scale", "Speeds"]
