"""How well the workflow core foresees programs that it has not seen."""
