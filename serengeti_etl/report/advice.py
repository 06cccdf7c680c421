"""What a person should look at, in sentences that say what to do."""

from collections.abc import Iterator
from typing import Any

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.label_config import EMPTY
from serengeti_etl.report.figures import TRAIN, Figures
from serengeti_etl.report.pages import count, percent
from serengeti_etl.report.rejected import Rejected
from serengeti_etl.report.shuffle import ShuffleQuality

VAL = "val"

FEW_IMAGES, FEW_SITES = 20, 5
MANY_REJECTED = 0.2
MIN_OF_SITE = 20
POOR_SHUFFLE = 0.95
LARGE_SITE = 0.5
MOST_NAMED = 8


def dataset_advice(
    dataset: Dataset, figures: Figures, rejected: Rejected, shuffle: ShuffleQuality | None
) -> list[str]:
    """What someone should look at in a dataset; [] if nothing."""
    return [
        *_ledger(dataset.info.ledger),
        *_categories(figures),
        *_sites(figures),
        *_rejects(figures, rejected),
        *_times(figures),
        *_shuffle(shuffle),
        *_papers(dataset.info.settings),
    ]


def _ledger(ledger: Any) -> Iterator[str]:
    if not ledger:
        return
    states = ("rejected", "excluded", "duplicates")
    total = ledger["num_in_shards"] + sum(sum(ledger[state].values()) for state in states)
    if total != ledger["num_images"]:
        yield (
            f"The ledger does not balance: {count(total)} images are accounted for, "
            f"{count(ledger['num_images'])} are in the catalog. Run serengeti-etl verify."
        )


def _categories(figures: Figures) -> Iterator[str]:
    splits = [split.name for split in figures.splits]
    if TRAIN not in splits or VAL not in splits:
        if figures.num_images:
            missing, use = (VAL, "score") if TRAIN in splits else (TRAIN, "train")
            yield f"There is no split {missing}: nothing to {use} on."
        return
    unseen = [n for n, by in figures.categories.items() if by.get(VAL) and not by.get(TRAIN)]
    if unseen:
        yield (
            f"Only in {VAL}, so that no model can learn them: {named(unseen)}. Split otherwise, or "
            "drop them by a rule."
        )
    unscored = [n for n, by in figures.categories.items() if by.get(TRAIN) and not by.get(VAL)]
    if unscored:
        yield f"Only in {TRAIN}, so that nobody knows how well they are told: {named(unscored)}."
    few = [n for n, by in figures.categories.items() if 0 < by.get(TRAIN, 0) < FEW_IMAGES]
    if few:
        yield (
            f"Fewer than {FEW_IMAGES} images in {TRAIN}: {named(few)}. Merge them by a rule, or "
            "expect little of them."
        )
    nothing = [name for name, by in figures.categories.items() if not sum(by.values())]
    if nothing:
        yield f"Classes without a single image: {named(nothing)}."


def _sites(figures: Figures) -> Iterator[str]:
    both = [site.name or "(none)" for site in figures.sites if len(site.splits) > 1]
    if both:
        yield f"Sites in more than one split, whose scores flatter: {named(both)}."
    for split in figures.splits:
        if split.name == VAL and split.num_sites < FEW_SITES:
            yield (
                f"Few sites in {VAL} ({split.num_sites}): scores will vary with which ones they "
                "are, more than intervals show."
            )
    for site in figures.sites[:1]:
        if site.num_images > LARGE_SITE * figures.num_images and len(figures.sites) > 1:
            share = percent(site.num_images / figures.num_images, 0)
            yield f"Site {site.name or '(none)'} has {share} of all images."
    nameless = sum(site.num_images for site in figures.sites if not site.name)
    if nameless:
        yield (
            f"{count(nameless)} images are of no named site: they are split together, as if one "
            "camera had taken them."
        )


def _rejects(figures: Figures, rejected: Rejected) -> Iterator[str]:
    in_shards = {site.name or "(none)": site.num_images for site in figures.sites}
    for name, num in sorted(rejected.by_site.items(), key=lambda pair: (-pair[1], pair[0])):
        total = num + in_shards.get(name, 0)
        if total >= MIN_OF_SITE and num / total >= MANY_REJECTED:
            yield (
                f"{percent(num / total, 0)} of site {name} was rejected ({count(num)} of "
                f"{count(total)}): a bad memory card, or a broken copy of it."
            )
    missing = {one.name: one.num_images for one in rejected.reasons}.get("missing")
    if missing:
        yield (
            f"Photographs that have no file at the source: {count(missing)}. When they are there, "
            "convert --retry-rejects adds them."
        )


def _times(figures: Figures) -> Iterator[str]:
    if figures.num_undated and figures.num_undated < figures.num_images:
        undated = count(figures.num_undated)
        yield f"{undated} images have no date and time: they are in no figure by hour."
    elif figures.num_undated:
        yield "No image has a date and time: nothing can be said by hour, day or night."
    if figures.num_early:
        early = count(figures.num_early)
        yield f"{early} images are dated before 2000: their cameras' clocks were never set."


def _shuffle(shuffle: ShuffleQuality | None) -> Iterator[str]:
    if shuffle is not None and shuffle.share < POOR_SHUFFLE:
        yield (
            f"A batch holds {percent(shuffle.share)} of the sites that a true shuffle would mix: "
            "give the loader a larger window, or make smaller shards."
        )


def _papers(settings: Any) -> Iterator[str]:
    missing = [name for name in ("licence", "citation") if not settings.get(name)]
    if missing:
        yield (
            f"The pipeline says no {' and no '.join(missing)}: whoever gets this dataset, or a "
            "model of it, will need to know."
        )


def named(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


def share_of_empty(figures: Figures) -> float | None:
    """Of all images; None where ``empty`` is no category or there is no image."""
    if EMPTY not in figures.categories or not figures.num_images:
        return None
    return sum(figures.categories[EMPTY].values()) / figures.num_images
