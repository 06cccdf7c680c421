"""The animals of the drawn season: their shapes, coats and places in the frame."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
Colour = tuple[int, int, int]
Coat = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One rounded stroke of an animal that looks to the right.

    Args:
        points: ``(x, y, radius)`` in heights of the animal; y is 0 at the top and 1 at the ground.
        paint: ``coat``, ``far`` (the coat in shadow) or a name of ``PAINTS``.
        swing: how far its lower end moves while walking, -1 to 1.
    """

    points: tuple[tuple[float, float, float], ...]
    paint: str = "coat"
    swing: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Species:
    """How one species is drawn.

    Args:
        heights: least and greatest height in the frame, as a share of the frame's height.
        extent: leftmost and rightmost x of its parts, in heights of the animal.
        colours: what the coat's pattern mixes: its colour at 0 and at 1.
        coat: the pattern, 0 to 1, for arrays of x and y in heights of the animal.
        parts: its strokes, the farthest first.
    """

    heights: tuple[float, float]
    extent: tuple[float, float]
    colours: tuple[Colour, Colour]
    coat: Coat
    parts: tuple[Part, ...]


PAINTS: dict[str, Colour] = {
    "black": (24, 21, 20),
    "horn": (52, 46, 40),
    "ivory": (238, 230, 208),
    "white": (236, 232, 226),
    "skin": (222, 178, 152),
    "cream": (232, 208, 166),
    "eye": (12, 10, 10),
}


def _legs(
    hips: tuple[float, float], top: float, radii: tuple[float, float], *, far: bool
) -> tuple[Part, ...]:
    """A hind and a fore leg: the pair on the far side walks against the near pair."""
    shift, swing, paint = (0.05, -1.0, "far") if far else (0.0, 1.0, "coat")
    thick, thin = radii
    knee = top + 0.55 * (1 - top)
    return tuple(
        Part(
            points=(
                (x + shift, top, thick),
                (x + shift, knee, (thick + thin) / 2),
                (x + shift, 1 - thin, thin),
            ),
            paint=paint,
            swing=swing * side,
        )
        for x, side in zip(hips, (1.0, -1.0), strict=True)
    )


def _unit(values: NDArray[Any]) -> Floats:
    """The values held between 0 and 1."""
    held: Floats = np.clip(values, 0, 1).astype(np.float32)
    return held


def _zebra_coat(x: Floats, y: Floats) -> Floats:
    """Bold stripes: upright on the body, slanting on the neck, level on the legs."""
    body = x * 6.2 + 1.2 * np.maximum(x - 0.25, 0) - 1.5 * (y - 0.4) * np.sign(x)
    stripes = np.sin(2 * np.pi * np.where(y > 0.62, y * 10.5, body))  # noqa: PLR2004 - the belly
    return _unit(0.5 + 2.5 * stripes)


def _giraffe_coat(x: Floats, y: Floats) -> Floats:
    """Patches around scattered middles, parted by a pale net; pale legs."""
    column, row = np.floor(x / 0.085), np.floor(y / 0.085)
    nearest = np.full(x.shape, 9.0, np.float32)
    second = nearest.copy()
    for i, j in np.ndindex(3, 3):
        p, q = column + i - 1, row + j - 1
        # The usual sine hash: each cell has its middle at a fixed, scattered place.
        dx = (p + 0.5 + 0.35 * np.sin(127.1 * p + 311.7 * q)) * 0.085 - x
        dy = (q + 0.5 + 0.35 * np.sin(269.5 * p + 183.3 * q)) * 0.085 - y
        distance = np.hypot(dx, dy)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    net = _unit((0.024 - (second - nearest)) * 80)
    return _unit(net + 0.8 * _unit((y - 0.68) * 6))


def _elephant_coat(x: Floats, y: Floats) -> Floats:
    """Wrinkled grey."""
    return _unit(0.5 + 0.14 * np.sin(y * 70 + 3 * np.sin(x * 19)) * np.sin(x * 23 + y * 9))


def _wildebeest_coat(x: Floats, y: Floats) -> Floats:
    """Almost black, with faint upright stripes on the shoulder."""
    return _unit(0.5 * np.sin(x * 48 + y * 4)) * _unit(1.6 * (x + 0.25))


def _ostrich_coat(x: Floats, y: Floats) -> Floats:
    """Black plumage above, pale bare legs."""
    bare = y > 0.655  # noqa: PLR2004 - where the feathers end
    return _unit(np.where(bare, 1.0, 0.08 + 0.06 * np.sin(x * 90 + y * 50)))


