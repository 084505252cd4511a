"""Legato's services. Each runs as `python -m services.<name>`; `python -m services` runs all of them in one process."""
