"""Synthetic scenes: ground with clutter, one object in its own coordinates, light, lens and JPEG compression.

Colours are (H, W, 3) float32 in [0, 1]; masks and heights (H, W) float32. The objects themselves are in `objects.py`.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array = np.ndarray
Random = np.random.Generator

SMALLEST, LARGEST = 60, 800  # px, width and height
NARROWEST, WIDEST = 0.45, 2.3  # width / height
RENDER_SIDES = (96, 192)  # px, long side of the rendering, which is then scaled


@dataclass(frozen=True, slots=True)
class Stage:
    """Coordinates of an object in an image, and the direction of the light.

    Attributes:
        rng: Random generator of this image.
        u: (H, W) float32, position across the object, from -`ratio` to `ratio`.
        v: (H, W) float32, position along the object, from -1 (top) to 1 (bottom).
        ratio: Width / length of the object.
        pixel: Size of a pixel in units of u and v. Edges are softened over this distance.
        light: Direction of the light, from -1 (left) to 1 (right) in object coordinates.
    """

    rng: Random
    u: Array
    v: Array
    ratio: float
    pixel: float
    light: float

    def inside(self, distance: Array) -> Array:
        """Soft mask of the region where a signed distance is negative."""
        return np.clip(0.5 - distance / self.pixel, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Paint:
    """A painted object.

    Attributes:
        colour: (H, W, 3) float32 in [0, 1].
        cover: (H, W) float32 in [0, 1], opacity.
        shine: (H, W) float32, reflected light that is added to the colour.
    """

    colour: Array
    cover: Array
    shine: Array


def noise(rng: Random, shape: tuple[int, int], cells: float, octaves: int = 1) -> Array:
    """Smooth noise (H, W) of about unit variance, with `cells` blobs along the long side. Each further octave has half
    the size and strength.
    """
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(shape) / (cells * 2**octave)
        grid = (max(2, round(shape[0] / step) + 1), max(2, round(shape[1] / step) + 1))
        coarse = Image.fromarray(rng.standard_normal(grid).astype(np.float32))
        total += np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)) * np.float32(0.5**octave)
    return total


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, a smooth ramp between."""
    ramp = np.clip((value - low) / (high - low), 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def random_colour(rng: Random, neutral: float = 0.4, dark: float = 0.3, bright: float = 0.95) -> Array:
    """Draw a colour (3,): near grey with probability `neutral`, with a brightness from `dark` to `bright`.

    The ranges of the classes overlap widely, so that colour alone does not tell them apart.
    """
    hue = rng.random() * 6.0
    saturation = rng.uniform(0.0, 0.12) if rng.random() < neutral else rng.uniform(0.15, 0.7)
    value = rng.uniform(dark, bright)
    wheel = np.clip(np.abs((hue - np.array([0.0, 2.0, 4.0]) + 3.0) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
    return (value * (1.0 - saturation * (1.0 - wheel))).astype(np.float32)


def blend(image: Array, mask: Array, colour: Array) -> Array:
    """Blend `colour` (3,) or (H, W, 3) over `image` (H, W, 3) by `mask` (H, W) in [0, 1]."""
    return image + mask[..., None] * (colour - image)


def _ground(rng: Random, shape: tuple[int, int]) -> Array:
    """Draw a ground (H, W, 3): concrete, planks, tiles or grass."""
    base = np.broadcast_to(random_colour(rng, neutral=0.9, dark=0.15, bright=0.6), (*shape, 3))
    kind = rng.integers(4)
    relief = 0.09 * noise(rng, shape, rng.uniform(3, 12), 3)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / max(shape)
    turn = rng.uniform(0, np.pi)
    along = columns * np.cos(turn) + rows * np.sin(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    if kind == 1:
        planks = along * rng.uniform(3, 7)
        relief = 0.1 * np.sin(np.floor(planks) * 12.9) + 0.08 * np.sin(40 * along + 6 * relief)
        relief -= 0.3 * (np.abs(planks % 1 - 0.5) > 0.46)
    elif kind == 2:
        tiles = rng.uniform(2, 6)
        joints = np.maximum(np.abs(along * tiles % 1 - 0.5), np.abs(across * tiles % 1 - 0.5))
        relief = 0.5 * relief + rng.uniform(-0.35, 0.25) * smoothstep(0.44, 0.48, joints)
    elif kind == 3:
        relief = 0.14 * noise(rng, shape, rng.uniform(25, 60), 2)
    return base * (1.0 + relief[..., None])


def _clutter(rng: Random, ground: Array, most: int) -> Array:
    """Draw up to `most` shapes on the ground: leaves, sticks, scraps and shadows of objects outside of the image."""
    height, width = ground.shape[:2]
    layer = Image.fromarray((np.clip(ground, 0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(layer, "RGBA")
    for _ in range(rng.integers(0, most + 1)):
        fill = (*(int(255 * c) for c in random_colour(rng)), int(rng.integers(90, 256)))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        a, b = rng.uniform(0.05, 0.3, 2) * max(width, height)
        shape = rng.integers(4)
        if shape == 0:
            draw.ellipse((x - a, y - b, x + a, y + b), fill=fill)
        elif shape == 1:
            corners = rng.uniform(-1, 1, (rng.integers(3, 7), 2)) * (a, b) + (x, y)
            draw.polygon([(float(px), float(py)) for px, py in corners], fill=fill)
        elif shape == 2:
            draw.line((x, y, x + 3 * (a - b), y + a), fill=fill, width=int(rng.integers(1, 7)))
        else:
            draw.rectangle((x - a, y - b, x + a, y + b), outline=fill, width=int(rng.integers(1, 6)))
    return np.asarray(layer.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 2.5))), np.float32) / 255.0


def place(rng: Random, width: int, height: int, ratio: float) -> Stage:
    """Place an object of half width `ratio` (half length 1) so that it nearly fills the image."""
    turn = rng.normal(0.0, 0.25) + (np.pi / 2 if (width > height) == (rng.random() < 0.9) else 0.0)
    turn += np.pi * (rng.random() < 0.2)
    sine, cosine = np.sin(turn), np.cos(turn)
    reach_x, reach_y = abs(sine) + ratio * abs(cosine), abs(cosine) + ratio * abs(sine)
    half = rng.uniform(0.9, 1.15) * min(width / 2 / reach_x, height / 2 / reach_y)
    x = np.arange(width, dtype=np.float32) - width / 2 * (1 + rng.normal(0, 0.06))
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2 * (1 + rng.normal(0, 0.06))
    u, v = (x * cosine + y * sine) / half, (y * cosine - x * sine) / half
    bend = rng.normal(0, 0.05)
    return Stage(
        rng, (u + bend * v * v).astype(np.float32), v.astype(np.float32), ratio, 1 / half, rng.uniform(-0.9, 0.9)
    )


def _blur(mask: Array, radius: float) -> Array:
    picture = Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.BoxBlur(radius)), np.float32) / 255.0


def compose(rng: Random, paint: Paint, ground: Array) -> Array:
    """Composite object and shadow on the ground, with light; (H, W, 3)."""
    side = max(ground.shape[:2])
    shift = np.rint(rng.uniform(-0.06, 0.06, 2) * side).astype(int)
    shadow = np.roll(_blur(paint.cover, side * rng.uniform(0.01, 0.06)), tuple(shift), (0, 1))
    scene = ground * (1.0 - rng.uniform(0.2, 0.65) * shadow[..., None])
    scene = blend(scene, paint.cover, paint.colour) + (paint.shine * (paint.cover > 0))[..., None]
    if rng.random() < 0.12:  # a strip covers a part of the object
        shape = ground.shape[:2]
        x, y = np.linspace(-1, 1, shape[1], dtype=np.float32), np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
        turn, offset, half = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9), rng.uniform(0.02, 0.12)
        strip = np.abs(x * np.cos(turn) + y * np.sin(turn) - offset + 0.05 * noise(rng, shape, 4))
        scene = blend(
            scene, (strip < half).astype(np.float32), random_colour(rng) * (1 + 0.15 * noise(rng, shape, 20)[..., None])
        )
    falloff = 1.0 + 0.12 * noise(rng, ground.shape[:2], 1.5)
    cast_light = rng.uniform(0.88, 1.12, 3).astype(np.float32) * rng.uniform(0.8, 1.2)
    return np.clip(scene * falloff[..., None] * cast_light, 0.0, 1.0)


def simulate_camera(rng: Random, scene: Array, width: int, height: int) -> bytes:
    """Simulate a camera: contrast, lens blur, sensor noise and JPEG. Return the scene (H, W, 3) as a file of width x
    height px.
    """
    gamma = rng.uniform(0.75, 1.35)
    curve = [round(255 * (level / 255) ** gamma) for level in range(256)]
    picture = Image.fromarray((scene * 255).astype(np.uint8)).point(curve * 3)
    picture = picture.filter(ImageFilter.BoxBlur(rng.uniform(0.0, 1.2)))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.int16)
    # a strip of noise, repeated from a random offset
    grain = rng.normal(0.0, 256 * rng.uniform(0.3, 9.0), 1 << 14).astype(np.int16)
    grain = np.resize(np.roll(grain, int(rng.integers(1 << 14))), pixels.shape) >> 8
    file = io.BytesIO()
    picture = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
    picture.save(file, "JPEG", quality=int(rng.integers(45, 93)))
    return file.getvalue()


def image_size(rng: Random) -> tuple[int, int]:
    """Width and height in px: sides of 60 to 800, width / height of 0.45 to 2.3, both spread evenly on a log scale."""
    aspect = float(np.exp(rng.uniform(np.log(NARROWEST), np.log(WIDEST))))
    longest = np.exp(rng.uniform(np.log(SMALLEST * max(aspect, 1 / aspect) + 2), np.log(LARGEST)))
    width, height = (longest, longest / aspect) if aspect > 1 else (longest * aspect, longest)
    return max(SMALLEST, int(width)), max(SMALLEST, int(height))


def backdrop(rng: Random, width: int, height: int, clutter: int = 3) -> Array:
    """Ground and clutter; (height, width, 3)."""
    return _clutter(rng, _ground(rng, (height, width)), clutter)
