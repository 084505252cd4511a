"""Faults over every service of a real cluster while programs run, drawn from a seed; `python -m bench.chaos`."""