def _lion_coat(x: Floats, y: Floats) -> Floats:
    """Sandy, paler towards the belly."""
    return _unit((y - 0.35) * 1.9 + 0.1 * np.sin(x * 11))


SPECIES: dict[str, Species] = {
    "zebra": Species(
        heights=(0.40, 0.52),
        extent=(-0.72, 0.92),
        colours=((26, 22, 22), (240, 234, 224)),
        coat=_zebra_coat,
        parts=(
            *_legs((-0.42, 0.26), 0.52, (0.075, 0.032), far=True),
            Part(points=((-0.54, 0.3, 0.025), (-0.62, 0.48, 0.02), (-0.62, 0.64, 0.04))),
            Part(points=((-0.4, 0.38, 0.17), (-0.05, 0.4, 0.165), (0.28, 0.37, 0.17))),
            Part(points=((0.3, 0.2, 0.035), (0.5, 0.03, 0.045)), paint="black"),
            Part(points=((0.32, 0.34, 0.15), (0.55, 0.14, 0.095))),
            Part(points=((0.58, 0.13, 0.09), (0.75, 0.27, 0.06))),
            Part(points=((0.77, 0.3, 0.055), (0.79, 0.31, 0.05)), paint="black"),
            Part(points=((0.54, 0.05, 0.035), (0.51, 0.0, 0.018))),
            Part(points=((0.62, 0.13, 0.014), (0.62, 0.13, 0.014)), paint="eye"),
            *_legs((-0.42, 0.26), 0.52, (0.085, 0.035), far=False),
        ),
    ),
    "giraffe": Species(
        heights=(0.56, 0.7),
        extent=(-0.34, 0.52),
        colours=((158, 84, 30), (238, 206, 152)),
        coat=_giraffe_coat,
        parts=(
            *_legs((-0.17, 0.12), 0.55, (0.042, 0.02), far=True),
            Part(points=((-0.23, 0.48, 0.014), (-0.28, 0.6, 0.012), (-0.27, 0.72, 0.024))),
            Part(points=((-0.15, 0.51, 0.095), (0.09, 0.48, 0.115))),
            Part(points=((0.13, 0.45, 0.1), (0.24, 0.24, 0.06), (0.31, 0.08, 0.045))),
            Part(points=((0.31, 0.07, 0.05), (0.43, 0.12, 0.03))),
            Part(points=((0.3, 0.04, 0.014), (0.29, -0.01, 0.016)), paint="black"),
            Part(points=((0.27, 0.06, 0.02), (0.22, 0.04, 0.012)), paint="cream"),
            Part(points=((0.34, 0.07, 0.008), (0.34, 0.07, 0.008)), paint="eye"),
            *_legs((-0.17, 0.12), 0.55, (0.048, 0.021), far=False),
        ),
    ),
    "elephant": Species(
        heights=(0.48, 0.6),
        extent=(-0.82, 0.9),
        colours=((84, 80, 80), (128, 121, 116)),
        coat=_elephant_coat,
        parts=(
            *_legs((-0.46, 0.14), 0.6, (0.13, 0.1), far=True),
            Part(points=((-0.68, 0.32, 0.03), (-0.74, 0.6, 0.02)), paint="far"),
            Part(points=((-0.4, 0.4, 0.32), (0.0, 0.36, 0.33), (0.2, 0.36, 0.31))),
            Part(points=((0.44, 0.28, 0.23), (0.48, 0.3, 0.2))),
            Part(
                points=(
                    (0.58, 0.36, 0.13),
                    (0.7, 0.6, 0.085),
                    (0.68, 0.82, 0.06),
                    (0.76, 0.92, 0.045),
                )
            ),
            Part(
                points=((0.58, 0.52, 0.03), (0.7, 0.64, 0.028), (0.84, 0.66, 0.014)), paint="ivory"
            ),
            Part(points=((0.24, 0.28, 0.17), (0.28, 0.42, 0.14)), paint="far"),
            Part(points=((0.52, 0.28, 0.018), (0.52, 0.28, 0.018)), paint="eye"),
            *_legs((-0.46, 0.14), 0.6, (0.14, 0.11), far=False),
        ),
    ),
    "wildebeest": Species(
        heights=(0.40, 0.52),
        extent=(-0.72, 0.84),
        colours=((42, 36, 36), (104, 94, 90)),
        coat=_wildebeest_coat,
        parts=(
            *_legs((-0.42, 0.24), 0.5, (0.07, 0.026), far=True),
            Part(
                points=((-0.54, 0.34, 0.03), (-0.62, 0.5, 0.035), (-0.6, 0.8, 0.03)), paint="black"
            ),
            Part(points=((-0.42, 0.44, 0.14), (0.0, 0.4, 0.18), (0.24, 0.34, 0.22))),
            Part(points=((0.3, 0.32, 0.18), (0.52, 0.3, 0.13))),
            Part(
                points=((0.36, 0.44, 0.08), (0.48, 0.52, 0.06), (0.54, 0.62, 0.025)), paint="black"
            ),
            Part(points=((0.56, 0.27, 0.11), (0.68, 0.52, 0.07)), paint="black"),
            Part(
                points=((0.56, 0.18, 0.035), (0.72, 0.15, 0.03), (0.74, 0.0, 0.018)), paint="cream"
            ),
            Part(
                points=((0.52, 0.18, 0.035), (0.4, 0.12, 0.03), (0.44, -0.02, 0.018)), paint="cream"
            ),
            Part(points=((0.6, 0.3, 0.013), (0.6, 0.3, 0.013)), paint="eye"),
            *_legs((-0.42, 0.24), 0.5, (0.08, 0.028), far=False),
        ),
    ),
    "ostrich": Species(
        heights=(0.50, 0.64),
        extent=(-0.46, 0.46),
        colours=((28, 25, 28), (222, 176, 150)),
        coat=_ostrich_coat,
        parts=(
            *_legs((-0.04, 0.06), 0.58, (0.05, 0.022), far=False),
            Part(points=((-0.06, 0.97, 0.02), (0.04, 0.98, 0.02)), paint="skin", swing=1.0),
            Part(points=((0.04, 0.97, 0.02), (0.14, 0.98, 0.02)), paint="skin", swing=-1.0),
            Part(points=((-0.22, 0.4, 0.09), (-0.34, 0.36, 0.06)), paint="white"),
            Part(
                points=((0.14, 0.42, 0.06), (0.24, 0.25, 0.034), (0.25, 0.06, 0.03)), paint="skin"
            ),
            Part(points=((-0.1, 0.47, 0.18), (0.08, 0.46, 0.16))),
            Part(points=((-0.14, 0.56, 0.05), (0.02, 0.58, 0.045)), paint="white"),
            Part(points=((0.26, 0.045, 0.042), (0.36, 0.06, 0.016)), paint="skin"),
            Part(points=((0.27, 0.04, 0.011), (0.27, 0.04, 0.011)), paint="eye"),
        ),
    ),
    "lionfemale": Species(
        heights=(0.30, 0.40),
        extent=(-1.36, 1.12),
        colours=((196, 146, 80), (236, 204, 150)),
        coat=_lion_coat,
        parts=(
            *_legs((-0.62, 0.4), 0.5, (0.11, 0.07), far=True),
            Part(points=((-0.8, 0.4, 0.05), (-1.08, 0.6, 0.04), (-1.2, 0.76, 0.035))),
            Part(points=((-1.21, 0.78, 0.055), (-1.24, 0.84, 0.05)), paint="black"),
            Part(points=((-0.6, 0.42, 0.21), (0.0, 0.44, 0.2), (0.42, 0.4, 0.23))),
            Part(points=((0.56, 0.32, 0.21), (0.8, 0.24, 0.2))),
            Part(points=((0.92, 0.3, 0.1), (0.97, 0.31, 0.08)), paint="cream"),
            Part(points=((1.02, 0.28, 0.035), (1.03, 0.29, 0.03)), paint="black"),
            Part(points=((0.7, 0.07, 0.06), (0.7, 0.05, 0.05)), paint="far"),
            Part(points=((0.86, 0.2, 0.022), (0.86, 0.2, 0.022)), paint="eye"),
            *_legs((-0.62, 0.4), 0.5, (0.12, 0.075), far=False),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Animal:
    """One animal of a sequence.

    Args:
        species: a name of ``SPECIES``.
        x: its middle in the first frame, as a share of the frame's width.
        feet: where it stands, as a share of the frame's height.
        height: share of the frame's height.
        step: how far it walks between two frames, as a share of the width; negative to the left.
        tone: brightness of its coat, about 1.
        phase: of its stride in the first frame, radians.
    """

    species: str
    x: float
    feet: float
    height: float
    step: float
    tone: float
    phase: float


def place_animals(species: tuple[str, ...], rng: np.random.Generator) -> tuple[Animal, ...]:
    """Where these animals stand, the farthest (smallest) first.

    Args:
        species: one name per animal; the first stands in front.
        rng: draws places, sizes and directions.
    """
    direction, side = rng.choice((-1.0, 1.0), 2)
    alone = len(species) == 1
    first = rng.uniform(0.2, 0.8) if alone else 0.5 - side * rng.uniform(0.14, 0.28)
    apart = side * (0.6 if len(species) > 2 else 0.44) / max(1, len(species) - 1)  # noqa: PLR2004
    placed = []
    for rank, name in enumerate(species):
        low, high = SPECIES[name].heights
        size = rng.uniform(low, high)
        share = 1.0 if rank == 0 else rng.uniform(0.72, 0.9)
        placed.append(
            Animal(
                species=name,
                x=first + apart * rank * rng.uniform(0.9, 1.1),
                feet=rng.uniform(0.8, 0.9) - 0.16 * (1 - share) / 0.28,
                height=size * share,
                step=direction * rng.uniform(0.015, 0.06),
                tone=rng.uniform(0.9, 1.1),
                phase=rng.uniform(0, 2 * math.pi),
            )
        )
    return tuple(reversed(placed))


def _stroke(points: NDArray[np.float64], size: tuple[int, int]) -> Image.Image:
    """A mask of a chain of discs ``(x, y, radius)`` and the straight bands between them."""
    mask = Image.new("L", (2 * size[0], 2 * size[1]))  # twice as fine, for smooth edges
    draw = ImageDraw.Draw(mask)
    for x, y, r in 2 * points:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    for (x0, y0, r0), (x1, y1, r1) in itertools.pairwise(2 * points):
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        band = [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1)]
        band += [(x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)]
        draw.polygon(band, fill=255)
    return mask.reduce(2)


def _posed(part: Part, phase: float) -> NDArray[np.float64]:
    """The part's points with its lower end swung by the stride."""
    points = np.array(part.points)
    top, bottom = points[0, 1], 1.0
    reach = (points[:, 1] - top) / max(bottom - top, 1e-6)
    if top > 0.9:  # noqa: PLR2004 - a foot moves as a whole
        reach = np.ones(len(points))
    points[:, 0] += part.swing * 0.09 * math.sin(phase) * reach
    return points


def _coat_image(species: Species, size: tuple[int, int], animal: Animal) -> Image.Image:
    """The coat over the whole box of an animal, lit from above."""
    width, height = (max(2, length // 2) for length in size)  # patterns are broad
    left, right = species.extent
    x = np.linspace(left, right, width, dtype=np.float32)[None, :]
    y = np.linspace(-0.06, 1.02, height, dtype=np.float32)[:, None]
    x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(x, y))
    mix = species.coat(x, y)[..., None]
    dark, light = (np.array(colour, np.float32) for colour in species.colours)
    lit = np.interp(y, (0.1, 0.6), (1.1, 0.82))[..., None] * animal.tone
    pixels = np.clip((dark + (light - dark) * mix) * lit, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).convert("RGBA")


def draw_animal(animal: Animal, frame: int, frame_height: int, *, night: bool) -> Image.Image:
    """One animal in its pose of one frame, cut out on transparent ground.

    Args:
        animal: which, and where it is in its stride.
        frame: 0 for the first of the sequence.
        frame_height: of the photograph, pixels.
        night: whether its eyes shine.
    """
    species = SPECIES[animal.species]
    # Half the frame's resolution: four times as fast, and as soft as a photograph.
    tall = animal.height * frame_height / 2
    left, right = species.extent
    size = (max(4, int((right - left) * tall)), max(4, int(1.08 * tall)))
    coat = _coat_image(species, size, animal)
    shaded = coat.point([int(v * 0.6) for v in range(256)] * 3 + list(range(256)))
    fills: dict[str, Image.Image] = {"coat": coat, "far": shaded}
    canvas = Image.new("RGBA", size)
    for part in species.parts:
        points = np.add(_posed(part, animal.phase + 1.4 * frame), (-left, 0.06, 0.0)) * tall
        mask = _stroke(points, size)
        if part.paint in fills:
            canvas.paste(fills[part.paint], (0, 0), mask)
        else:
            shining = night and part.paint == "eye"
            colour = PAINTS["white" if shining else part.paint]
            canvas.paste((*colour, 255), (0, 0, *size), mask)
    if animal.step < 0:
        canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return canvas.resize((2 * size[0], 2 * size[1]), Image.Resampling.BILINEAR)
