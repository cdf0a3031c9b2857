"""Textures: curves, creases, print, beads. Shapes as in `scene.py`."""

import numpy as np

from datamodules.sources.synthetic.scene import Array, Stage, blend, noise, random_colour, smoothstep


def plain(stage: Stage, colour: Array) -> Array:
    """One colour (3,) everywhere: (H, W, 3)."""
    return np.broadcast_to(colour, (*stage.u.shape, 3)).astype(np.float32)


def round_light(stage: Stage, across: Array) -> Array:
    """Diffuse light on a cylinder; `across` is -1 to 1 from edge to edge."""
    facing = np.sqrt(np.clip(1.0 - across * across, 0.0, 1.0))
    return 0.35 + 0.65 * np.clip(stage.light * across + np.sqrt(1 - stage.light**2) * facing, 0.0, 1.0)


def streak(position: Array, centre: float, width: float) -> Array:
    """A line of light: 1 where `position` equals `centre`, fading to 0 over `width`."""
    return np.exp(-(((position - centre) / width) ** 2))


def printed(stage: Stage, colour: Array, x: Array, y: Array) -> Array:
    """Bands, a disc and lines of type on a printed surface; x and y about -1 to 1."""
    rng = stage.rng
    for _ in range(rng.integers(1, 3)):
        edge = y + rng.uniform(-0.7, 0.7) * x - rng.uniform(-0.7, 0.7)
        band = stage.inside(np.abs(edge) - rng.uniform(0.06, 0.4))
        colour = blend(colour, band, random_colour(rng))
    if rng.random() < 0.6:
        disc = np.hypot(x - rng.uniform(-0.4, 0.4), y - rng.uniform(-0.5, 0.5)) - rng.uniform(0.12, 0.4)
        colour = blend(colour, stage.inside(disc), random_colour(rng))
    if rng.random() < 0.6:
        colour = blend(colour, 0.8 * lettering(stage, x, y, rng.uniform(8, 16)), random_colour(rng, dark=0.05))
    return colour


def lettering(stage: Stage, x: Array, y: Array, lines: float) -> Array:
    """Mask of a block of text: rows, broken into words."""
    rng = stage.rng
    rows = smoothstep(0.2, 0.6, np.sin(y * lines * np.pi))
    words = np.sin(x * rng.uniform(9, 17) + np.floor(y * lines / 2 + 0.25) * 37.0) > -0.55
    left, right = np.sort(rng.uniform(-0.9, 0.9, 2))
    top, bottom = np.sort(rng.uniform(-1.0, 1.0, 2))
    return rows * words * ((x > left - 0.2) & (x < right + 0.2) & (y > top - 0.2) & (y < bottom + 0.2))


def creases(stage: Stage, count: int, strength: float, wobble: float = 0.02) -> Array:
    """Light on a surface folded along `count` straight lines: flat facets that meet in sharp edges."""
    rng, shape = stage.rng, stage.u.shape
    light = np.ones(shape, np.float32)
    shake = wobble * noise(rng, shape, 8)
    for _ in range(count):
        turn = rng.uniform(0, np.pi)
        distance = stage.u * np.cos(turn) + stage.v * np.sin(turn) - rng.uniform(-0.7, 0.7) + shake
        tilt = rng.normal(0, strength)
        light += tilt * np.tanh(distance / 0.02) * np.exp(-np.abs(distance) / rng.uniform(0.15, 0.7))
        light += 0.5 * abs(tilt) * streak(distance, 0.0, 0.015)
    return light


def blob(stage: Stage, roughness: float) -> Array:
    """Signed distance of an irregular rounded patch."""
    angle = np.arctan2(stage.u / stage.ratio, stage.v)
    radius = np.hypot(stage.u / stage.ratio, stage.v)
    edge = np.full_like(radius, 0.86)
    for wave in range(2, 9):
        edge += roughness * stage.rng.normal(0, 1) / wave * np.sin(wave * angle + stage.rng.uniform(0, 6.3))
    return (radius - edge) * min(stage.ratio, 1.0)


def beads(stage: Stage, density: float) -> Array:
    """Brightness (H, W) in [0, 1] of round grains pressed together, dark where they meet; `density` per unit length."""
    rng = stage.rng
    sway = 0.3 * noise(rng, stage.u.shape, 9)
    u, v = stage.u * density + sway, stage.v * density * 1.1547 - sway
    row = np.floor(v)
    u = u + 0.5 * (row % 2)
    column = np.floor(u)
    hash_x = np.sin(column * 127.1 + row * 311.7 + rng.uniform(0, 9)) * 43758.5
    hash_y = np.sin(column * 269.5 + row * 183.3 + rng.uniform(0, 9)) * 43758.5
    x = u - column - 0.5 + 0.4 * (hash_x % 1 - 0.5)
    y = v - row - 0.5 + 0.4 * (hash_y % 1 - 0.5)
    return np.clip(1.0 - (2.0 + hash_y % 1) * (x * x + y * y), 0.0, 1.0) * (0.8 + 0.2 * (hash_x % 1))
