"""Label files of the true size and shape of Snapshot Serengeti, drawn from a seed.

    python benchmarks/label_files.py lila NUM_IMAGES out.json
    python benchmarks/label_files.py hakuna NUM_SEQUENCES folder

The real ones are not here. Totals, seasons, sites, key order, layout and oddities are the published
ones; which animal stood where is made up. Drawn season by season: the largest bounds the memory.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from serengeti_etl.sample import PUBLISHED_CATEGORIES

Numbers = NDArray[Any]

# Published totals of S1 to S11, four each: annotations, images, sites, sequences.
_SEASONS = np.reshape(
    """412858 411414 168 148226  583228 573200 174 204352  398689 392507 160 147299
    541872 531554 181 200595  839421 827224 178 311096  466411 462846 191 173093
    837043 832153 169 304492  989821 980256 203 359557  991858 982404 185 369307
    693889 685481 167 252974  506455 499401 125 188231""".split(),  # noqa: SIM905
    (11, 4),
).astype(int)
_LAST = 11
_ALL_IMAGES, _ALL_SEQUENCES, _ALL_UNKNOWN = 7_178_440, 2_659_222, 10_528

# The competition's classes in its order, each with its sequences per million.
_PER_MILLION = """aardvark 310 aardwolf 171 baboon 1154 bat 5 batearedfox 245 buffalo 9228
    bushbuck 160 caracal 47 cattle 9 cheetah 888 civet 30 dikdik 1125 duiker 32 eland 2281
    elephant 8200 empty 760000 gazellegrants 6394 gazellethomsons 37591 genet 28 giraffe 6195
    guineafowl 4460 hare 364 hartebeest 8055 hippopotamus 2017 honeybadger 33 hyenaspotted 4108
    hyenastriped 89 impala 6635 insectspider 304 jackal 531 koribustard 506 leopard 158
    lionfemale 2366 lionmale 710 mongoose 230 monkeyvervet 235 ostrich 509 otherbird 4275
    porcupine 231 reedbuck 1916 reptiles 62 rhinoceros 27 rodents 40 secretarybird 695 serval 551
    steenbok 5 topi 1663 vulture 33 warthog 5640 waterbuck 232 wildcat 39 wildebeest 76248
    zebra 53718 zorilla 16""".split()  # noqa: SIM905
HAKUNA_CLASSES = tuple(_PER_MILLION[::2])
# LILA has the humans too, whom the competition withheld, and six categories that are rare.
_SHARES = dict(zip((*HAKUNA_CLASSES, "human"), (*_PER_MILLION[1::2], "6500"), strict=True))
_NAMES = PUBLISHED_CATEGORIES
_EMPTY, _HUMAN, _ZEBRA, _WILDEBEEST = map(_NAMES.index, "empty human zebra wildebeest".split())  # noqa: SIM905

# The real grid: each row from its first number to 13, but for one.
_ROWS = "B3 C1 D2 E1 F1 G1 H1 I1 J1 K2 L1 M2 N2 O3 P3 Q4 R5 S7 T8 U9 V10".split()  # noqa: SIM905
_SITES = [f"{row[0]}{number:02d}" for row in _ROWS for number in range(int(row[1:]), 14)]
_SITES.remove("B11")

_DAYS = np.datetime_as_string(np.arange("2010-01-01", "2016-07-01", dtype="datetime64[D]")).tolist()
_CLOCK = [f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in range(86_400)]

_COUNTS = [*(f'"{n}"' for n in range(1, 11)), '"11-50"', '"51+"', "1.0", "2.0"]
_COUNT_CHANCES = np.array((460, 150, 90, 60, 45, 35, 25, 20, 15, 12, 65, 13, 6, 4)) / 1000
_BEHAVIOUR_CHANCES = (0.8, 0.25, 0.6, 0.15, 0.1)
_BLOCK = 4096

_NO_TIME, _LOST, _UNLABELLED, _NO_SIZE, _COPY = range(1, 6)
"""What is odd about a sequence: no time; no time, place and size; that and no label; no size;
" (2)" in its names."""


def write_lila(path: Path, *, num_images: int = _ALL_IMAGES, seed: int = 0) -> None:
    """``path`` in LILA's COCO Camera Traps v2.1, 5.3 GB when full.

    Raises:
        ValueError: ``num_images`` is less than 1,000.
    """
    num_sequences = round(num_images * _ALL_SEQUENCES / _ALL_IMAGES)
    num_unknown = round(num_sequences * _ALL_UNKNOWN / _ALL_SEQUENCES)
    seasons = _scale(_SEASONS, num_images, num_sequences, num_unknown)
    chances = _chances(_NAMES)
    info = {"version": "2.1", "description": "Made up", "date_created": "2019", "contributor": "-"}
    categories = [{"id": at, "name": name} for at, name in enumerate(_NAMES)]
    head = json.dumps({"info": info, "categories": categories}, indent=1).removesuffix("\n}")
    with _whole(path) as file:
        file.write(f'{head},\n "images": [\n')
        _write_list(file, _images(_draw(seasons, chances, seed)))
        file.write('\n ],\n "annotations": [\n')
        _write_list(file, _annotations(_draw(seasons, chances, seed), seed))
        file.write("\n ]\n}")


def write_hakuna(folder: Path, *, num_sequences: int = 2_500_000, seed: int = 0) -> None:
    """``train_metadata.csv`` and ``train_labels.csv`` in ``folder``, seasons S1 to S10.

    Raises:
        ValueError: ``num_sequences`` makes less than 1,000 images.
    """
    table = _SEASONS[:10]
    num_images = round(num_sequences * int(table[:, 1].sum()) / int(table[:, 3].sum()))
    seasons = _scale(table, num_images, num_sequences, 0)
    metadata, labels = folder / "train_metadata.csv", folder / "train_labels.csv"
    with _whole(metadata) as frames_file, _whole(labels) as labels_file:
        frames_file.write("seq_id,file_name,datetime\n")
        labels_file.write(",".join(("seq_id", *HAKUNA_CLASSES)) + "\n")
        for one in _draw(seasons, _chances(HAKUNA_CLASSES), seed):
            names = {_NAMES[label] for label in one.labels}
            cells = ",".join(["1" if name in names else "0" for name in HAKUNA_CLASSES])
            labels_file.write(f"{one.seq_id},{cells}\n")
            for _, file_name, time in one.frames:
                frames_file.write(f"{one.seq_id},{file_name},{time}\n")


# --- Text ----------------------------------------------------------------------------------------


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A file for text that gets its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="ascii", newline="\n", buffering=1 << 20) as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_list(file: TextIO, entries: Iterator[str]) -> None:
    separator = ""
    while batch := list(islice(entries, _BLOCK)):
        file.write(separator + ",\n".join(batch))
        separator = ",\n"


def _layout(fields: str) -> str:
    """One entry with a hole for each field; ``*`` marks text."""
    holes = (f'"{one[:-1]}": "%s"' if one[-1] == "*" else f'"{one}": %s' for one in fields.split())
    return "  {\n   " + ",\n   ".join(holes) + "\n  }"


_IMAGE = _layout(
    "id* file_name* frame_num seq_id* width height corrupt location* seq_num_frames datetime*"
)
_ANNOTATION = _layout(
    "sequence_level_annotation id* category_id seq_id* season* datetime* subject_id count standing "
    "resting moving interacting young_present image_id* location*"
)


class _Sequence(NamedTuple):
    """One burst as text; of each frame image id, file name and time."""

    season: str
    seq_id: str
    subject: str
    location: str
    size: tuple[int, int]
    num_frames: int
    labels: tuple[int, ...]
    frames: list[tuple[str, str, str]]


def _images(sequences: Iterator[_Sequence]) -> Iterator[str]:
    for one in sequences:
        tail = ("false", one.location, one.num_frames)
        for number, (image_id, file_name, time) in enumerate(one.frames, start=1):
            yield _IMAGE % (image_id, file_name, number, one.seq_id, *one.size, *tail, time)


def _annotations(sequences: Iterator[_Sequence], seed: int) -> Iterator[str]:
    """Each label of a sequence on each of its frames."""
    ids, votes = _annotation_ids(), _votes(seed)
    for one in sequences:
        for label in one.labels:
            said = ("NaN",) * 6 if label == _EMPTY else next(votes)
            if label == _HUMAN:
                said = ("NaN", *said[1:])
            values = (label, one.seq_id, one.season, one.frames[0][2], one.subject, *said)
            for image_id, _, _ in one.frames:
                yield _ANNOTATION % ("true", next(ids), *values, image_id, one.location)


def _annotation_ids() -> Iterator[str]:
    """Unlike ids that rise as a clock does."""
    for at in count():
        yield f"{0x4E2C0000 + 5 * at:08x}-91f8-11e9-{0x8000 + 7919 * at % 0x4000:04x}-000d3a198845"


def _votes(seed: int) -> Iterator[tuple[str, ...]]:
    """Count and behaviours as volunteers gave them: shares of 5 to 24 voters, twelve digits."""
    rng = np.random.default_rng((seed, _LAST + 1))
    shares = [[str(float(f"{k / max(n, 1):.12g}")) for k in range(n + 1)] for n in range(25)]
    while True:
        counts = rng.choice(_COUNTS, _BLOCK, p=_COUNT_CHANCES).tolist()
        voters = rng.integers(5, len(shares), (_BLOCK, 1))
        wanted = rng.random((_BLOCK, len(_BEHAVIOUR_CHANCES)))
        wanted *= rng.random(wanted.shape) < _BEHAVIOUR_CHANCES
        agreed = np.rint(wanted * voters).astype(int).tolist()
        for given, (num_voters,), row in zip(counts, voters.tolist(), agreed, strict=True):
            yield (given, *[shares[num_voters][k] for k in row])


def _sequence(row: list[int]) -> _Sequence:
    """The text of one row of ``_draw_season``."""
    number, order, site, roll, capture, picture, num_frames, second, gap, *drawn, quirk = row
    season = f"SER_S{number}" if number == _LAST else f"S{number}"
    location = _SITES[site]
    stem = f"{season}/{location}/{location}_R{roll}/{season}_{location}_R{roll}_"
    stem += "PICT" if number == 1 else "P106" if (number, site % 20) == (7, 3) else "IMAG"
    copy = " (2)" if quirk == _COPY else ""
    ids = [f"{stem}{at:04d}{copy}" for at in range(picture, picture + num_frames)]
    ending = ".jpg" if (7 * site + roll + number) % 97 == 0 else ".JPG"
    times = ["unknown"] * num_frames
    if quirk in (0, _NO_SIZE, _COPY):
        moments = [divmod(second + at * gap, 86_400) for at in range(num_frames)]
        times = [f"{_DAYS[day]} {_CLOCK[rest]}" for day, rest in moments]
    frames = [(one, one + ending, time) for one, time in zip(ids, times, strict=True)]
    seq_id = f"SER_S{number}#{location}#{roll}#{capture}"
    subject = f'"ASG{400_000 * number + order:07x}"'
    if number == _LAST:
        subject = str(31_000_000 + order)
    size = (2560, 1920) if number in range(6, 11) and site % 2 else (2048, 1536)
    if quirk in (_LOST, _UNLABELLED):
        location, num_frames = "unknown", -1
    if quirk in (_LOST, _UNLABELLED, _NO_SIZE):
        size = (-1, -1)
    labels = () if quirk == _UNLABELLED else tuple([label for label in drawn if label >= 0])
    return _Sequence(season, seq_id, subject, location, size, num_frames, labels, frames)


# --- Which sequences exist -----------------------------------------------------------------------


def _scale(table: Numbers, num_images: int, num_sequences: int, num_unknown: int) -> Numbers:
    """A row for each season of ``table``, with these totals, as ``_draw_season`` takes it."""
    if num_images < 1000:  # noqa: PLR2004
        raise ValueError(f"{num_images:,} images are too few: ask for 1,000 or more")
    annotations, images, sites, sequences = table.T
    extra = annotations - images
    num_extra = _split(num_images * extra.sum() / images.sum(), extra)
    num_long = _split(num_sequences / 5000, sequences)
    parts = (_split(num_images, images), sites, _split(num_sequences, sequences))
    columns = (np.arange(1, 12)[: len(table)], num_extra, *parts, _split(num_unknown, sequences))
    return np.stack((*columns, num_long), axis=1)


def _split(total: float, weights: Numbers) -> Numbers:
    """Whole numbers in proportion to ``weights`` whose sum is ``total``, rounded."""
    bounds = np.rint(weights.cumsum() * round(total) / weights.sum()).astype(int)
    return np.diff(bounds, prepend=0)


def _chances(names: tuple[str, ...]) -> Numbers:
    """A probability for each published category, 0 for those not in ``names``."""
    every = [int(_SHARES.get(name, 5)) * (name in names) for name in _NAMES]
    chances = np.array(every) / 1e6
    animals = chances[_HUMAN + 1 :]
    animals *= (1 - chances[: _HUMAN + 1].sum()) / animals.sum()
    return chances


def _draw(seasons: Numbers, chances: Numbers, seed: int) -> Iterator[_Sequence]:
    """All sequences by season, site and time: the same ones each time it is called."""
    for season in seasons.tolist():
        rows = _draw_season(season, chances, np.random.default_rng((seed, season[0])))
        for at in range(0, len(rows), _BLOCK):
            yield from map(_sequence, rows[at : at + _BLOCK].tolist())


def _draw_season(season: list[int], chances: Numbers, rng: Generator) -> Numbers:
    """One row of numbers per sequence, as ``_sequence`` takes it."""
    number, num_extra, num_images, num_sites, num_sequences, num_unknown, num_long = season
    order = np.arange(num_sequences)
    frames = _draw_frames(num_sequences, num_images, num_long, rng)
    quirk = rng.choice((0, _NO_SIZE, _COPY), num_sequences, p=(0.999, 0.0005, 0.0005))
    # Dealt in turn, beginning elsewhere in each season, so that small files have every kind.
    kinds = np.roll((_NO_TIME, _LOST, _NO_TIME, _UNLABELLED), number)
    quirk[rng.choice(order, num_unknown, replace=False)] = np.resize(kinds, num_unknown)
    label = rng.choice(len(chances), num_sequences, p=chances)
    num_left = num_extra + int(frames[quirk == _UNLABELLED].sum())
    is_free = (label > _HUMAN) & (quirk != _UNLABELLED)
    other = _draw_others(np.where(is_free, frames, 0), num_left, rng, chances)
    other = np.where(other != label, other, np.where(label == _ZEBRA, _WILDEBEEST, _ZEBRA))
    sites = np.sort(rng.choice(len(_SITES), num_sites, replace=False))
    weights = rng.gamma(2, size=num_sites)
    site = np.sort(rng.choice(sites, num_sequences, p=weights / weights.sum()))
    # Half a year from every July and January on, as the seasons were.
    second = 86_400 * (16 + 182 * number) + rng.integers(0, 180 * 86_400, num_sequences)
    second = second[np.lexsort((second, site))]
    gap = rng.choice(3, num_sequences, p=(0.5, 0.4, 0.1))
    place = (np.full_like(order, number), order, site, *_number(site, frames, rng))
    columns = (*place, frames, second, gap, label, other, quirk)
    return np.stack(columns, axis=1, dtype=np.int32)


def _draw_frames(num_sequences: int, num_images: int, num_long: int, rng: Generator) -> Numbers:
    """Frames of each sequence, together ``num_images``: mostly three, a few up to 39."""
    long = 4 + (36 * rng.random(num_long) ** 3).astype(int)
    num_short = num_sequences - num_long
    num_lacking = 3 * num_short + int(long.sum()) - num_images
    ones = int(0.43 * num_lacking)  # makes 13 % of all
    twos = num_lacking - 2 * ones
    short = np.repeat((1, 2, 3), (ones, twos, num_short - ones - twos))
    return np.asarray(rng.permutation(np.concatenate((long, short))))


def _draw_others(frames: Numbers, num_left: int, rng: Generator, chances: Numbers) -> Numbers:
    """Second species on ``num_left`` of these frames together, -1 elsewhere."""
    free = rng.permutation(np.flatnonzero((frames > 0) & (frames <= 3)))  # noqa: PLR2004
    sums = frames[free].cumsum()
    taken, rest = free[sums <= num_left], free[sums > num_left]
    num_left -= int(frames[taken].sum())
    taken = np.concatenate((taken, rest[frames[rest] == num_left][:1]))
    other = np.full(len(frames), -1)
    animals = chances[_HUMAN + 1 :]
    other[taken] = _HUMAN + 1 + rng.choice(len(animals), len(taken), p=animals / animals.sum())
    return other


def _number(site: Numbers, frames: Numbers, rng: Generator) -> tuple[Numbers, Numbers, Numbers]:
    """Roll, capture and first picture of sequences sorted by site and time."""
    order = np.arange(len(site))
    _, first, group, size = np.unique(site, True, True, True)  # noqa: FBT003
    roll = 1 + (order - first[group]) * rng.integers(3, 12, len(first))[group] // size[group]
    _, first, group = np.unique(16 * site + roll, return_index=True, return_inverse=True)
    before = frames.cumsum() - frames
    return roll, 1 + order - first[group], 1 + before - before[first][group]


def main() -> None:
    """Write one."""
    kind, number, path = sys.argv[1:]
    if kind == "lila":
        write_lila(Path(path), num_images=int(number))
    else:
        write_hakuna(Path(path), num_sequences=int(number))


if __name__ == "__main__":
    main()
