"""One photograph of the drawn season: a site, its animals, light, noise, banner and JPEG."""

import io
import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from serengeti_etl.drawing.animals import Animal, draw_animal
from serengeti_etl.drawing.landscape import Scene

QUALITY = 85  # about what the real cameras' quantisation tables come to
SUBSAMPLING = "4:2:2"
BANNER = 0.055  # share of the frame's height


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """What one frame shows.

    Args:
        animals: those in view, the farthest first; none in an empty frame.
        frame: 0 for the first of the sequence.
        taken: when, by the camera's clock.
        night: whether the infrared flash lit it.
        exposure: brightness by day, about 1.
        brand: the name in the banner.
        dark_banner: white on black instead of black on white.
        celsius: temperature in the banner, degrees.
        site: the site's name in the banner.
    """

    animals: tuple[Animal, ...]
    frame: int
    taken: datetime
    night: bool
    exposure: float
    brand: str
    dark_banner: bool
    celsius: int
    site: str


def draw_photo(scene: Scene, shot: Shot, rng: np.random.Generator) -> Image.Image:
    """One frame as the camera's sensor and firmware would have made it, RGB.

    Args:
        scene: the site, which also gives the size.
        shot: what to see and in which light.
        rng: draws this frame's noise.
    """
    look = scene.night if shot.night else scene.day
    photo = look.backdrop.copy()
    for animal in shot.animals:
        _put(photo, animal, shot)
    photo.paste(look.grass, (0, photo.height - look.grass.height), look.grass)
    if not shot.night:
        photo = photo.point(_daylight(shot.taken, shot.exposure))
    shift = (int(rng.integers(photo.width)), int(rng.integers(photo.height)))
    photo = ImageChops.add(photo, ImageChops.offset(look.grain, *shift), 1.0, -128)
    _banner(photo, shot)
    return photo


def _put(photo: Image.Image, animal: Animal, shot: Shot) -> None:
    """Set one animal and its shadow into the photograph."""
    sprite = draw_animal(animal, shot.frame, photo.height, night=shot.night)
    x = int((animal.x + animal.step * shot.frame) * photo.width - sprite.width / 2)
    foot = int(animal.feet * photo.height)
    if shot.night:
        sprite = _flash_lit(sprite, animal)
    else:
        shade = Image.new("L", (32, 32))
        ImageDraw.Draw(shade).ellipse((3, 12, 29, 20), fill=120)
        spread = (int(sprite.width * 1.1), int(sprite.height * 0.4))
        shade = shade.filter(ImageFilter.GaussianBlur(2)).resize(spread)
        photo.paste((38, 34, 28), (x - sprite.width // 20, foot - spread[1] // 2), shade)
    photo.paste(sprite, (x, foot - sprite.height), sprite)


def _flash_lit(sprite: Image.Image, animal: Animal) -> Image.Image:
    """The sprite in infrared: grey, and brighter when near."""
    gain = 0.75 + 0.5 * animal.height
    grey = (
        sprite.convert("RGB").convert("L").point([min(255, int(10 + v * gain)) for v in range(256)])
    )
    lit = grey.convert("RGBA")
    lit.putalpha(sprite.getchannel("A"))
    return lit


def _daylight(taken: datetime, exposure: float) -> list[int]:
    """What the hour's light makes of each red, green and blue value: low sun is dim and warm."""
    hour = taken.hour + taken.minute / 60
    sun = math.sqrt(max(0.0, math.sin(math.pi * (hour - 5.5) / 13.5)))
    level = exposure * (0.68 + 0.34 * sun)
    gains = (level * (1.14 - 0.14 * sun), level, level * (0.78 + 0.24 * sun))
    return [min(255, int(value * gain)) for gain in gains for value in range(256)]


def _banner(photo: Image.Image, shot: Shot) -> None:
    """Burn in the bar with brand, site, temperature, date and time."""
    width, height = photo.size
    tall = max(10, round(height * BANNER))
    paper, ink = (
        ((0, 0, 0), (235, 235, 235)) if shot.dark_banner else ((250, 250, 250), (10, 10, 10))
    )
    draw = ImageDraw.Draw(photo)
    draw.rectangle((0, height - tall, width, height), fill=paper)
    font = ImageFont.load_default(size=tall * 0.62)
    fahrenheit = round(shot.celsius * 9 / 5 + 32)
    middle = height - tall / 2
    draw.text((width * 0.01, middle), shot.brand, fill=ink, font=font, anchor="lm")
    reading = f"{shot.site}  {shot.celsius}°C {fahrenheit}°F"
    draw.text((width * 0.46, middle), reading, fill=ink, font=font, anchor="mm")
    when = f"{shot.taken:%m-%d-%Y  %H:%M:%S}"
    draw.text((width * 0.99, middle), when, fill=ink, font=font, anchor="rm")


def to_jpeg(photo: Image.Image, exif: Image.Exif) -> bytes:
    """The photograph as a baseline JPEG with half the colour resolution across.

    Args:
        photo: RGB pixels.
        exif: the camera's header fields.
    """
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING, exif=exif)
    return buffer.getvalue()
