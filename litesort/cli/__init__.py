"""The command line: compose a config, check it, run it."""

from litesort.lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "SweepCallback": "sweep_callback",
    },
)
