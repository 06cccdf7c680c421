"""The pages over a dataset, as routes: all images by filters, and one sample."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from serengeti_etl.browse.filters import FACETS, ORDERS, Facet, Filter
from serengeti_etl.browse.images import Images, natural, read_images
from serengeti_etl.browse.pictures import Pictures, picture_of_text
from serengeti_etl.browse.predictions import Predictions, read_predictions
from serengeti_etl.browse.provenance import read_provenance
from serengeti_etl.browse.query import Found, Query
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.errors import SerengetiError
from serengeti_etl.retry import is_transient
from serengeti_etl.templates import Templates
from serengeti_etl.web.answers import (
    ASK_AGAIN,
    FOR_EVER,
    NOT_KEPT,
    Answer,
    PageError,
    Request,
    Route,
    unchanged,
)
from serengeti_etl.web.files import file_route

PACKAGE = "serengeti_etl.browse"
PAGE_SIZE = 60
"""Images on a page."""

_JPEG, _SVG, _JSON = "image/jpeg", "image/svg+xml", "application/json"
_ROW = r"(?P<row>[0-9]{1,10})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One value of a facet.

    Attributes:
        name: of the value.
        count: images that it would give.
        percent: of the most that any value would give.
        is_on: whether it is chosen.
        query: of the address that chooses it, or does no longer.
    """

    name: str
    count: int
    percent: float
    is_on: bool
    query: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One image as it is shown.

    Attributes:
        row: of the image.
        image_id: its key.
        labels: what it shows.
        site: where it was taken.
        time: when, or "".
        frame: its number in the sequence.
        version: of its bytes.
        size: width and height in px.
        query: of the address of its page.
        predicted: likeliest category, or "" where nothing was predicted.
        percent: its probability.
        is_wrong: whether it is none of the labels.
    """

    row: int
    image_id: str
    labels: tuple[str, ...]
    site: str
    time: str
    frame: int
    version: str
    size: tuple[int, int]
    query: str
    predicted: str
    percent: str
    is_wrong: bool


class Pages:
    """All pages over one dataset.

    Args:
        dataset: to show.
        images: its rows.
        predictions: of a model, if there are any.
    """

    def __init__(
        self, dataset: Dataset, images: Images, predictions: Predictions | None = None
    ) -> None:
        self._dataset, self._images, self._said = dataset, images, predictions
        self._query = Query(images, predictions)
        self._pictures = Pictures(dataset, images)
        self._templates = Templates(PACKAGE)

    @property
    def num_images(self) -> int:
        """Of the dataset."""
        return len(self._images)

    def routes(self) -> tuple[Route, ...]:
        """For a ``WebServer``."""
        return (
            Route(pattern="/", answer=self._all),
            Route(pattern="/sample", answer=self._sample),
            Route(pattern=f"/tile/{_ROW}", answer=self._tile, is_slow=True),
            Route(pattern=f"/picture/{_ROW}", answer=self._picture, is_slow=True),
            Route(pattern=f"/provenance/{_ROW}", answer=self._provenance, is_slow=True),
            file_route(PACKAGE),
        )

    def _all(self, request: Request) -> Answer:
        wanted = Filter.of_query(request.query)
        found = self._query.find(wanted)
        num_pages = max(1, -(-len(found.rows_M) // PAGE_SIZE))
        page = _page_number(request, num_pages)
        rows = found.rows_M[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        pages = {name: wanted.query(page=at) for name, at in _near(page, num_pages).items()}
        body = self._templates.page(
            "all.html",
            **self._common(wanted),
            cards=[self._card(int(row), wanted) for row in rows],
            num_found=len(found.rows_M),
            num_sequences=found.num_sequences,
            facets={facet: list(_choices(facet, wanted, found)) for facet in FACETS},
            chips=list(_chips(wanted)),
            days=self._query.days(),
            orders=ORDERS,
            page=page,
            num_pages=num_pages,
            pages=pages,
        )
        return Answer(body=body.encode(), cache=ASK_AGAIN)

    def _sample(self, request: Request) -> Answer:
        wanted = Filter.of_query(request.query)
        image_id = request.value("id")
        row = self._images.find(image_id)
        if row is None:
            raise PageError(404, f"the dataset has no image {image_id!r}")
        found = self._query.find(wanted)
        place = found.place(row)
        near: dict[str, str] = {}
        if place is not None:
            around = {"previous": place - 1, "next": place + 1}
            near = {
                name: self._card(int(found.rows_M[at]), wanted).query
                for name, at in around.items()
                if 0 <= at < len(found.rows_M)
            }
        body = self._templates.page(
            "sample.html",
            **self._common(wanted),
            card=self._card(row, wanted),
            frames=[self._card(one, wanted) for one in self._images.sequence_rows(row)],
            facts=self._facts(row),
            place=place,
            num_found=len(found.rows_M),
            near=near,
            back=wanted.query(page=(place or 0) // PAGE_SIZE + 1),
        )
        return Answer(body=body.encode(), cache=ASK_AGAIN)

    def _tile(self, request: Request) -> Answer:
        return self._bytes(request, is_tile=True)

    def _picture(self, request: Request) -> Answer:
        return self._bytes(request, is_tile=False)

    def _bytes(self, request: Request, *, is_tile: bool) -> Answer:
        row = self._row(request)
        version = self._pictures.version(row)
        cache = FOR_EVER if request.value("v") == version else ASK_AGAIN
        etag = f"{version}-{'tile' if is_tile else 'whole'}"
        if etag in request.etags:
            return unchanged(etag, cache)
        try:
            jpeg = self._pictures.tile(row) if is_tile else self._pictures.jpeg(row)
        except (SerengetiError, OSError) as error:
            status = 503 if is_transient(error) else 502
            return Answer(body=picture_of_text(str(error)), kind=_SVG, status=status)
        return Answer(body=jpeg, kind=_JPEG, cache=cache, etag=etag)

    def _provenance(self, request: Request) -> Answer:
        row = self._row(request)
        try:
            value = asdict(read_provenance(self._dataset, self._images, self._pictures, row))
        except (SerengetiError, OSError) as error:
            value = {"facts": {}, "said": "", "problem": str(error)}
        return Answer(body=json.dumps(value).encode(), kind=_JSON, cache=NOT_KEPT)

    def _row(self, request: Request) -> int:
        row = int(request.parts["row"])
        if row >= len(self._images):
            raise PageError(404, f"the dataset has no image number {row}")
        return row

    def _common(self, wanted: Filter) -> dict[str, Any]:
        return {
            "name": self._dataset.info.name,
            "url": self._dataset.store.url,
            "num_images": len(self._images),
            "wanted": wanted,
            "has_predictions": self._said is not None,
        }

    def _card(self, row: int, wanted: Filter) -> Card:
        images, said = self._images, self._said
        code = int(said.codes_N[row]) if said else -1
        image_id = images.image_ids[row].as_py()
        return Card(
            row=row,
            image_id=image_id,
            labels=images.labels(row),
            site=images.columns["site"].name(row),
            time=self._time(row),
            frame=int(images.frame_N[row]),
            version=self._pictures.version(row),
            size=(int(images.size_N2[row, 0]), int(images.size_N2[row, 1])),
            query=wanted.query(id=image_id),
            predicted=said.names[code] if said and code >= 0 else "",
            percent=f"{said.probability_N[row]:.0%}" if said and code >= 0 else "",
            is_wrong=bool(said and said.is_wrong_N[row]),
        )

    def _time(self, row: int) -> str:
        time = self._images.time(row)
        return "" if time is None else str(time).replace("T", " ")

    def _facts(self, row: int) -> dict[str, str]:
        images, shard = self._images, self._images.shard(row)
        start, num_bytes = int(images.offset_N[row]), int(images.num_bytes_N[row])
        facts = {
            "key": images.image_ids[row].as_py(),
            "sequence": images.sequences[int(images.sequence_N[row])].as_py(),
            "frame": str(images.frame_N[row]),
            "site": images.columns["site"].name(row),
            "season": images.columns["season"].name(row),
            "time of the camera": self._time(row),
            "split": shard.split,
            "shard": shard.tar_name,
            "size": f"{images.size_N2[row, 0]} × {images.size_N2[row, 1]} px",
            "bytes": f"{num_bytes:,} from {start:,}",
        }
        return {name: value for name, value in facts.items() if value}


def open_pages(url: str, predictions: str | None = None) -> Pages:
    """The pages over the dataset at ``url``, with what a model said, if that is given.

    Raises:
        DatasetError: there is no finished dataset, or its index is damaged.
        ConfigError: the predictions are none, or of another dataset.
        OSError: something cannot be read.
    """
    dataset = open_dataset(url)
    images = read_images(dataset)
    said = None if predictions is None else read_predictions(predictions, images)
    return Pages(dataset, images, said)


def _page_number(request: Request, num_pages: int) -> int:
    text = request.value("page") or "1"
    if not (text.isascii() and text.isdecimal() and len(text) < len("1234567890")):
        raise PageError(400, f"page is {text!r}, but it must be a number")
    return min(max(1, int(text)), num_pages)


def _near(page: int, num_pages: int) -> dict[str, int]:
    near = {"first": 1, "previous": page - 1, "next": page + 1, "last": num_pages}
    return {name: at for name, at in near.items() if at != page and 1 <= at <= num_pages}


def _choices(facet: Facet, wanted: Filter, found: Found) -> Iterator[Choice]:
    """The facet's values, and what is chosen though it would give nothing."""
    chosen = wanted.chosen.get(facet, ())
    counts = dict.fromkeys(chosen, 0) | found.counts[facet]
    most = max(counts.values(), default=0) or 1
    for name in sorted(filter(None, counts), key=natural):
        yield Choice(
            name=name,
            count=counts[name],
            percent=round(100 * counts[name] / most, 1),
            is_on=name in chosen,
            query=wanted.toggled(facet, name).query(),
        )


def _chips(wanted: Filter) -> Iterator[tuple[str, str, str]]:
    """Of all that is chosen: a word, the value, and the query without it."""
    for facet, values in wanted.chosen.items():
        for value in values:
            yield facet, value, wanted.toggled(facet, value).query()
    if wanted.since is not None:
        yield "from", wanted.since.isoformat(), replace(wanted, since=None).query()
    if wanted.until is not None:
        yield "to", wanted.until.isoformat(), replace(wanted, until=None).query()
    if wanted.is_wrong:
        yield "prediction", "wrong", replace(wanted, is_wrong=False).query()
