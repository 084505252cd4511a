"""Every policy over recorded and generated workloads, at several loads, beside what no policy can beat.

One *cell* is one simulation: a workload (`workloads.py`), a load in parts of saturation, a contestant
(`contestants.py`) and a seed. All contestants of a workload, load and seed get the same programs at the same times, so
they are compared in pairs (`comparison.py`). Results are kept by content under `build/policies` (`cache.py`): a run
that was broken off goes on where it was, and what nothing changed is not run again.
"""
