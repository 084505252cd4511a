"""Simulator: the services' cores on a virtual clock."""
