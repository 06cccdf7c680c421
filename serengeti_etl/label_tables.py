"""What the catalog command shows, as text: what a label file holds, what is odd, how it splits."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.checks import Finding, Overview
from serengeti_etl.catalog.read import Labels
from serengeti_etl.catalog.rules import LabelCodes
from serengeti_etl.catalog.selection import Selection
from serengeti_etl.catalog.sequences import sequence_starts
from serengeti_etl.catalog.splits import TRAIN, VAL
from serengeti_etl.text_table import table_text

_NUM_FRAME_ROWS = 8


def catalog_text(name: str, labels: Labels, selection: Selection | None) -> str:
    """Everything that ``serengeti-etl catalog`` prints; None where rules or split refuse."""
    return (
        _overview_text(name, labels.labels_format, labels.overview)
        + findings_text(labels.findings)
        + _categories_text(labels.overview)
        + _frames_text(labels.overview)
        + (_selection_text(selection) if selection is not None else "")
    )


def _selection_text(selection: Selection) -> str:
    return (
        exclusions_text(selection.excluded) + split_text(selection.images) + _share_text(selection)
    )


def findings_text(findings: Sequence[Finding]) -> str:
    """What is odd, each kind with its count and up to three examples."""
    if not findings:
        return "nothing odd was found\n\n"
    rows = [(one.name, one.count, one.unit, one.meaning) for one in findings]
    examples = [(one.name, example) for one in findings for example in one.examples]
    return table_text("findings", ("finding", "count", "of", "meaning"), rows) + table_text(
        "examples of findings", ("finding", "example"), examples
    )


def exclusions_text(excluded: pa.Table) -> str:
    """Images that are left out, by rule."""
    pairs = Counter(zip(excluded["state"].to_pylist(), excluded["reason"].to_pylist(), strict=True))
    rows = [(state, reason, count) for (state, reason), count in sorted(pairs.items())]
    return table_text("left out", ("state", "reason", "images"), rows)


def split_text(images: pa.Table) -> str:
    """Images, sequences and sites of each split, and the share of each category in it."""
    names = sorted(pc.unique(images["split"]).to_pylist())
    sizes = []
    for name in names:
        is_inside = pc.equal(images["split"], name)
        num_images = pc.sum(is_inside).as_py()
        num_sequences = pc.sum(sequence_starts(images["seq_id"].filter(is_inside))).as_py()
        num_sites = pc.count_distinct(images["site"].filter(is_inside)).as_py()
        share = f"{num_images / images.num_rows:.1%}"
        sizes.append((name, num_images, share, num_sequences, num_sites))
    columns = ("split", "images", "share", "sequences", "sites")
    return table_text("splits", columns, sizes) + _category_shares_text(images, names)


def _overview_text(name: str, kind: str, overview: Overview) -> str:
    rows = [
        ("images", overview.num_images),
        ("sequences", overview.num_sequences),
        ("sites", overview.num_sites),
        ("seasons", overview.num_seasons),
        ("annotations", overview.num_annotations),
        ("first photograph", overview.first or "no date"),
        ("last photograph", overview.last or "no date"),
    ]
    return table_text(f"labels of {name}, in the format {kind}", ("", "in the file"), rows)


def _categories_text(overview: Overview) -> str:
    rows = [
        (name, num_images, f"{num_images / overview.num_images:.2%}", num_sequences)
        for name, num_images, num_sequences in overview.categories
    ]
    columns = ("category", "images", "share", "sequences")
    return table_text("categories in the label file", columns, rows)


def _frames_text(overview: Overview) -> str:
    first = overview.frames[:_NUM_FRAME_ROWS]
    rows: list[tuple[str, int]] = [(str(frames), count) for frames, count in first]
    rest = overview.frames[_NUM_FRAME_ROWS:]
    if rest:
        rows.append((f"{rest[0][0]} to {rest[-1][0]}", sum(count for _, count in rest)))
    return table_text("frames per sequence", ("frames", "sequences"), rows)


def _category_shares_text(images: pa.Table, names: Sequence[str]) -> str:
    """Images of each category in each split, and its share of the split's images."""
    labels = LabelCodes.of(images["labels"])
    counts = {name: labels.count(pc.equal(images["split"], name).to_numpy()) for name in names}
    totals = {one["values"]: one["counts"] for one in pc.value_counts(images["split"]).to_pylist()}
    rows = []
    for category in labels.categories:
        cells = [(counts[name][category], name) for name in names]
        shares = [cell for count, name in cells for cell in (count, f"{count / totals[name]:.2%}")]
        rows.append((category, *shares))
    columns = [column for name in names for column in (name, f"of {name}")]
    text = table_text("categories by split", ("category", *columns), rows)
    for name in (TRAIN, VAL):
        # What cannot be learnt, or cannot be judged.
        missing = [category for category in labels.categories if not counts[name][category]]
        text += f"no images in {name}: {', '.join(missing)}\n\n" if missing else ""
    return text


def _share_text(selection: Selection) -> str:
    before, after = (selection.priors[key]["shares"].get("empty", 0) for key in ("before", "after"))
    if before == after:
        return ""
    return f"empty sequences of train: {before:.1%} in truth, {after:.1%} after thinning\n"
