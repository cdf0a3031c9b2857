"""The six classes of synthetic waste. They differ in shape, texture and reflection more than in colour."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from datamodules.sources.synthetic.scene import (
    RENDER_SIDES,
    Array,
    Paint,
    Random,
    Stage,
    backdrop,
    blend,
    compose,
    image_size,
    noise,
    place,
    random_colour,
    simulate_camera,
    smoothstep,
)
from datamodules.sources.synthetic.textures import beads, blob, creases, lettering, plain, printed, round_light, streak

CLASSES = ["Metal", "Paper", "Paperpack", "Plastic", "Plasticbag", "Styrofoam"]
VERSION = 1  # part of the folder name: increase it when any pixel changes


def draw(label: int, rng: Random) -> bytes:
    """Return a JPEG file of class `label`. The same `rng` state gives the same image."""
    width, height = image_size(rng)
    scale = float(np.clip(max(width, height), *RENDER_SIDES)) / max(width, height)
    canvas = (round(width * scale), round(height * scale))
    painter, low, high = _PAINTERS[label]
    stage = place(rng, *canvas, ratio=rng.uniform(low, high))
    ground = backdrop(rng, *canvas)
    return simulate_camera(rng, compose(rng, painter(stage, ground), ground), width, height)


def write(tasks: list[tuple[int, int, int, str]]) -> None:
    """Draw and write images: (seed, label, number, file) for each."""
    for seed, label, number, file in tasks:
        Path(file).write_bytes(draw(label, np.random.default_rng([VERSION, seed, label, number])))


def metal(stage: Stage, ground: Array) -> Paint:
    """A can, intact or dented, or crumpled foil: hard, narrow, high-contrast reflections."""
    rng, r = stage.rng, stage.ratio
    if rng.random() < 0.2:
        facets = creases(stage, 14, 0.33) + 0.12 * noise(rng, stage.u.shape, 14, 2)
        colour = plain(stage, random_colour(rng, neutral=0.9, dark=0.45, bright=0.75)) * facets[..., None]
        return Paint(colour, stage.inside(blob(stage, 0.12)), 0.7 * smoothstep(1.15, 1.6, facets))
    dent = rng.uniform(0.0, 0.07) * noise(rng, stage.u.shape, 5, 2)
    u, e = stage.u + dent, r * rng.uniform(0.12, 0.4)
    taper = r * (1.0 - 0.13 * smoothstep(0.78, 1.0, np.abs(stage.v)))
    across = np.clip(u / taper, -1, 1)
    sag = e * np.sqrt(1.0 - across * across)
    body = np.maximum(np.abs(u) - taper, np.maximum(-(1 - e) - stage.v, stage.v - (1 - e) - sag))
    lid = (np.hypot(u / (0.87 * r), (stage.v + 1 - e) / e) - 1.0) * e
    colour = plain(stage, random_colour(rng, neutral=0.7, dark=0.3, bright=0.8))
    if rng.random() < 0.6:
        colour = printed(stage, colour, across * 0.8, stage.v - sag)
    shine = np.zeros_like(u)
    for _ in range(rng.integers(3, 6)):
        line = streak(across + 2 * dent, rng.uniform(-0.95, 0.95), rng.uniform(0.03, 0.12))
        shine += rng.choice([0.75, 0.5, -0.4]) * line
    colour = colour * round_light(stage, across)[..., None]
    rims = streak(stage.v - sag, -(1 - e) + 0.1, 0.02) + streak(stage.v - sag, 1 - e - 0.05, 0.03)
    sheen = np.cos(2 * np.arctan2(stage.v + 1 - e, u * e / r) + rng.uniform(0, 6)) ** 2
    top = plain(stage, random_colour(rng, neutral=1.0, dark=0.5, bright=0.8)) * (0.6 + 0.6 * sheen[..., None])
    tab = (np.hypot(u / (0.25 * r), (stage.v + 1 - e) / (0.45 * e)) - 1.0) * e
    top = blend(top, stage.inside(tab), plain(stage, random_colour(rng, neutral=1.0, dark=0.1)))
    on_lid = stage.inside(lid)
    colour = blend(colour, on_lid, top)
    shine = np.where(on_lid > 0.5, 0.8 * streak(lid, -0.02, 0.03), shine + 0.3 * rims)
    return Paint(colour, np.maximum(stage.inside(body), on_lid), shine)


def paper(stage: Stage, ground: Array) -> Paint:
    """A printed, folded sheet or a crumpled ball: matt, flat facets, soft shading."""
    rng, r = stage.rng, stage.ratio
    colour = plain(stage, random_colour(rng, neutral=0.75, dark=0.7, bright=1.0))
    skew, lean = rng.normal(0, 0.12, 2)
    x, y = stage.u / (r * (1 + lean * stage.v)), stage.v + skew * stage.u
    if rng.random() < 0.7:
        edge = 0.015 * noise(rng, x.shape, 12, 2)
        distance = np.maximum(np.abs(x) - 0.93, np.abs(y) - 0.93) * r + edge
        corner = rng.choice([-1, 1]) * x + rng.choice([-1, 1]) * y - rng.uniform(1.2, 1.9)
        distance = np.maximum(distance, corner * 0.5)
        if rng.random() < 0.8:
            colour = blend(
                colour, 0.75 * lettering(stage, x, y, rng.uniform(8, 22)), random_colour(rng, dark=0.0, bright=0.4)
            )
        if rng.random() < 0.25:
            colour = printed(stage, colour, x, y)
        light = creases(stage, int(rng.integers(1, 5)), 0.13, 0.0) + 0.06 * noise(rng, x.shape, 2)
    else:
        distance = blob(stage, 0.09)
        if rng.random() < 0.2:
            colour = printed(stage, colour, x, y)
        light = creases(stage, int(rng.integers(9, 16)), 0.13) + 0.03 * noise(rng, x.shape, 10)
    return Paint(colour * light[..., None], stage.inside(distance), np.zeros_like(x))


def paperpack(stage: Stage, ground: Array) -> Paint:
    """A printed carton with a gable, or a brick with a straw: two flat faces with a sharp vertical edge."""
    rng, r = stage.rng, stage.ratio
    u, v = stage.u, stage.v
    ridge = rng.uniform(-0.35, 0.35) * r
    side = (u > ridge) if rng.random() < 0.5 else (u < ridge)
    foot = 1.0 - rng.uniform(0.1, 0.35) * np.abs(u - ridge)
    brick = rng.random() < 0.4
    roof = rng.uniform(-0.9, -0.75) if brick else rng.uniform(-0.6, -0.4)
    colour = printed(
        stage,
        plain(stage, random_colour(rng, neutral=0.25, dark=0.5)),
        np.where(side, (u - ridge) * 1.7 - 0.2, u - ridge) / r,
        v,
    )
    light = np.where(side, rng.uniform(0.35, 0.6), rng.uniform(0.95, 1.1)) + 0.05 * noise(rng, u.shape, 3)
    body = np.maximum(np.abs(u) - r * 0.96, np.maximum(roof - v, v - foot))
    if brick:
        slant = rng.uniform(-0.5, 0.5)
        top = np.maximum(np.maximum(roof - 0.13 - v, v - roof), np.abs(u + slant * (v - roof)) - 0.93 * r)
        straw = np.maximum(np.abs(u - ridge - 0.3 * (v - roof)) - 0.035, np.maximum(-1.0 - v, v - roof + 0.06))
        top = np.minimum(top, straw) if rng.random() < 0.7 else top
    else:
        slope = r * 0.96 - 0.35 * r * np.clip((roof - v) / (roof + 0.84), 0, 1)
        top = np.minimum(
            np.maximum(np.abs(u) - slope, np.maximum(-0.84 - v, v - roof)),
            np.maximum(np.abs(u) - 0.66 * r, np.abs(v + 0.9) - 0.08),
        )
    on_top = stage.inside(top)
    lid = colour * np.where(v < -0.83, 1.1, np.where(side, 0.8, 1.25))[..., None]
    colour = blend(colour * light[..., None], on_top, lid)
    edge = 0.12 * streak(u, ridge, 0.02) * (v > roof) - 0.25 * streak(v, roof, 0.015) - 0.2 * streak(v, -0.83, 0.012)
    return Paint(colour, np.maximum(stage.inside(body), on_top), edge)


def plastic(stage: Stage, ground: Array) -> Paint:
    """A bottle or a cup: transparent, dark rims, long soft highlights, an opaque cap and label."""
    rng, r = stage.rng, stage.ratio
    u, v = stage.u, stage.v
    if rng.random() < 0.72:
        shoulder = rng.uniform(-0.45, -0.1)
        wide = r * (0.34 + 0.66 * smoothstep(-0.78, shoulder, v)) * (1 - 0.12 * smoothstep(0.85, 1.0, v))
        wide = wide * (1 + rng.uniform(0.0, 0.05) * np.sin(v * rng.uniform(14, 34)) * (v > shoulder))
        cap, cap_width = -0.84, 0.4 * r
    else:
        wide = r * (1.0 - rng.uniform(0.15, 0.4) * (v + 1) / 2) * (1 + 0.015 * np.sin(v * 60))
        cap, cap_width = -0.9, r * 1.05
    across = np.clip(u / wide, -1, 1)
    sag = 0.06 * np.sqrt(1 - across * across)
    body = np.maximum(np.abs(u) - wide, np.maximum(cap - v, v - 0.94 - sag))
    lid = np.maximum(np.abs(u) - cap_width, np.maximum(-1.0 - v, v - cap - sag))
    behind = np.roll(ground[:, ::-1], tuple(rng.integers(-12, 13, 2)), (0, 1))  # the refracted background
    haze = rng.uniform(0.15, 0.75)
    colour = behind * (1 - haze) + random_colour(rng) * haze
    rim = 1.0 - rng.uniform(0.3, 0.6) * smoothstep(0.72, 1.0, np.abs(across))
    colour = colour * (rim * (0.85 + 0.15 * round_light(stage, across)))[..., None]
    if rng.random() < 0.5:
        top, bottom = np.sort(rng.uniform(-0.1, 0.8, 2))
        label = stage.inside(np.maximum(top - v + sag, v - sag - bottom))
        colour = blend(colour, label, printed(stage, plain(stage, random_colour(rng)), across, v) * rim[..., None])
    fade = smoothstep(-1.0, 0.3, v) * (1 - smoothstep(0.6, 1.0, v))
    shine = rng.uniform(0.3, 0.6) * streak(across, rng.uniform(-0.65, -0.2), rng.uniform(0.06, 0.13)) * fade
    shine += rng.uniform(0.1, 0.35) * streak(across, rng.uniform(0.3, 0.75), rng.uniform(0.04, 0.1)) * fade
    solid = stage.inside(lid)
    ribs = 0.75 + 0.2 * np.sin(across * rng.uniform(12, 30))
    colour = blend(colour, solid, random_colour(rng) * (ribs * round_light(stage, across))[..., None])
    return Paint(colour, np.maximum(stage.inside(body), solid), shine * (1 - 0.6 * solid))


def plasticbag(stage: Stage, ground: Array) -> Paint:
    """A thin film, often with handles: many fine glossy wrinkles, translucent."""
    rng, r = stage.rng, stage.ratio
    u, v = stage.u, stage.v
    distance = blob(stage, 0.16) + 0.02 * noise(rng, u.shape, 14, 2)
    if rng.random() < 0.6:
        for hand in (-1, 1):
            x, y = u - hand * rng.uniform(0.3, 0.6) * r, v + rng.uniform(0.7, 0.8)
            ring = np.abs(np.hypot(x / 0.6, y) - rng.uniform(0.17, 0.24)) - rng.uniform(0.03, 0.07)
            distance = np.minimum(distance, ring)
    warp = noise(rng, u.shape, 3, 3)
    pole = rng.uniform(-1.3, -0.4)
    fan = np.arctan2(u, v - pole) * rng.uniform(2.5, 5.0) + 0.9 * warp
    wrinkle = 1.0 - np.abs(np.sin(fan * 2.0 + 0.6 * noise(rng, u.shape, 6)))
    fine = 1.0 - np.abs(np.sin(fan * 5.0 + 4 * warp))
    colour = plain(stage, random_colour(rng, neutral=0.5, dark=0.4))
    if rng.random() < 0.25:
        colour = printed(stage, colour, u / r + 0.12 * warp, v + 0.12 * warp)
    colour = colour * (0.6 + 0.4 * wrinkle + 0.1 * fine + 0.12 * warp)[..., None]
    haze = rng.uniform(0.5, 0.95)
    colour = ground * (1 - haze) + colour * haze
    patchy = smoothstep(-0.8, 1.2, noise(rng, u.shape, 5, 2))  # film is glossy only where it faces the light
    shine = patchy * (rng.uniform(0.5, 0.9) * wrinkle**5 + rng.uniform(0.1, 0.4) * fine**4)
    return Paint(colour, stage.inside(distance), shine)


def styrofoam(stage: Stage, ground: Array) -> Paint:
    """A broken block or a tray of pressed beads: grainy, matt, with a rough edge."""
    rng, r = stage.rng, stage.ratio
    u, v = stage.u, stage.v
    grains = beads(stage, rng.uniform(6, 10))
    crumble = 0.03 * noise(rng, u.shape, 22, 2)
    colour = plain(stage, random_colour(rng, neutral=0.9, dark=0.75, bright=1.0))
    box = np.maximum(np.abs(u) - 0.95 * r, np.abs(v + rng.normal(0, 0.15) * u) - 0.93)
    if rng.random() < 0.5:
        ridge, slope = rng.uniform(-0.5, 0.5) * r, rng.normal(0, 0.3)
        light = np.where(u + slope * v > ridge, rng.uniform(0.6, 0.85), 1.0)
        bite = np.hypot(u - rng.choice([-1, 1]) * r, v - rng.choice([-1, 1])) - rng.uniform(0.1, 0.6)
        distance = np.maximum(box, -bite) + crumble
    else:
        well = np.maximum(np.abs(u) - 0.7 * r, np.abs(v) - (1 - 0.3 * r))
        light = 1.0 - 0.25 * smoothstep(-0.02, 0.02, -well) + 0.15 * np.sign(u * stage.light) * streak(well, 0, 0.04)
        distance = box + 0.4 * crumble
    pits = noise(rng, u.shape, 20) > 1.9
    light = light * (0.6 + 0.45 * grains) * np.where(pits, 0.6, 1.0) + 0.04 * noise(rng, u.shape, 3)
    return Paint(colour * light[..., None], stage.inside(distance), np.zeros_like(u))


_PAINTERS: list[tuple[Callable[[Stage, Array], Paint], float, float]] = [
    (metal, 0.42, 0.62),
    (paper, 0.55, 1.0),
    (paperpack, 0.38, 0.6),
    (plastic, 0.28, 0.5),
    (plasticbag, 0.6, 1.0),
    (styrofoam, 0.5, 1.0),
]
