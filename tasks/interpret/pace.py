"""Token buckets: as many requests and tokens a minute as the server allows.

A bucket fills evenly and holds a tenth of what a minute brings, so that a minute never sees more than 1.1 times its
limit. A request that needs more than a bucket holds goes when it is full, and those after it wait for what it owes.
"""

from tasks.interpret.ledger import Clock, Ledger

HELD = 0.1


class Pace:
    """The limits of a run, shared by its processes through the ledger."""

    def __init__(self, ledger: Ledger, requests_per_minute: int | None, tokens_per_minute: int | None, clock: Clock):
        self.ledger, self.clock = ledger, clock
        limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}

    async def wait(self, tokens: int) -> None:
        """Return once a request that takes so many tokens may be sent."""
        while self.limits and (seconds := self._take({"requests": 1, "tokens": tokens})) > 0:
            await self.clock.sleep(seconds)

    def _take(self, needs: dict[str, int]) -> float:
        """0 when it was taken out of every bucket; else nothing was, and this is how many seconds are missing."""
        with self.ledger.numbers() as numbers:
            now = self.clock.now()
            passed = max(now - numbers.get("filled at", now), 0)
            numbers["filled at"] = now
            waits = [0.0]
            for name, limit in self.limits.items():
                size = max(HELD * limit, 1)
                level = min(numbers.get(f"{name} left", size) + passed * limit / 60, size)
                numbers[f"{name} left"] = level
                waits.append((min(needs[name], size) - level) * 60 / limit)
            if max(waits) > 1e-6:
                return max(waits)
            for name in self.limits:
                numbers[f"{name} left"] -= needs[name]
            return 0
