"""The real stack, started as a user starts it."""
