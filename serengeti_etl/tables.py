"""What commands show, as text: tables of a plan, a ledger, a dataset."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.rules import LabelCodes
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.editions import Growth
from serengeti_etl.convert.plan import Plan
from serengeti_etl.convert.repair import Repair
from serengeti_etl.convert.season import Conversion
from serengeti_etl.dataset.editions import Edition
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.dataset.rejects import RejectGroup, RejectGroups, group_rejects
from serengeti_etl.text_table import table_text

MAX_ROWS = 10
"""Of a list that may be long; the rest is counted."""

_OUT_OF_SHARDS = ("rejected", "excluded", "duplicates")


def plan_text(name: str, catalog: pa.Table, plan: Plan) -> str:
    """Images, sequences, sites and shards by split; images by class; what is excluded."""
    rows: list[tuple[Any, ...]] = []
    for split in sorted({shard.split for shard in plan.shards}):
        part = plan.rows.filter(pc.field("split") == split)
        num_shards = sum(shard.split == split for shard in plan.shards)
        rows.append((split, num_shards, part.num_rows, *_num_distinct(part)))
    rows.append(("planned", len(plan.shards), plan.rows.num_rows, *_num_distinct(plan.rows)))
    rows.append(("excluded", "", plan.excluded.num_rows, *_num_distinct(plan.excluded)))
    rows.append(("catalog", "", catalog.num_rows, *_num_distinct(catalog)))
    reasons = Counter(plan.excluded["reason"].to_pylist())
    return (
        table_text(f"plan of {name}", ("", "shards", "images", "sequences", "sites"), rows)
        + _classes_text(plan.rows, plan.classes)
        + table_text("excluded", ("rule", "images"), sorted(reasons.items()))
    )


def sizes_text(pipelines: Mapping[str, SeasonPipeline], plans: Mapping[str, Plan]) -> str:
    """What each size comes to, by its folder below the output, and all of them."""
    counts = {
        folder: (len(plan.shards), plan.rows.num_rows, pipelines[folder].resize.typical_bytes)
        for folder, plan in plans.items()
    }
    rows = [
        (folder, num_shards, num_images, f"about {megabytes(num_images * num_bytes)}")
        for folder, (num_shards, num_images, num_bytes) in counts.items()
    ]
    shards, images = (sum(row[at] for row in counts.values()) for at in (0, 1))
    size = sum(num_images * num_bytes for _, num_images, num_bytes in counts.values())
    rows.append(("together", shards, images, f"about {megabytes(size)}"))
    return table_text("sizes", ("folder", "shards", "images", "size"), rows)


def growth_text(growths: Iterable[Growth]) -> str:
    """What each dataset has, and what would be added to it."""
    lines = []
    for one in growths:
        there = f"{one.num_images:,} images in {one.num_shards:,} shards are planned there"
        new = f"{one.num_new_images:,} images in {one.num_new_shards:,} shards would be added"
        lines.append(f"{one.url}: {there if one.num_shards else 'nothing is there'}; {new}\n")
    return "".join(lines)


def conversion_text(conversion: Conversion) -> str:
    """The ledger, and where the time went."""
    effort = _effort_text(conversion)
    return f"{_shards_text(conversion)}{'; ' if effort else ''}{effort}\n"


def retry_text(conversions: Iterable[Conversion]) -> str:
    """What came of trying rejects again."""
    first = next(iter(conversions))
    retried, left = first.num_retried, first.ledger.num_rejected
    if retried:
        return f"recovered: {first.num_recovered:,} of {retried:,} photographs tried again\n"
    if not left:
        return "recovered: nothing, as no photograph is rejected\n"
    return f"unfinished work was finished first; again, to try the {left:,} rejects once more\n"


def conversions_text(conversions: Mapping[str, Conversion]) -> str:
    """The ledger of each dataset by its url, and once, as they share it, where the time went."""
    parts = [f"{_shards_text(one)}\ndataset: {url}\n\n" for url, one in conversions.items()]
    effort = _effort_text(next(iter(conversions.values())))
    return "".join(parts) + (f"all sizes: {effort}\n" if effort else "")


def _shards_text(conversion: Conversion) -> str:
    made = f"shards: {len(conversion.index.shards)}, of them made now: {conversion.num_made}"
    added = [info.name for info in conversion.added]
    more = f"\nadded to the dataset: {_some(added)}" if added else ""
    return f"{_ledger_text(conversion.index.ledger)}{made}{more}"


def _effort_text(conversion: Conversion) -> str:
    """What this run read and took; "" where it made nothing."""
    spent = ", ".join(f"{stage} {value:.1f} s" for stage, value in conversion.seconds.items())
    return f"read {megabytes(conversion.num_source_bytes)}; {spent}" if spent else ""


def repair_text(repair: Repair) -> str:
    """What was mended, and what is left."""
    lines = [
        f"{what}: {_some(names)}\n"
        for what, names in (
            ("shards made again", repair.shards),
            ("files written again", repair.files),
            ("files of no shard removed", repair.removed),
        )
        if names
    ]
    lines = lines or [f"nothing was damaged: {repair.num_shards} shards and all else are whole\n"]
    return "".join([*lines, *(f"left: {problem.message}\n" for problem in repair.problems)])


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", … and {len(names) - MAX_ROWS:,} more" if len(names) > MAX_ROWS else ""
    return f"{len(names):,}: {', '.join(names[:MAX_ROWS])}{more}"


def dataset_text(dataset: Dataset) -> str:
    """Splits, classes, ledger and settings of a dataset."""
    rows = []
    for split in dataset.splits:
        shards = dataset.shards(split)
        size = megabytes(sum(shard.num_bytes for shard in shards))
        rows.append((split, len(shards), dataset.num_images(split), size))
    resize = dataset.info.settings["resize"]
    return (
        table_text(f"dataset {dataset.info.name}", ("split", "shards", "images", "size"), rows)
        + _classes_text(dataset.index(columns=["split", "labels"]), dataset.classes)
        + _ledger_text(dataset.info.ledger)
        + _balance_text(dataset.info.ledger)
        + rejects_text(group_rejects(dataset))
        + f"resize: {resize['size']} px, JPEG quality {resize['quality']}, "
        + f"{resize['subsampling']}, by {dataset.info.versions['encoder']}\n"
        + _editions_text(dataset.info.editions)
        + f"plan: {dataset.plan_hash}\n"
    )


def _editions_text(editions: Sequence[Edition]) -> str:
    """What was added when; "" for a dataset that was made in one go."""
    if len(editions) < 2:  # noqa: PLR2004 - nothing was added
        return ""
    names = {"catalog": "of the label file", "retry": "tried again"}
    parts = [
        f"{one.num_images:,} images {names[one.kind]} (shards: {one.num_shards:,})"
        for one in editions
    ]
    return f"editions: {', then '.join(parts)}\n"


def _balance_text(ledger: Mapping[str, Any]) -> str:
    """Whether every image of the catalog is in one state, with the sums."""
    counts = {state: sum(ledger[state].values()) for state in _OUT_OF_SHARDS}
    total = ledger["num_in_shards"] + sum(counts.values())
    parts = [f"{ledger['num_in_shards']:,} in shards"]
    parts += [f"{count:,} {state}" for state, count in counts.items()]
    sums = f"{' + '.join(parts)} = {total:,}"
    if total == ledger["num_images"]:
        return f"the ledger balances: {sums}, as in the catalog\n\n"
    return (
        f"THE LEDGER DOES NOT BALANCE: {sums}, but the catalog has {ledger['num_images']:,}; run "
        "`serengeti-etl verify`\n\n"
    )


def rejects_text(groups: RejectGroups) -> str:
    """Where rejects come from; "" where there are none."""
    by_reason = [(one.name, one.num_rejected, one.example) for one in groups.by_reason]
    return (
        table_text("rejected by reason", ("reason", "images", "example"), _first(by_reason))
        + _places_text("site", groups.by_site)
        + _places_text("day", groups.by_day)
    )


def _places_text(kind: str, groups: Sequence[RejectGroup]) -> str:
    rows = [
        (one.name, one.num_rejected, f"{one.num_rejected / one.num_images:.1%}", one.reason)
        for one in groups
    ]
    columns = (kind, "images", f"share of the {kind}", "reason")
    return table_text(f"rejected by {kind}", columns, _first(rows))


def _first(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The first rows, and how many more there are."""
    if len(rows) <= MAX_ROWS:
        return list(rows)
    more = (f"… and {len(rows) - MAX_ROWS:,} more", *[""] * (len(rows[0]) - 1))
    return [*rows[:MAX_ROWS], more]


def megabytes(num_bytes: int) -> str:
    """Such as ``17.3 MB``, of a million bytes each."""
    return f"{num_bytes / 1e6:,.1f} MB"


def _num_distinct(table: pa.Table) -> tuple[int, int]:
    return pc.count_distinct(table["seq_id"]).as_py(), pc.count_distinct(table["site"]).as_py()


def _classes_text(table: pa.Table, classes: Sequence[str]) -> str:
    """Images of each class in each split."""
    labels = LabelCodes.of(table["labels"])
    names = sorted(pc.unique(table["split"]).to_pylist())
    counts = [labels.count(pc.equal(table["split"], name).to_numpy()) for name in names]
    rows = [(category, *(count[category] for count in counts)) for category in classes]
    return table_text("images by class", ("class", *names), rows)


def _ledger_text(ledger: Mapping[str, Any]) -> str:
    rows: list[tuple[str, str, int]] = [("in shards", "", ledger["num_in_shards"])]
    for state in _OUT_OF_SHARDS:
        rows += [(state, reason, count) for reason, count in ledger[state].items()]
    rows.append(("catalog", "", ledger["num_images"]))
    return table_text("ledger", ("state", "reason", "images"), rows)
