"""What prefill costs this engine: a + b u + c u (p + u / 2) seconds for u tokens after p cached.

The coefficients are fitted to the steps that the engine runs (recursive least squares with
forgetting), and sent with every lookup: kvtierd then offers only what arrives sooner than it can be
computed. Until enough steps were seen they are zero, which means: not known.
"""
from __future__ import annotations

FORGETTING = 0.98
STEPS_MIN = 8
TOKENS_MIN = 16
STEP_SECONDS_MAX = 600.0
_UNCERTAINTY = 1e6
# Features are scaled to about 1, so that three unknowns of very different size can be fitted.
_SCALES = (1.0, 1e3, 1e6)


class PrefillCost:
    """Fitted online; one step a call. Not thread-safe."""

    def __init__(self) -> None:
        self._weights = [0.0, 0.0, 0.0]
        self._covariance = [[_UNCERTAINTY if i == j else 0.0 for j in range(3)] for i in range(3)]
        self._steps = 0

    def add_step(self, seconds: float, chunks: list[tuple[int, int]]) -> None:
        """A step took `seconds`; chunks: (tokens before, tokens computed) of each request in it."""
        tokens = sum(count for _, count in chunks)
        if tokens < TOKENS_MIN or not 0 < seconds < STEP_SECONDS_MAX:
            return
        attention = sum(count * (before + count / 2) for before, count in chunks)
        self._fit([1.0, tokens / _SCALES[1], attention / _SCALES[2]], seconds)
        self._steps += 1

    def _fit(self, x: list[float], y: float) -> None:
        gain = [sum(row[j] * x[j] for j in range(3)) for row in self._covariance]
        scale = FORGETTING + sum(x[i] * gain[i] for i in range(3))
        error = y - sum(w * own for w, own in zip(self._weights, x))
        self._weights = [w + error * g / scale for w, g in zip(self._weights, gain)]
        self._covariance = [[min((self._covariance[i][j] - gain[i] * gain[j] / scale) / FORGETTING,
                                 _UNCERTAINTY) for j in range(3)] for i in range(3)]

    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c) in seconds a step, a token and a token squared; zeros while not known."""
        if self._steps < STEPS_MIN:
            return (0.0, 0.0, 0.0)
        a, b, c = (max(0.0, weight) / scale for weight, scale in zip(self._weights, _SCALES))
        return (a, b, c)

    def seconds(self, before: int, count: int) -> float:
        """The estimate for `count` tokens after `before`; 0 while not known."""
        a, b, c = self.coefficients()
        return a + b * count + c * count * (before + count / 2) if count > 0 else 0.0


class StepClock:
    """How long a step takes. Steps follow each other while there is work: their distance is their
    time."""

    def __init__(self, cost: PrefillCost):
        self.seconds = 0.0      # of late
        self._cost = cost
        self._began: tuple[float, list[tuple[int, int]]] | None = None

    def step(self, now: float, chunks: list[tuple[int, int]]) -> None:
        """One begins now, and computes these: (tokens before, tokens)."""
        if self._began is not None and self._began[1]:
            seconds = now - self._began[0]
            self._cost.add_step(seconds, self._began[1])
            self.seconds += 0.1 * (seconds - self.seconds)
        self._began = (now, chunks)

    def idle(self) -> None:
        """No request is left: the time until the next step says nothing."""
        self._began = None
