"""The workflow service: it learns from the call log what programs do next."""
