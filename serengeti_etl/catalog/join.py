"""Label rows joined: which labels and sequence each image has, in an order no input decides.

What a file says of a whole sequence is copied to its frames, as LILA does, but only to those of
which it says nothing by themselves. Where a file knows no sequences, they are made: images of one
site that follow each other within a gap are one sequence.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serengeti_etl.catalog.database import Database, text
from serengeti_etl.catalog.rows import UNKNOWN
from serengeti_etl.catalog.table import (
    ANNOTATION_ORDER,
    ANNOTATION_SCHEMA,
    CATALOG_ORDER,
    CATALOG_SCHEMA,
)
from serengeti_etl.errors import CatalogError

_MAX_KEY_BYTES = 240
"""ustar keeps at most 155 + 1 + 100 bytes of a name; ``.json`` must fit too."""

_NUM_ROWS_PER_GROUP = 131_072
_SEPARATOR = "chr(29)"
_DAY = r"'^(\d{4})[-:/](\d\d)[-:/](\d\d)'"
"""A day as ISO, EXIF or Reconyx write it; what begins otherwise is not guessed at."""
_ZONE = r"'([zZ]|[+-]\d\d:?\d\d)$'"
"""A zone at the end of a time: the catalog keeps what the camera's clock showed."""


def join_rows(database: Database, scratch: Path, gap_seconds: float) -> None:
    """Tables ``frames`` and ``said`` in ``database``, and two sorted Parquet files in ``scratch``.

    Reads ``images.rows`` and ``annotations.rows`` of ``RowWriter``; writes ``images.parquet`` and
    ``annotations.parquet`` with the columns of the catalog's two schemas.

    Args:
        database: of this label file alone.
        scratch: local folder.
        gap_seconds: where sequences are made, the longest time between two frames of one.

    Raises:
        CatalogError: two images have one id, or an id cannot be a key in a tar.
    """
    images, annotations = scratch / "images.rows", scratch / "annotations.rows"
    database.run(f"CREATE VIEW image_rows AS {_parsed(images)}")
    database.run(f"CREATE VIEW annotation_rows AS FROM read_parquet({text(annotations)})")
    _refuse_ambiguous(database)
    _gather_labels(database)
    _place_frames(database, gap_seconds)
    _find_repeats(database)
    database.write(_IMAGES, scratch / "images.parquet")
    database.run(f"CREATE VIEW images AS FROM read_parquet({text(scratch / 'images.parquet')})")
    database.write(_ANNOTATIONS, scratch / "annotations.sorted")
    _rewrite(scratch / "annotations.sorted", scratch / "annotations.parquet")
    database.run(
        f"CREATE VIEW annotations AS FROM read_parquet({text(scratch / 'annotations.parquet')})"
    )


