"""Latency: a timer, and a benchmark that compares candidates with a reference."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "LatencyBenchmark": "benchmark",
        "LatencyReport": "benchmark",
        "Reference": "reference",
        "Settings": "timer",
    },
)
