"""The mean over time of something that changes in jumps."""


class Average:
    """Told of each new value."""

    def __init__(self, now: float) -> None:
        self.value = 0.0
        self.peak = 0.0
        self._began = self._since = now
        self._area = 0.0

    def set(self, value: float, now: float) -> None:
        """It is so from now on."""
        if value != self.value:
            self._area += self.value * (now - self._since)
            self._since = now
            self.value = value
            self.peak = max(self.peak, value)

    def add(self, change: float, now: float) -> None:
        """It is so much more from now on."""
        self.set(self.value + change, now)

    def mean(self, now: float) -> float:
        """Until now."""
        seconds = now - self._began
        return (self._area + self.value * (now - self._since)) / seconds if seconds else self.value

    def total(self, now: float) -> float:
        """Its integral over time until now."""
        return self._area + self.value * (now - self._since)
