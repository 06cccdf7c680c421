"""What a model said of each image: of all probabilities the highest, and whose it is.

Read from Parquet as ``evaluate`` writes it (``image_id`` and a column per category) or ``predict``
(``file``, ``category`` and ``probability``).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serengeti_etl.browse.images import Flags, Images, Int32, natural
from serengeti_etl.catalog.table import image_keys
from serengeti_etl.dataset.index import UNREADABLE
from serengeti_etl.errors import ConfigError
from serengeti_etl.storage import Store

_ROWS_AT_ONCE = 65_536
_NONE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Of each image, what it was taken for.

    Attributes:
        names: categories that were predicted.
        codes_N: place in ``names`` of the likeliest category; -1 where nothing was predicted.
        probability_N: of that category, 0 to 1; NaN where nothing was predicted.
        is_wrong_N: whether that category is none of the image's labels.
    """

    names: tuple[str, ...]
    codes_N: Int32
    probability_N: NDArray[np.float32]
    is_wrong_N: Flags


def read_predictions(url: str, images: Images) -> Predictions:
    """What the Parquet file at ``url`` says of ``images``; of others it may say what it likes.

    Raises:
        ConfigError: it is no such file, or knows none of these images.
        OSError: it cannot be read.
    """
    folder, _, name = url.rpartition("/")
    ids, categories, probabilities = [], [], []
    for some in _parts(Store(url=folder or ("/" if url.startswith("/") else ".")), name):
        ids.append(some[0])
        categories.append(some[1])
        probabilities.append(some[2])
    column = pa.chunked_array(ids, pa.string())
    row_N = _rows(images, column, url)
    has_N = row_N >= 0
    said = pa.chunked_array(categories).unify_dictionaries().combine_chunks()
    names = tuple(said.dictionary.to_pylist())
    codes_N = np.full(len(images), _NONE, np.int32)
    probability_N = np.full(len(images), np.nan, np.float32)
    given_N = pc.fill_null(said.indices, _NONE).to_numpy()[row_N[has_N]]
    codes_N[has_N] = given_N
    probability_N[has_N] = np.concatenate(probabilities)[row_N[has_N]]
    return _sorted(images, names, codes_N, probability_N)


def _rows(images: Images, ids: pa.ChunkedArray, url: str) -> NDArray[np.int64]:
    """Of each image, its row among the predictions; -1 without one."""
    for said in (ids, image_keys(ids)):  # `predict` names files
        found = pc.fill_null(pc.index_in(images.image_ids, value_set=said), _NONE)
        row_N: NDArray[np.int64] = found.to_numpy().astype(np.int64)
        if (row_N >= 0).any():
            return row_N
    example = ids[0].as_py() if len(ids) else "nothing"
    raise ConfigError(
        f"predictions {url} name none of the dataset's images: they begin with {example!r}, the "
        f"dataset with {images.image_ids[0].as_py()!r}; give those of this dataset"
    )


def _sorted(
    images: Images, names: tuple[str, ...], codes_N: Int32, probability_N: NDArray[np.float32]
) -> Predictions:
    order = sorted(range(len(names)), key=lambda at: natural(names[at]))
    # The last place is that of -1, none.
    place = np.full(len(names) + 1, _NONE, np.int32)
    place[order] = np.arange(len(names))
    ordered = tuple(names[at] for at in order)
    labels = images.columns["labels"]
    of_category = {category: at for at, category in enumerate(images.categories)}
    shows_LP = np.zeros((len(labels.names), len(names) + 1), np.bool_)
    for at, name in enumerate(ordered):
        if name in of_category:
            shows_LP[:, at] = images.shows_LC[:, of_category[name]]
    shows_LP[:, -1] = True  # nothing was said that could be wrong
    code_N = place[codes_N]
    return Predictions(
        names=ordered,
        codes_N=code_N,
        probability_N=probability_N,
        is_wrong_N=~shows_LP[labels.codes_N, code_N],
    )


Part = tuple[pa.Array, pa.Array, NDArray[np.float32]]


def _parts(store: Store, name: str) -> Iterator[Part]:
    """Ids, likeliest categories (dictionary encoded) and their probabilities, some at a time."""
    with store.open_input(name) as source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            columns = file.schema_arrow.names
            part = _predicted if {"file", "category", "probability"} <= {*columns} else _evaluated
            if part is _evaluated and "image_id" not in columns:
                raise ConfigError(
                    f"predictions {name} have no column image_id, as `evaluate` writes it, nor "
                    "file, category and probability, as `predict` does"
                )
            yield from (part(rows) for rows in file.iter_batches(_ROWS_AT_ONCE, use_threads=False))
        except (*UNREADABLE, pa.ArrowException) as error:
            if isinstance(error, ConfigError | OSError):
                raise
            raise ConfigError(
                f"predictions {name} cannot be read ({str(error).strip()}): give a Parquet file "
                "of images from `evaluate` or `predict`"
            ) from error


def _predicted(rows: pa.RecordBatch) -> Part:
    category = rows["category"].cast(pa.string()).dictionary_encode()
    probability = pc.fill_null(rows["probability"], float("nan")).to_numpy()
    return rows["file"].cast(pa.string()), category, probability.astype(np.float32)


def _evaluated(rows: pa.RecordBatch) -> Part:
    fields = [field for field in rows.schema if pa.types.is_floating(field.type)]
    if not fields:
        raise ConfigError("predictions have an image_id, but no column of probabilities")
    best_N = np.zeros(rows.num_rows, np.int32)
    highest_N = np.full(rows.num_rows, -np.inf)
    for at, field in enumerate(fields):
        value_N = rows[field.name].to_numpy(zero_copy_only=False)
        is_higher_N = value_N > highest_N
        best_N[is_higher_N] = at
        highest_N[is_higher_N] = value_N[is_higher_N]
    category = pa.DictionaryArray.from_arrays(
        pa.array(best_N, mask=np.isneginf(highest_N)), pa.array([field.name for field in fields])
    )
    highest_N[np.isneginf(highest_N)] = np.nan
    return rows["image_id"].cast(pa.string()), category, highest_N.astype(np.float32)
