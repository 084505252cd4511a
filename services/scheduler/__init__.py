"""The scheduler: which call runs next, and where."""
