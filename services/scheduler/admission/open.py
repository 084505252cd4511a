"""Every program is let in."""


class Policy:
    """Without settings."""
