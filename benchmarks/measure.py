"""Timing that survives a busy machine: every contestant in every round, CPU time, medians of ratios within rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Play = Callable[[], object]

#: CPU time of this process: what other processes do costs it little. One thread is set in conftest.py.
clock = time.process_time


@dataclass(frozen=True)
class Rounds:
    """Seconds per play, one for every round, of our contestant and its rivals."""

    ours: list[float]
    rivals: dict[str, list[float]]

    def milliseconds(self, name: str | None = None) -> float:
        """The median of one contestant; ours without a name."""
        return 1000 * median(self._of(name))

    def ratio(self, slow: str | None, fast: str | None) -> float:
        """How many times longer ``slow`` takes than ``fast`` (None is ours): the median over rounds."""
        return median(a / b for a, b in zip(self._of(slow), self._of(fast), strict=True))

    def _of(self, name: str | None) -> list[float]:
        return self.ours if name is None else self.rivals[name]


def interleave(benchmark: Any, ours: Play, rivals: Mapping[str, Play], *, rounds: int, least: float = 0.1) -> Rounds:
    """Let everyone play in each round, the rivals first, ours by way of pytest-benchmark.

    ``least``: CPU seconds for which each contestant plays again and again in a round.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    counts: list[int] = []

    def let_rivals_play() -> None:
        for name, play in rivals.items():
            start = clock()
            count = _play(play, least)
            times[name].append((clock() - start) / count)

    def block() -> None:
        counts.append(_play(ours, least))

    ours()
    benchmark.pedantic(block, setup=let_rivals_play, rounds=rounds)
    if benchmark.disabled:  # --benchmark-disable asks whether the suite runs, not how fast anything is
        return Rounds([least / counts[0]], times)
    spent = zip(benchmark.stats.stats.data, counts, strict=True)
    result = Rounds([seconds / count for seconds, count in spent], times)
    benchmark.extra_info["milliseconds a play"] = result.milliseconds()
    benchmark.extra_info["times ours"] = {name: result.ratio(name, None) for name in rivals}
    return result


def _play(play: Play, least: float) -> int:
    """Play until ``least`` CPU seconds have passed; how often that was."""
    end = clock() + least
    count = 0
    while count == 0 or clock() < end:
        play()
        count += 1
    return count
