"""Counter-based random numbers: each number is a function of a sample key, a stream and a position."""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(values: np.ndarray) -> np.ndarray:
    """Hash each value by SplitMix64 (Steele, Lea and Flood, 2014): uint64 of any shape -> uint64 of the same shape.

    >>> int(splitmix64(np.array([0], dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF
    True
    """
    return mix64(values + _GOLDEN)


def mix64(values: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 values of any shape: the last step of `splitmix64`."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def uniforms(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Draw `count` numbers for each key: keys (B,) uint64 -> (B, count) float64 in [0, 1).

    Each use has its own `stream`, so that enabling one use does not change the numbers of another. A stream has 65,536
    numbers for each key.
    """
    counters = np.arange(count, dtype=np.uint64) + np.uint64(stream << 16)
    bits = splitmix64(splitmix64(keys.astype(np.uint64))[:, None] + counters * _GOLDEN)
    return (bits >> np.uint64(11)) * 2.0**-53


def between(numbers: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Scale numbers from [0, 1) to [bounds[0], bounds[1])."""
    return bounds[0] + numbers * (bounds[1] - bounds[0])


def boxes(numbers: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]) -> np.ndarray:
    """Draw boxes inside the unit square: numbers (B, 4) in [0, 1) -> (B, 4) float64 left, top, width, height.

    The area is uniform in `scale`, the aspect (width / height) log-uniform in `ratio`. Both sides are clipped to 1.
    """
    area = between(numbers[:, 0], scale)
    aspect = np.exp(between(numbers[:, 1], (np.log(ratio[0]), np.log(ratio[1]))))
    sides = np.minimum(np.sqrt(np.stack([area * aspect, area / aspect], axis=1)), 1.0)
    return np.concatenate([numbers[:, 2:] * (1 - sides), sides], axis=1)
