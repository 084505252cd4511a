"""Fits the simulator's cost model to running workers: twelve measured engine steps, a profile, its residuals."""
