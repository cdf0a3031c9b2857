"""How time is measured: one timer, and the benchmark against a reference."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "LatencyBenchmark": "benchmark",
        "LatencyReport": "benchmark",
        "Settings": "timer",
    },
)
