"""What a person should know of a label file before it costs anything: counts, and what is odd.

None of it is fatal: what makes a catalog ambiguous was refused before.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from serengeti_etl.catalog.database import Database, text
from serengeti_etl.label_config import EMPTY

EARLIEST = "1990-01-01"
"""No camera trap of today's kind took photographs before."""

_NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One kind of oddity.

    Attributes:
        name: short, for counting.
        meaning: one sentence for a person: what it is, and what becomes of it.
        unit: what is counted: ``images``, ``sequences``, ``frames`` or ``annotations``.
        count: how many of them.
        examples: a few of them, as a rule the first three, sorted.
    """

    name: str
    meaning: str
    unit: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What a label file holds.

    Attributes:
        num_images: images.
        num_sequences: sequences.
        num_sites: sites with a name.
        num_seasons: seasons with a name.
        num_annotations: annotations of these images and sequences.
        first: earliest possible date and time, as text; None without any.
        last: latest possible one.
        frames: number of sequences by their number of frames.
        categories: for each category its name, images and sequences, most images first.
    """

    num_images: int
    num_sequences: int
    num_sites: int
    num_seasons: int
    num_annotations: int
    first: str | None
    last: str | None
    frames: tuple[tuple[int, int], ...]
    categories: tuple[tuple[str, int, int], ...]


def count_all(database: Database) -> Overview:
    """The counts of a database that ``join_rows`` has filled."""
    rows = database.rows(f"""
        SELECT count(*), count(DISTINCT seq_id), count(DISTINCT nullif(site, '')),
            count(DISTINCT nullif(season, '')),
            min(datetime) FILTER ({_POSSIBLE}), max(datetime) FILTER ({_POSSIBLE}) FROM images""")
    num_images, num_sequences, num_sites, num_seasons, first, last = rows[0]
    return Overview(
        num_images=num_images,
        num_sequences=num_sequences,
        num_sites=num_sites,
        num_seasons=num_seasons,
        num_annotations=database.value("SELECT count(*) FROM annotations"),
        first=str(first) if first else None,
        last=str(last) if last else None,
        frames=tuple(
            database.rows("""
            SELECT frames, count(*) FROM (SELECT count(*) AS frames FROM images GROUP BY seq_id)
            GROUP BY frames ORDER BY frames""")
        ),
        categories=tuple(
            database.rows("""
            SELECT category, count(*), count(DISTINCT seq_id)
            FROM (SELECT seq_id, unnest(labels) AS category FROM images)
            GROUP BY category ORDER BY count(*) DESC, category""")
        ),
    )


def find_all(database: Database, dropped: Iterable[str]) -> tuple[Finding, ...]:
    """What is odd in a database that ``join_rows`` has filled; only kinds that occur.

    Args:
        database: with its tables.
        dropped: categories that the rules drop, such as ``human``.
    """
    return tuple(_findings(database, tuple(dropped)))


def _findings(database: Database, dropped: tuple[str, ...]) -> Iterator[Finding]:
    for name, unit, meaning, query in _kinds(dropped):
        # The query gives one example per thing to count.
        sql = f"SELECT count(*), min(example, {_NUM_EXAMPLES}) FROM ({query}) AS odd(example)"
        ((count, examples),) = database.rows(sql)
        if count:
            yield Finding(
                name=name, meaning=meaning, unit=unit, count=count, examples=tuple(examples)
            )


_POSSIBLE = f"datetime >= '{EARLIEST}' AND datetime <= now()::TIMESTAMP + INTERVAL 1 DAY"


def _kinds(dropped: tuple[str, ...]) -> Iterator[tuple[str, str, str, str]]:
    """Name, unit, meaning and query of each kind of finding."""
    yield (
        "same path",
        "images",
        "another image names the same file: the first by id is kept, the others are duplicates",
        _repeats("i.file_name = first.file_name"),
    )
    yield (
        "same content",
        "images",
        "another image has the same content hash: likewise",
        _repeats("i.file_name <> first.file_name"),
    )
    yield (
        "no label",
        "images",
        "nothing is said of them: excluded",
        "SELECT image_id FROM images WHERE len(labels) = 0",
    )
    yield (
        "label without image",
        "annotations",
        "they name an image or a sequence that the file does not list: ignored",
        """SELECT coalesce(a.key, a.seq_id) || ': ' || a.category FROM annotation_rows AS a
           WHERE (a.key IS NOT NULL AND NOT EXISTS (FROM frames AS f WHERE f.key = a.key))
           OR (a.key IS NULL AND NOT EXISTS (FROM frames AS f WHERE f.seq_id = a.seq_id))""",
    )
    yield (
        "sequence at two sites",
        "sequences",
        "no split can keep both its images together and its sites apart: excluded",
        """SELECT seq_id || ': ' || min(site) || ', ' || max(site) FROM images
           GROUP BY seq_id HAVING min(site) <> max(site)""",
    )
    yield (
        "repeated frame",
        "frames",
        "another image of the sequence has the same frame number: ordered by id",
        """SELECT max(image_id) FROM images GROUP BY seq_id, frame_num HAVING count(*) > 1""",
    )
    yield (
        "contradiction",
        "images",
        f"labelled {EMPTY!r} and something else: excluded, unless the rules keep them",
        f"""SELECT image_id || ': ' || array_to_string(labels, ', ') FROM images
            WHERE len(labels) > 1 AND list_contains(labels, {text(EMPTY)})""",
    )
    yield (
        "impossible date",
        "images",
        f"no date, before {EARLIEST[:4]} or in the future; unreadable ones count as unknown",
        f"""SELECT image_id || ': ' || written FROM image_rows WHERE written IS NOT NULL
            AND (moment IS NULL OR NOT ({_POSSIBLE.replace("datetime", "moment")}))""",
    )
    yield (
        "no date",
        "images",
        "the file gives no date and time",
        "SELECT image_id FROM image_rows WHERE written IS NULL",
    )
    yield (
        "no site",
        "images",
        "the file does not say where they were taken",
        "SELECT image_id FROM images WHERE site = ''",
    )
    if dropped:
        names = ", ".join(text(name) for name in dropped)
        yield (
            "withheld",
            "images",
            f"labelled {' or '.join(dropped)}, which the rules drop: excluded",
            f"SELECT image_id FROM images WHERE list_has_any(labels, [{names}])",
        )


def _repeats(condition: str) -> str:
    return f"""
        SELECT i.image_id || ' = ' || i.duplicate_of FROM images AS i
            JOIN images AS first ON i.duplicate_of = first.image_id
        WHERE {condition}"""
