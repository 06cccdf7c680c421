"""The sites of the drawn season: sky, grass, trees and rocks, by day and by infrared night."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Floats = NDArray[np.float32]
Colour = tuple[int, int, int]


def generator(*key: int) -> np.random.Generator:
    """The generator of these whole numbers, the same in every process."""
    return np.random.Generator(np.random.PCG64(key))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A site in one kind of light.

    Args:
        backdrop: the empty landscape, full frame, RGB.
        grass: blades in front of the animals' feet, RGBA, the lower part of the frame.
        grain: sensor noise around grey 128, full frame, RGB.
    """

    backdrop: Image.Image
    grass: Image.Image
    grain: Image.Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One site by day and by infrared night."""

    day: Look
    night: Look


GRASSES: tuple[Colour, ...] = ((176, 158, 104), (112, 130, 66), (164, 124, 84), (140, 142, 92))


def _smooth(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> Floats:
    """Soft noise about 0, of the given size in pixels, with this many cells across and down."""
    small = rng.standard_normal(cells[::-1], dtype=np.float32)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def _open_land(
    rng: np.random.Generator, size: tuple[int, int], horizon: float, grass: NDArray[np.float32]
) -> Image.Image:
    """Sky with clouds above the horizon, bare tinted ground below it."""
    quarter = (max(8, size[0] // 4), max(8, size[1] // 4))
    y = np.linspace(0, 1, quarter[1], dtype=np.float32)[:, None, None]
    clouds = np.clip(_smooth(rng, quarter, (5, 16)) + 0.5 * _smooth(rng, quarter, (14, 40)), 0, 1.6)
    zenith, haze = np.array((96, 146, 204)), np.array((196, 214, 226))
    sky = zenith + (haze - zenith) * np.clip(y / horizon, 0, 1) + 26 * clouds[..., None]
    patches = 0.1 * _smooth(rng, quarter, (7, 12)) + 0.05 * _smooth(rng, quarter, (40, 60))
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    ground = grass * (0.98 - 0.2 * depth + patches[..., None] * (0.4 + depth))
    edge = horizon + 0.006 * _smooth(rng, (quarter[0], 4), (12, 2))[:1, :, None]
    pixels = np.clip(np.where(y < edge, sky, ground), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _acacia(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, foot: tuple[float, float], tall: float
) -> None:
    """A flat-topped tree."""
    x, y = foot
    lean = rng.uniform(-0.1, 0.1) * tall
    draw.line((x, y, x + lean, y - 0.75 * tall), fill=(74, 62, 50), width=max(1, int(tall * 0.05)))
    for _ in range(14):
        green = rng.integers(-12, 12)
        cx = x + lean + rng.uniform(-0.45, 0.45) * tall
        cy = y - rng.uniform(0.72, 0.92) * tall
        rx, ry = rng.uniform(0.12, 0.26) * tall, rng.uniform(0.04, 0.08) * tall
        tint = (int(88 + green), int(102 + green), int(62 + green))
        draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=tint)


def _bush(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, foot: tuple[float, float], tall: float
) -> None:
    """A round bush."""
    for _ in range(10):
        green = rng.integers(-14, 14)
        cx = foot[0] + rng.uniform(-0.5, 0.5) * tall
        radius = rng.uniform(0.15, 0.35) * tall
        cy = foot[1] - radius - rng.uniform(0, 0.3) * tall
        tint = (int(104 + green), int(112 + green), int(72 + green))
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=tint)


def _rock(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, foot: tuple[float, float], tall: float
) -> None:
    """A boulder with a lit upper side."""
    angles = np.linspace(math.pi, 2 * math.pi, 8)
    radii = tall * rng.uniform(0.75, 1.05, len(angles))
    xs, ys = foot[0] + 1.4 * radii * np.cos(angles), foot[1] + radii * np.sin(angles)
    draw.polygon(list(zip(xs, ys, strict=True)), fill=(128, 118, 108))
    top = list(zip(xs[2:6], ys[2:6], strict=True))
    draw.polygon([*top, (foot[0], foot[1] - 0.4 * tall)], fill=(156, 146, 134))


def _furnish(image: Image.Image, rng: np.random.Generator, horizon: float) -> None:
    """Put hills, trees, bushes and rocks on the open land."""
    width, height = image.size
    draw = ImageDraw.Draw(image)
    kinds = (_acacia, _acacia, _bush, _bush, _rock)
    distances = np.sort(rng.uniform(0.0, 0.12, int(rng.integers(6, 12))))
    for distance in distances:  # the farthest first
        draw_one = kinds[int(rng.integers(len(kinds)))]
        largest = 0.2 if draw_one is _acacia else 0.06
        tall = largest * (0.35 + 4 * distance) * rng.uniform(0.6, 1.2)
        foot = (rng.uniform(0, 1) * width, (horizon + 0.01 + distance) * height)
        draw_one(draw, rng, foot, tall * height)


def _blades(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    feet: NDArray[np.float64],
    grass: NDArray[np.float32],
    height: int,
) -> None:
    """Draw one blade of grass on each foot ``(x, y, length)`` in pixels."""
    tints = np.clip(grass * rng.normal(0.98, 0.24, (len(feet), 1)), 10, 250).astype(int)
    leans = rng.normal(0, 0.35, len(feet))
    order = np.argsort(feet[:, 1])
    thick = max(1, round(height / 500))
    for (x, y, length), tint, lean in zip(feet[order], tints[order], leans, strict=True):
        draw.line((x, y, x + lean * length, y - length), fill=tuple(tint.tolist()), width=thick)


def _blade_feet(
    rng: np.random.Generator, count: int, rows: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Feet of blades between two rows (pixels), longer towards the camera."""
    y = rows[0] + (rows[1] - rows[0]) * np.sqrt(rng.random(count))
    near = (y - rows[0]) / max(rows[1] - rows[0], 1)
    length = size[1] * (0.006 + 0.03 * near) * rng.uniform(0.6, 1.3, count)
    return np.stack((rng.uniform(0, size[0], count), y, length), axis=1)