def _rewrite(source: Path, target: Path) -> None:
    """The same rows in our schema and row groups: bytes that no version of DuckDB decides."""
    with (
        pq.ParquetFile(source) as file,
        pq.ParquetWriter(target, ANNOTATION_SCHEMA, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(batch_size=_NUM_ROWS_PER_GROUP, use_threads=False):
            writer.write_batch(batch.cast(ANNOTATION_SCHEMA), row_group_size=_NUM_ROWS_PER_GROUP)
    source.unlink()


def read_images(scratch: Path) -> pa.Table:
    """The joined images, as rows of ``CATALOG_SCHEMA``."""
    with pq.ParquetFile(scratch / "images.parquet") as file:
        parts = [
            file.read_row_group(at, use_threads=False).cast(CATALOG_SCHEMA)
            for at in range(file.num_row_groups)
        ]
    return pa.concat_tables(parts)


def _parsed(images: Path) -> str:
    """The image rows with their time read: null where the text is no time."""
    unknown = ", ".join(text(word) for word in UNKNOWN)
    return f"""
        SELECT * EXCLUDE (datetime),
            CASE WHEN lower(trim(datetime)) NOT IN ({unknown}) THEN trim(datetime) END AS written,
            CASE WHEN regexp_matches(written, {_DAY}) THEN try_cast(regexp_replace(
                regexp_replace(written, {_DAY}, '\\1-\\2-\\3'), {_ZONE}, '') AS TIMESTAMP_MS)
            END AS moment
        FROM read_parquet({text(images)})"""


def _refuse_ambiguous(database: Database) -> None:
    """Refuse what no rule can decide: no images, one id twice, ids that are no keys."""
    if database.value("SELECT count(*) FROM image_rows") == 0:
        raise CatalogError("the label file lists no images")
    repeated = database.rows("""
        SELECT image_id, count(*), min(file_name), max(file_name) FROM image_rows
        GROUP BY image_id HAVING count(*) > 1 ORDER BY image_id LIMIT 3""")
    if repeated:
        names = ", ".join(f"{name!r} ({count} rows)" for name, count, _, _ in repeated)
        _, _, first, last = repeated[0]
        raise CatalogError(
            f"image ids occur more than once, such as {names}, for {first!r} and {last!r}: each "
            "image needs an id of its own; remove the repeated rows from the label file"
        )
    _refuse_bad_keys(database)


def _refuse_bad_keys(database: Database) -> None:
    # ".." is impossible, dots are gone; a newline or a NUL would break a tar reader. ustar's name
    # field takes 100 bytes after the last cut at "/", and 155 before it.
    bad = database.rows(rf"""
        SELECT image_id FROM image_rows
        WHERE regexp_matches(image_id, '[\x00-\x1f]|^$|//|/$')
            OR strlen(image_id) > {_MAX_KEY_BYTES}
            OR (strlen(image_id) > 94 AND
                (strlen(parse_filename(image_id, false, 'forward_slash')) > 94
                 OR strlen(parse_dirpath(image_id, 'forward_slash')) > 155))
        ORDER BY image_id LIMIT 1""")
    if bad:
        raise CatalogError(
            f"image id {bad[0][0]!r} cannot name a file in a tar: it must have no control "
            "characters, no empty folder names, and at most 94 bytes, or folders of at most 155 "
            "bytes before a name of at most 94"
        )


def _gather_labels(database: Database) -> None:
    """Tables ``said`` and ``said_of_sequence``: labels by image key and by sequence."""
    for table, column, where in (
        ("said", "key", "key IS NOT NULL"),
        ("said_of_sequence", "seq_id", "key IS NULL"),
    ):
        database.run(f"""
            CREATE TABLE {table} AS
            SELECT {column}, min(season) AS season,
                string_agg(DISTINCT category, {_SEPARATOR} ORDER BY category) AS labels
            FROM annotation_rows WHERE {where} GROUP BY {column}""")


def _find_repeats(database: Database) -> None:
    """Tables ``same_file`` and ``same_content``: what several images share, and the first one."""
    for table, column in (("same_file", "file_name"), ("same_content", "content_hash")):
        database.run(f"""
            CREATE TABLE {table} AS
            SELECT {column}, min(image_id) AS first_id FROM image_rows
            WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1""")


def _place_frames(database: Database, gap_seconds: float) -> None:
    """Table ``frames``: key, image_id, seq_id, frame_num and labels of each image."""
    lowest, num_unknown = database.rows("""
        SELECT min(frame_num), count(*) FILTER (frame_num IS NULL OR seq_id IS NULL)
        FROM image_rows""")[0]
    if num_unknown:
        places = _made_places(gap_seconds)
    else:
        # Files that count from 0 do so throughout.
        shift = 1 if lowest == 0 else 0
        places = (
            f"SELECT key, seq_id, greatest(frame_num + {shift}, 1) AS frame_num FROM image_rows"
        )
    database.run(f"""
        CREATE TABLE frames AS
        WITH places AS ({places})
        SELECT places.*, said.key IS NOT NULL AS has_own,
            said_of_sequence.seq_id IS NOT NULL AS has_of_sequence,
            coalesce(said.labels, said_of_sequence.labels, '') AS labels,
            coalesce(said.season, said_of_sequence.season) AS season
        FROM places LEFT JOIN said USING (key) LEFT JOIN said_of_sequence USING (seq_id)""")


def _made_places(gap_seconds: float) -> str:
    """A query of sequence and frame number of each image, made where the file has none."""
    return f"""
        WITH timed AS (
            SELECT key, site, moment, file_name, image_id,
                moment - lag(moment) OVER in_time
                    <= to_milliseconds({int(gap_seconds * 1000)}) AS goes_on
            FROM image_rows
            WHERE seq_id IS NULL AND moment IS NOT NULL AND coalesce(site, '') <> ''
            WINDOW in_time AS (PARTITION BY site ORDER BY moment, file_name, image_id)),
        numbered AS (
            SELECT *, count(*) FILTER (goes_on IS NOT TRUE) OVER (
                PARTITION BY site ORDER BY moment, file_name, image_id ROWS UNBOUNDED PRECEDING
            ) AS number FROM timed),
        made AS (
            SELECT key, site || '#' || strftime(
                min(moment) OVER (PARTITION BY site, number), '%Y%m%dT%H%M%S') AS seq_id
            FROM numbered),
        placed AS (
            SELECT key, frame_num, moment, file_name, image_id,
                coalesce(image_rows.seq_id, made.seq_id, image_id) AS seq_id
            FROM image_rows LEFT JOIN made USING (key))
        SELECT key, seq_id, greatest(coalesce(frame_num, row_number() OVER (
            PARTITION BY seq_id ORDER BY moment, file_name, image_id)), 1)::INTEGER AS frame_num
        FROM placed"""


_IMAGES = f"""
    SELECT i.image_id, f.seq_id, f.frame_num, i.file_name, coalesce(i.site, '') AS site,
        coalesce(i.season, f.season, '') AS season, i.moment AS datetime,
        CASE WHEN f.labels = '' THEN [] ELSE string_split(f.labels, {_SEPARATOR}) END AS labels,
        i.given_split, i.width, i.height, i.content_hash,
        CASE WHEN same_file.first_id <> i.image_id THEN same_file.first_id
            WHEN same_content.first_id <> i.image_id THEN same_content.first_id
        END AS duplicate_of
    FROM image_rows AS i JOIN frames AS f USING (key)
        LEFT JOIN same_file USING (file_name) LEFT JOIN same_content USING (content_hash)
    ORDER BY {", ".join(CATALOG_ORDER)}"""

_REST = [name for name in ANNOTATION_SCHEMA.names if name not in ("image_id", "seq_id")]
_COPIED = ", ".join("true AS is_of_sequence" if n == "is_of_sequence" else f"a.{n}" for n in _REST)
_OWN = ", ".join(f"a.{name}" for name in _REST)
_ALL = [*ANNOTATION_ORDER, *(n for n in ANNOTATION_SCHEMA.names if n not in ANNOTATION_ORDER)]

_ANNOTATIONS = f"""
    WITH keyed AS (
        SELECT f.*, i.image_id FROM frames AS f JOIN image_rows AS i USING (key)),
    everything AS (
        SELECT k.image_id, k.seq_id, {_OWN}
        FROM annotation_rows AS a JOIN keyed AS k USING (key)
        UNION ALL
        SELECT k.image_id, k.seq_id, {_COPIED}
        FROM annotation_rows AS a JOIN keyed AS k ON a.key IS NULL AND a.seq_id = k.seq_id
        WHERE NOT k.has_own
        UNION ALL
        SELECT NULL, a.seq_id, {_COPIED}
        FROM annotation_rows AS a WHERE a.key IS NULL AND a.seq_id IN (
            SELECT seq_id FROM frames WHERE has_of_sequence
            GROUP BY seq_id HAVING bool_and(has_own)))
    SELECT {", ".join(ANNOTATION_SCHEMA.names)} FROM everything ORDER BY {", ".join(_ALL)}"""
