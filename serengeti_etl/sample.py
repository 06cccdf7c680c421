"""Draws the embedded season: camera-trap photographs with labels, so that a demo downloads nothing.

``draw_season`` writes a folder that looks like a small piece of Snapshot Serengeti: JPEGs as the
cameras wrote them and one label file with the published format's real oddities. This module
decides which sequences exist and what the label file says; ``drawing`` makes the pixels.
"""

import io
import json
import multiprocessing
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serengeti_etl.drawing.animals import place_animals
from serengeti_etl.drawing.landscape import Scene, build_scene, generator
from serengeti_etl.drawing.photograph import Shot, draw_photo, to_jpeg
from serengeti_etl.errors import ConfigError

ANIMALS = ("zebra", "giraffe", "elephant", "wildebeest", "ostrich", "lionfemale")
CATEGORIES = ("empty", *ANIMALS)

# All names of the published label files; the position is the category's id.
PUBLISHED_CATEGORIES = tuple(
    """empty human gazellegrants reedbuck dikdik zebra porcupine gazellethomsons hyenaspotted
    warthog impala elephant giraffe mongoose buffalo hartebeest guineafowl wildebeest leopard
    ostrich lionfemale koribustard otherbird batearedfox bushbuck jackal cheetah eland aardwolf
    hippopotamus hyenastriped aardvark hare baboon monkeyvervet waterbuck secretarybird serval
    lionmale topi honeybadger rodents wildcat civet genet zorilla caracal rhinoceros reptiles
    insectspider duiker cattle vulture steenbok bat fire hyenabrown wilddog kudu pangolin
    lioncub""".split()  # noqa: SIM905 - sixty-one quoted names would fill a page
)

_LIMITS = {
    "num_sites": (1, 200),
    "num_sequences": (10, 100_000),
    "width": (128, 8192),
    "height": (96, 8192),
    "seed": (0, 2**63 - 1),
}
_NIGHT_SHARE = 0.3
_BROKEN = ("truncated", "no_bytes", "png", "missing")
_NEED_ANIMALS = ("two_species", "leaves", "herd", "number")
# What the random draws of each kind are keyed by, beside the seed.
_PLAN, _CARDS, _SCENE, _ANIMALS, _FRAME, _ROWS = range(6)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSettings:
    """What season to draw.

    Args:
        num_sites: cameras, 1 to 200; every fourth also took part in season S11.
        num_sequences: labelled sequences of 1 to 3 frames, at least 10; up to three odd ones
            (unlabelled, withheld) come on top.
        width: of a photograph, pixels.
        height: of a photograph, pixels.
        seed: another seed, another season.
        with_broken: include one truncated, one 0-byte, one misnamed and one missing file, and two
            withheld photographs of humans.

    Raises:
        ConfigError: a field is not a whole number in its range.
    """

    num_sites: int = 12
    num_sequences: int = 120
    width: int = 2048
    height: int = 1536
    seed: int = 0
    with_broken: bool = True

    def __post_init__(self) -> None:
        for field, (low, high) in _LIMITS.items():
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                allowed = f"a whole number from {low} to {high}"
                raise ConfigError(f"{field} is {value!r}, but it must be {allowed}")
        if type(self.with_broken) is not bool:
            raise ConfigError(f"with_broken is {self.with_broken!r}, but it must be True or False")


_DEFAULT = SampleSettings()


def draw_season(
    folder: Path, settings: SampleSettings = _DEFAULT, *, num_processes: int | None = None
) -> Path:
    """The path of ``labels.json``, written last, beside ``images/`` with the photographs.

    Args:
        folder: where to write; made when it does not exist.
        settings: what to draw.
        num_processes: how many draw at once, at least 1; one per core when ``None``. The bytes
            written do not depend on it.

    Raises:
        ConfigError: ``num_processes`` is less than 1.
        OSError: the folder cannot be written.
    """
    if num_processes is None:
        num_processes = os.cpu_count() or 1
    if num_processes < 1:
        raise ConfigError(f"num_processes is {num_processes!r}, but it must be 1 or more, or None")
    sequences = plan_season(settings)
    by_site = groupby(sorted(sequences, key=_site_of), key=_site_of)
    tasks = [
        _Task(settings=settings, images=folder / "images", sequences=tuple(group))
        for _, group in by_site
    ]
    if min(num_processes, len(tasks)) == 1:
        for task in tasks:
            task.draw()
    else:
        _draw_together(tasks, num_processes)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labels.json"
    path.write_text(json.dumps(_label_file(settings, sequences), indent=1), encoding="utf-8")
    return path


# --- Which sequences exist -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """What one make of camera writes into header and banner."""

    make: str
    model: str
    software: str
    brand: str
    dark_banner: bool