def _grain(rng: np.random.Generator, size: tuple[int, int], sigma: float) -> Image.Image:
    """Sensor noise around grey 128."""
    noise = rng.standard_normal((size[1], size[0]), dtype=np.float32) * sigma + 128
    return Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).convert("RGB")


def _front_grass(
    rng: np.random.Generator, size: tuple[int, int], grass: NDArray[np.float32]
) -> Image.Image:
    """Blades for the lowest quarter of the frame, which stand before the animals' feet."""
    layer = Image.new("RGBA", (size[0], size[1] // 4))
    feet = _blade_feet(rng, 500, (layer.height * 0.35, layer.height), size)
    feet[:, 2] *= 1.5
    _blades(ImageDraw.Draw(layer), rng, feet, grass, size[1])
    return layer


def _flash(size: tuple[int, int], horizon: float) -> Image.Image:
    """What share of the infrared flash comes back from each place, 255 for all of it."""
    x = np.linspace(-1, 1, 128)[None, :]
    y = np.linspace(0, 1, 96)[:, None]
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    near = np.interp(depth, (0, 0.12, 1), (0.08, 0.42, 1.0))
    lit = near * (1 - 0.55 * (x**2 + (y - 0.6) ** 2))
    pixels = np.clip(255 * lit, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def build_scene(key: tuple[int, ...], size: tuple[int, int]) -> Scene:
    """The landscape of one site by day and by night.

    Args:
        key: whole numbers that name the site.
        size: width and height of a frame in pixels.
    """
    rng = generator(*key)
    horizon = float(rng.uniform(0.3, 0.42))
    tint = np.array(GRASSES[int(rng.integers(len(GRASSES)))], np.float32)
    grass = tint * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    backdrop = _open_land(rng, size, horizon, grass)
    _furnish(backdrop, rng, horizon)
    feet = _blade_feet(rng, 7000, ((horizon + 0.01) * size[1], size[1] * 1.02), size)
    _blades(ImageDraw.Draw(backdrop), rng, feet, grass, size[1])
    backdrop = backdrop.filter(ImageFilter.SMOOTH)
    front = _front_grass(rng, size, grass)
    grain = _grain(rng, size, 6.0)
    day = Look(backdrop=backdrop, grass=front, grain=grain)
    return Scene(day=day, night=_by_night(day, _flash(size, horizon)))


def _by_night(day: Look, flash: Image.Image) -> Look:
    """The same site as the infrared flash shows it."""
    size = day.backdrop.size
    backdrop = ImageChops.multiply(day.backdrop.convert("L"), flash)
    below = flash.crop((0, size[1] - day.grass.height, *size))
    blades = ImageChops.multiply(day.grass.convert("L"), below).convert("RGBA")
    blades.putalpha(day.grass.getchannel("A"))
    coarse = day.grain.point([int(np.clip(128 + 1.7 * (v - 128), 0, 255)) for v in range(256)] * 3)
    return Look(backdrop=backdrop.convert("RGB"), grass=blades, grain=coarse)
