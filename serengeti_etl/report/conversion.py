"""The report of a dataset: what became of every image, what is in it, and what it looks like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from serengeti_etl.config import SeasonPipeline
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.dataset.rejects import NO_NAME
from serengeti_etl.report.advice import dataset_advice, named, share_of_empty
from serengeti_etl.report.charts import Axis, Chart, Series, Stack, column_chart, line_chart
from serengeti_etl.report.figures import TRAIN, Figures, count_figures
from serengeti_etl.report.pages import MAX_NUM_BYTES, Key, count, large, percent, render, size
from serengeti_etl.report.rejected import read_rejected
from serengeti_etl.report.samples import Photograph
from serengeti_etl.report.shuffle import shuffle_quality
from serengeti_etl.report.throughput import Throughput, read_throughput
from serengeti_etl.report.thumbnails import Album, Sheet, fill_album
from serengeti_etl.storage import Store

if TYPE_CHECKING:
    from serengeti_etl.convert.season import Conversion

MAX_CLASSES, MAX_SITES, MAX_SITE_SHEETS, MAX_SEASONS, MAX_SIZES = 120, 60, 40, 40, 8
"""Rows and sheets that are shown; the rest is counted."""

_SLACK_NUM_BYTES = 20_000
_LONGEST_SETTING = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """How a dataset was made, as far as that is known.

    Attributes:
        pipeline: that made it; None if unknown.
        conversion: what the last run came to; None if it was not this process.
        output: where the conversion says how fast it was; None takes the dataset's own place.
    """

    pipeline: SeasonPipeline | None = None
    conversion: "Conversion | None" = None
    output: Store | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """One state of the ledger.

    Attributes:
        key: as dataset.json has it; names its colour.
        name: for people.
        num_images: in it.
        share: of the catalog.
        reasons: images by reason.
    """

    key: str
    name: str
    num_images: int
    share: float
    reasons: Mapping[str, int]


def dataset_page(dataset: Dataset, making: Making | None = None) -> bytes:
    """The report of ``dataset`` as one page of HTML, of at most ``MAX_NUM_BYTES``.

    Args:
        dataset: finished.
        making: how it was made; None if nobody knows any more.

    Raises:
        DatasetError: index or rejects are damaged or missing.
        OSError: the store failed on every try.
    """
    making = making or Making()
    figures = count_figures(dataset)
    categories, sites = _category_sheets(figures), _site_sheets(figures)
    values = _values(dataset, making, figures) | {"num_category_sheets": len(categories)}
    bare = _page(values, Album(sheets=(), num_left_out=0, problems=()))
    room = MAX_NUM_BYTES - len(bare) - _SLACK_NUM_BYTES
    page = _page(values, fill_album(dataset.store, [*categories, *sites], room))
    return page if len(page) <= MAX_NUM_BYTES else bare


def _page(values: Mapping[str, Any], album: Album) -> bytes:
    return render("dataset.html", **values, album=album)


def _values(dataset: Dataset, making: Making, figures: Figures) -> dict[str, Any]:
    info = dataset.info
    rejected = read_rejected(dataset, making.pipeline)
    shuffle = shuffle_quality(dataset, figures.train) if figures.train else None
    throughput = read_throughput(making.output or dataset.store)
    states = _states(info.ledger, figures)
    return {
        "info": info,
        "url": dataset.store.url,
        "keys": _keys(figures, states, len(info.classes)),
        "advice": dataset_advice(dataset, figures, rejected, shuffle),
        "states": states,
        "figures": figures,
        "largest_class": max((sum(by.values()) for by in figures.categories.values()), default=0),
        "categories": list(figures.categories.items())[:MAX_CLASSES],
        "sites": figures.sites[:MAX_SITES],
        "seasons": list(figures.seasons.items())[:MAX_SEASONS],
        "sizes": figures.sizes[:MAX_SIZES],
        "hours": _hours_chart(figures),
        "rejected": rejected,
        "shuffle": shuffle,
        "throughput": throughput,
        "rates": None if throughput is None else _rates_chart(throughput),
        "conversion": making.conversion,
        "stages": _stages(making.conversion),
        "settings": _settings(info.settings),
        "versions": {"serengeti-etl": version("serengeti-etl"), **info.versions},
        "no_name": NO_NAME,
        "train": TRAIN,
    }


def _keys(figures: Figures, states: Sequence[State], num_classes: int) -> list[Key]:
    total = sum(state.num_images for state in states)
    rejected = next(state for state in states if state.key == "rejected")
    before, after = figures.source_num_bytes, figures.num_bytes
    empty = share_of_empty(figures)
    blank = "" if empty is None else f"{percent(empty, 0)} of images are empty"
    smaller = f"of {size(before)} of photographs" if before else ""
    return [
        Key(name="images in shards", value=large(figures.num_images), note=f"of {count(total)}"),
        Key(name="sequences", value=large(figures.num_sequences)),
        Key(name="sites", value=count(len(figures.sites))),
        Key(name="categories", value=count(num_classes), note=blank),
        Key(
            name="rejected",
            value=large(rejected.num_images),
            note=f"{percent(rejected.share)} of the catalog",
            mood="bad" if rejected.num_images else "good",
        ),
        Key(name="JPEGs in shards", value=size(after), note=smaller),
    ]


def _states(ledger: Mapping[str, Any], figures: Figures) -> list[State]:
    """All states, also those that nothing is in."""
    counts = {"in_shards": {"": ledger.get("num_in_shards", figures.num_images)}}
    counts |= {key: dict(ledger.get(key, {})) for key in ("rejected", "excluded", "duplicates")}
    total = sum(sum(by.values()) for by in counts.values())
    names = {"in_shards": "in shards"}
    return [
        State(
            key=key,
            name=names.get(key, key),
            num_images=sum(by.values()),
            share=sum(by.values()) / max(1, total),
            reasons={} if key == "in_shards" else by,
        )
        for key, by in counts.items()
    ]


def _hours_chart(figures: Figures) -> Chart | None:
    if not any(map(sum, figures.hours)):
        return None
    labels = [f"{hour:02d}" for hour in range(24)]
    stacks = (
        Stack(name="with animals", heights=figures.hours[0], colour=3),
        Stack(name="empty", heights=figures.hours[1], colour=6),
    )
    return column_chart(labels, stacks, "Images by hour of the camera's clock")


def _rates_chart(throughput: Throughput) -> Chart:
    rates = throughput.rates
    hours = max(at for at, _ in rates) or 1 / 60
    in_minutes = hours < 2  # noqa: PLR2004 - hours
    scale = 60 if in_minutes else 1
    points = [(at * scale, rate) for at, rate in rates]
    x = Axis(label="minutes" if in_minutes else "hours", high=hours * scale)
    y = Axis(label="Images per second", high=max(rate for _, rate in rates))
    return line_chart([Series(name="", points=points)], x, y)


def _stages(conversion: "Conversion | None") -> list[tuple[str, float, float]]:
    """Name, seconds and share of all of each stage, the longest first."""
    seconds = dict(conversion.seconds) if conversion is not None else {}
    total = sum(seconds.values()) or 1
    ordered = sorted(seconds.items(), key=lambda pair: -pair[1])
    return [(name, spent, spent / total) for name, spent in ordered]


def _category_sheets(figures: Figures) -> list[Sheet]:
    sheets = []
    for name, found in list(figures.by_category.items())[:MAX_CLASSES]:
        if found:
            note = f"{count(sum(figures.categories[name].values()))} images"
            sheets.append(
                Sheet(name=name, note=note, photographs=found, caption=partial(_of_category, name))
            )
    return sheets


def _site_sheets(figures: Figures) -> list[Sheet]:
    return [
        Sheet(
            name=site.name or NO_NAME,
            note=f"{count(site.num_images)} images, {'/'.join(site.splits)}",
            photographs=figures.by_site[site.name],
            caption=_of_site,
        )
        for site in figures.sites[:MAX_SITE_SHEETS]
    ]


def _of_category(category: str, one: Photograph) -> str:
    when = f", {one.moment:%H:%M}" if one.moment else ""
    others = [label for label in one.labels if label != category]
    also = f", also {named(others)}" if others else ""
    return f"{one.site or NO_NAME}{when}{also}"


def _of_site(one: Photograph) -> str:
    when = f", {one.moment:%Y-%m-%d %H:%M}" if one.moment else ""
    return f"{named(list(one.labels)) or 'no label'}{when}"


def _settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Every setting by its full name, cut where it is a long list."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(settings.items()):
        if isinstance(value, Mapping) and value:
            rows += _settings(value, f"{prefix}{name}.")
        else:
            text = str(value)
            cut = text if len(text) <= _LONGEST_SETTING else f"{text[:_LONGEST_SETTING]}…"
            rows.append((f"{prefix}{name}", cut))
    return rows