CAMERAS = (
    Camera(
        make="DLC",
        model="Covert II",
        software="DL560PBNx02020",
        brand="DLCcovert.com",
        dark_banner=False,
    ),
    Camera(
        make="BolyMedia",
        model="SG565FV",
        software="V2.10.06(HW-4)",
        brand="Covert",
        dark_banner=True,
    ),
    Camera(
        make="BolyMedia",
        model="SG565FV-8M",
        software="V2.12.12(HW-4)",
        brand="HCO ScoutGuard",
        dark_banner=True,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequence:
    """One burst of frames.

    Args:
        index: its number in the whole season; keys its random draws.
        site: number of the site.
        location: name of the site.
        season: as the label file writes it, ``S1`` or ``SER_S11``.
        number: of the sequence at its site in its season, from 1.
        picture: the camera's number of its first frame.
        num_frames: 1 to 3.
        taken: the first frame's time by the camera's clock.
        night: whether the infrared flash lit it.
        labels: categories; two at times, none when nobody labelled it.
        animals: how many of each label are drawn.
        quirk: what is odd about it, or nothing.
    """

    index: int
    site: int
    location: str
    season: str
    number: int
    picture: int
    num_frames: int
    taken: datetime
    night: bool
    labels: tuple[str, ...]
    animals: int
    quirk: str = ""

    @property
    def seq_id(self) -> str:
        """Such as ``SER_S1#B04#1#7``; season S11 carries the prefix already."""
        season = self.season.removeprefix("SER_")
        return f"SER_{season}#{self.location}#1#{self.number}"

    def image_id(self, frame: int) -> str:
        """Such as ``S1/B04/B04_R1/S1_B04_R1_PICT0001``."""
        word = "PICT" if self.season == "S1" else "IMAG"
        name = f"{self.season}_{self.location}_R1_{word}{self.picture + frame:04d}"
        copy = " (2)" if self.quirk == "brackets" and frame == 0 else ""
        return f"{self.season}/{self.location}/{self.location}_R1/{name}{copy}"

    def file_name(self, frame: int) -> str:
        """The image id with the ending that this site's camera wrote."""
        lower = self.site % 5 == 1 and self.quirk != "png"
        return self.image_id(frame) + (".jpg" if lower else ".JPG")

    @property
    def camera(self) -> Camera:
        """The make of camera that stood there in that season."""
        return CAMERAS[self.site % 2] if self.season == "S1" else CAMERAS[2]


def plan_season(settings: SampleSettings) -> list[Sequence]:
    """Every sequence of the season in the label file's order.

    Args:
        settings: what season to draw.
    """
    rng = generator(settings.seed, _PLAN)
    cards = _deal(settings)
    quirks = _cast(cards, settings, rng)
    cards += ["unlabelled"] + ["human", "human"] * settings.with_broken
    order: dict[tuple[int, str], int] = {}
    sequences = []
    for index, card in enumerate(cards):
        site = index % settings.num_sites
        # Every eighth: with twelve sites these all fall on the same three.
        season = "SER_S11" if index % 8 == 3 else "S1"  # noqa: PLR2004
        turn = order[site, season] = order.get((site, season), -1) + 1
        draft = _draft(index, site, season, turn, rng)
        sequences.append(_play(draft, card, quirks.get(index, ""), rng))
    return sorted(sequences, key=lambda s: (s.season, s.location, s.number))


def _deal(settings: SampleSettings) -> list[str]:
    """A category for each sequence, dealt so that every site sees nearly every category."""
    decks = {}
    for site in range(settings.num_sites):
        rng = generator(settings.seed, _CARDS, site)
        rounds = settings.num_sequences // (10 * settings.num_sites) + 1
        deck = [*ANIMALS, "empty", "empty", "empty"]
        decks[site] = [
            str(card)
            for turn in range(rounds)
            for card in rng.permutation([*deck, ANIMALS[(site + turn) % len(ANIMALS)]])
        ]
    sites = settings.num_sites
    return [decks[index % sites][index // sites] for index in range(settings.num_sequences)]


def _cast(cards: list[str], settings: SampleSettings, rng: np.random.Generator) -> dict[int, str]:
    """Which sequence is odd in which way; each in at most one. May change an empty card."""
    total = settings.num_sequences
    several = min(3, max(1, total // 40))
    pairs = max(1, round(0.04 * total))
    needing = ["two_species"] * pairs + ["leaves"] * several + ["herd", "number"]
    others = ["unknown"] * several + ["brackets", *_BROKEN[: 4 * settings.with_broken]]
    pool = [int(index) for index in rng.permutation(total)]
    pool.sort(key=lambda index: cards[index] == "empty")
    quirks = dict(zip(pool, needing, strict=False))
    for index in quirks:
        if cards[index] == "empty":
            cards[index] = ANIMALS[index % len(ANIMALS)]
    rest = rng.permutation([index for index in pool if index not in quirks])
    return quirks | {int(index): quirk for index, quirk in zip(rest, others, strict=False)}


def _draft(index: int, site: int, season: str, turn: int, rng: np.random.Generator) -> Sequence:
    """A sequence with place and time but no animal yet; later turns are later in time."""
    night = bool(rng.random() < _NIGHT_SHARE)
    hour = (19 + rng.uniform(0.2, 10.3)) if night else rng.uniform(6.4, 18.3)
    first_day = datetime(2010, 7, 18) if season == "S1" else datetime(2015, 11, 2)  # noqa: DTZ001 - cameras know no zone
    taken = first_day + timedelta(days=3 * turn + site % 3, seconds=int(hour * 3600))
    return Sequence(
        index=index,
        site=site,
        location=_location(site),
        season=season,
        number=1 + 3 * turn + int(rng.integers(3)),
        picture=1 + 5 * turn + int(rng.integers(3)),
        num_frames=int(rng.choice((1, 2, 3), p=(0.35, 0.25, 0.4))),
        taken=taken,
        night=night,
        labels=(),
        animals=0,
    )


def _location(site: int) -> str:
    """The site's name; one is called like a season, as in the real grid."""
    if site == 0:
        return "S10"
    return f"{'BCDEFGHIJKLMNOPQRT'[site * 5 % 18]}{site * 7 % 13 + 1:02d}"


def _play(draft: Sequence, card: str, quirk: str, rng: np.random.Generator) -> Sequence:
    """The draft with its animals, labels and oddity."""
    herd = int(rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15)))
    other = str(rng.choice([name for name in ANIMALS if name != card]))
    if card == "unlabelled":
        return replace(draft, num_frames=1)
    if card == "human":
        return replace(draft, num_frames=1, labels=(card,), quirk="missing")
    if card == "empty":
        herd = 0
    return replace(
        draft,
        num_frames={"leaves": 3, "unknown": 1}.get(quirk, draft.num_frames),
        labels=(card, other)[: 1 + (quirk == "two_species")],
        animals={"two_species": 1, "herd": 3, "number": 2}.get(quirk, herd),
        quirk=quirk,
    )


def _site_of(sequence: Sequence) -> int:
    return sequence.site


# --- The photographs -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """All photographs of one site, whose landscape is built once."""

    settings: SampleSettings
    images: Path
    sequences: tuple[Sequence, ...]

    def draw(self) -> None:
        """Write the site's files."""
        settings = self.settings
        key = (settings.seed, _SCENE, self.sequences[0].site)
        scene = build_scene(key, (settings.width, settings.height))
        for sequence in self.sequences:
            for frame in range(sequence.num_frames):
                path = self.images / sequence.file_name(frame)
                path.parent.mkdir(parents=True, exist_ok=True)
                body = _file_body(scene, sequence, frame, settings.seed)
                if body is None:
                    path.unlink(missing_ok=True)  # left by an earlier season in this folder
                else:
                    path.write_bytes(body)


def _draw_together(tasks: list[_Task], num_processes: int) -> None:
    """Draw one site per process at a time."""
    with ProcessPoolExecutor(
        min(num_processes, len(tasks)), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        for _ in pool.map(_Task.draw, tasks):
            pass  # asking for the result raises what the process raised


def _file_body(scene: Scene, sequence: Sequence, frame: int, seed: int) -> bytes | None:
    """The bytes of one file, broken where the plan says so; ``None`` when there is no file."""
    quirk = sequence.quirk if frame == 0 else ""
    if quirk == "missing":
        return None
    if quirk == "no_bytes":
        return b""
    rng = generator(seed, _FRAME, sequence.index, frame)
    photo = draw_photo(scene, _shot(sequence, frame, seed), rng)
    if quirk == "png":
        return _png(photo)
    jpeg = to_jpeg(photo, _exif(sequence, frame))
    return jpeg[: len(jpeg) * 6 // 10] if quirk == "truncated" else jpeg


def _png(photo: Image.Image) -> bytes:
    """The photograph at a quarter of its pixels as PNG, as someone's viewer might have saved it."""
    buffer = io.BytesIO()
    photo.reduce(2).save(buffer, "PNG")
    return buffer.getvalue()


def _shot(sequence: Sequence, frame: int, seed: int) -> Shot:
    """What this frame shows; everything but the animals' places is the same in a sequence."""
    rng = generator(seed, _ANIMALS, sequence.index)
    exposure, warmth = rng.uniform(0.92, 1.06), rng.integers(-3, 4)
    animals = place_animals(sequence.labels * sequence.animals, rng)
    camera = sequence.camera
    gone = sequence.quirk == "leaves" and frame == sequence.num_frames - 1
    return Shot(
        animals=() if gone else animals,
        frame=frame,
        taken=sequence.taken + timedelta(seconds=frame),
        night=sequence.night,
        exposure=exposure,
        brand=camera.brand,
        dark_banner=camera.dark_banner,
        celsius=int((16 if sequence.night else 26) + warmth),
        site=sequence.location,
    )


def _exif(sequence: Sequence, frame: int) -> Image.Exif:
    """The camera's header fields."""
    camera = sequence.camera
    taken = f"{sequence.taken + timedelta(seconds=frame):%Y:%m:%d %H:%M:%S}"
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0131] = camera.make, camera.model, camera.software
    exif[0x0112] = 1  # upright
    exif[0x0132] = taken
    detail = exif.get_ifd(0x8769)
    detail[0x9003] = detail[0x9004] = taken
    return exif


# --- The label file ------------------------------------------------------------------------------


def _label_file(settings: SampleSettings, sequences: list[Sequence]) -> dict[str, Any]:
    """The label file's content in COCO Camera Traps form, oddities included."""
    return {
        "info": {
            "version": "2.1",
            "description": "A drawn season in the form of Snapshot Serengeti: no real photograph",
            "date_created": "2019",
            "contributor": "serengeti-etl",
        },
        "categories": [{"id": i, "name": n} for i, n in enumerate(PUBLISHED_CATEGORIES)],
        "images": [
            _image_row(settings, sequence, frame)
            for sequence in sequences
            for frame in range(sequence.num_frames)
        ],
        "annotations": [
            row for sequence in sequences for row in _annotation_rows(settings, sequence)
        ],
    }


def _image_row(settings: SampleSettings, sequence: Sequence, frame: int) -> dict[str, Any]:
    """One image; a few know neither their size nor their place and time."""
    known = sequence.quirk != "unknown"
    return {
        "id": sequence.image_id(frame),
        "file_name": sequence.file_name(frame),
        "frame_num": frame + 1,
        "seq_id": sequence.seq_id,
        "width": settings.width if known else -1,
        "height": settings.height if known else -1,
        "corrupt": False,
        "location": sequence.location if known else "unknown",
        "seq_num_frames": sequence.num_frames if known else -1,
        "datetime": str(sequence.taken) if known else "unknown",
    }


def _annotation_rows(settings: SampleSettings, sequence: Sequence) -> Iterator[dict[str, Any]]:
    """Each label of the sequence, copied to each of its frames."""
    rng = generator(settings.seed, _ROWS, sequence.index)
    subject = _subject(sequence, rng)
    known = sequence.quirk != "unknown"
    for label in sequence.labels:
        votes = _votes(label, sequence, rng)
        for frame in range(sequence.num_frames):
            yield {
                "sequence_level_annotation": True,
                "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
                "category_id": PUBLISHED_CATEGORIES.index(label),
                "seq_id": sequence.seq_id,
                "season": sequence.season,
                "datetime": str(sequence.taken) if known else "unknown",
                "subject_id": subject,
                **votes,
                "image_id": sequence.image_id(frame),
                "location": sequence.location if known else "unknown",
            }


def _subject(sequence: Sequence, rng: np.random.Generator) -> str | int:
    """The volunteers' number of the sequence: a string in S1, a whole number in S11."""
    if sequence.season != "S1":
        return 31_000_000 + 97 * sequence.index + int(rng.integers(97))
    digits = np.array(list("0123456789abcdefghijklmnopqrstuvwxyz"))
    return "ASG000" + "".join(rng.choice(digits, 4))


def _votes(label: str, sequence: Sequence, rng: np.random.Generator) -> dict[str, Any]:
    """What the volunteers said of number and behaviour; nothing (NaN) without an animal."""
    behaviours = ("standing", "resting", "moving", "interacting", "young_present")
    if label in ("empty", "human"):
        return dict.fromkeys(("count", *behaviours), float("nan"))
    odd: dict[str, str | float] = {"herd": "11-50", "number": 2.0}
    count = odd.get(sequence.quirk, str(sequence.animals))
    voters = int(rng.integers(8, 17))
    shares = rng.integers(0, voters + 1, 5) * (rng.random(5) < (0.9, 0.2, 0.6, 0.2, 0.1))
    said = {name: round(int(n) / voters, 12) for name, n in zip(behaviours, shares, strict=True)}
    return {"count": count, **said}
