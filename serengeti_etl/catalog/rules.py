"""Rules on seasons, sites and categories: which images they keep out, and what labels become.

Labels repeat: millions of images bear a few hundred combinations of categories. Each rule is
worked out once per combination.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.exclusions import Exclusions
from serengeti_etl.catalog.sequences import Mask
from serengeti_etl.errors import ConfigError
from serengeti_etl.label_config import EMPTY, Rules

Combination = tuple[str, ...]

_SEPARATOR = "\x1d"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelCodes:
    """The labels of many images as numbers.

    Attributes:
        codes: for each image the place of its combination.
        combinations: each that occurs, of sorted categories.
    """

    codes: npt.NDArray[np.int32]
    combinations: tuple[Combination, ...]

    @staticmethod
    def of(labels: pa.ChunkedArray) -> "LabelCodes":
        """The codes of a column of lists of text."""
        joined = pc.binary_join(labels, _SEPARATOR).combine_chunks().dictionary_encode()
        texts = joined.dictionary.to_pylist()
        return LabelCodes(
            codes=joined.indices.to_numpy(),
            combinations=tuple(tuple(text.split(_SEPARATOR)) if text else () for text in texts),
        )

    @property
    def categories(self) -> tuple[str, ...]:
        """All that occur, sorted."""
        return tuple(sorted({name for one in self.combinations for name in one}))

    def count(self, among: Mask | None = None) -> Counter[str]:
        """Number of images that bear each category, of all or of those where ``among`` is True."""
        codes = self.codes if among is None else self.codes[among]
        sizes = np.bincount(codes, minlength=len(self.combinations)).tolist()
        counts: Counter[str] = Counter()
        for combination, size in zip(self.combinations, sizes, strict=True):
            counts.update({name: size for name in combination if size})
        return counts

    def where(self, holds: Callable[[Combination], bool]) -> Mask:
        """True for the images whose combination ``holds``."""
        flags = np.array([holds(one) for one in self.combinations], dtype=np.bool_)
        return flags[self.codes]

    def having(self, category: str) -> Mask:
        """True for the images that bear ``category``."""
        return self.where(lambda one: category in one)

    def changed(self, change: Callable[[Combination], Combination]) -> "LabelCodes":
        """The same images with other labels."""
        return LabelCodes(
            codes=self.codes, combinations=tuple(change(one) for one in self.combinations)
        )

    def labels(self) -> pa.Array:
        """The labels as a column of lists of text."""
        lists = pa.array([list(one) for one in self.combinations], pa.list_(pa.string()))
        return lists.take(pa.array(self.codes))


def apply_rules(
    catalog: pa.Table, rules: Rules, exclusions: Exclusions
) -> pa.Array | pa.ChunkedArray:
    """New labels for each row of ``catalog``, after adding to ``exclusions``.

    Raises:
        ConfigError: a rule names a season, site or category that does not occur.
    """
    _exclude_places(catalog, rules, exclusions)
    given = LabelCodes.of(catalog["labels"])
    _refuse_unknown("rename", rules.rename, set(given.categories))
    renamed = given.changed(lambda one: _renamed(one, rules))
    occurring = set(renamed.categories)
    _refuse_unknown("keep", rules.keep or (), occurring)
    # Where people are withheld they may be missing from the file too; other names were typed.
    _refuse_unknown("drop", set(rules.drop) - set(Rules().drop), occurring)
    if rules.only_labelled:
        where = renamed.where(lambda one: not one)
        exclusions.exclude(where, "unlabelled", "no annotation names this image")
    dropped = set(rules.drop)
    where = renamed.where(lambda one: not dropped.isdisjoint(one))
    exclusions.exclude(where, "dropped", f"its category is one of {sorted(dropped)}")
    if rules.contradictions == "exclude":
        where = renamed.where(lambda one: len(one) > 1 and EMPTY in one)
        exclusions.exclude(where, "contradiction", f"labelled {EMPTY!r} and something else")
    if rules.keep is None:
        # As a rule nothing is renamed: a copy of millions of lists less.
        return catalog["labels"] if renamed.combinations == given.combinations else renamed.labels()
    kept = set(rules.keep)
    where = renamed.where(lambda one: bool(one) and kept.isdisjoint(one))
    exclusions.exclude(where, "not_kept", "none of its categories is kept")
    return renamed.changed(lambda one: tuple(name for name in one if name in kept)).labels()


def _exclude_places(catalog: pa.Table, rules: Rules, exclusions: Exclusions) -> None:
    for column, names in (("season", rules.seasons), ("site", rules.sites)):
        if names is not None:
            values = catalog[column]
            _refuse_unknown(f"{column}s", names, set(pc.unique(values).to_pylist()))
            where = pc.invert(pc.is_in(values, value_set=pa.array(names, pa.string())))
            exclusions.exclude(where, column, f"its {column} is not one of {list(names)}")


def _renamed(combination: Combination, rules: Rules) -> Combination:
    return tuple(sorted({rules.rename.get(name, name) for name in combination}))


def _refuse_unknown(rule: str, names: Iterable[str], occurring: set[str]) -> None:
    """Refuse a name that occurs nowhere: it is misspelt, or meant for another label file."""
    unknown = sorted(set(names) - occurring)
    if unknown:
        raise ConfigError(
            f"rules.{rule} names {unknown[0]!r}, which does not occur in the label file; it has "
            f"{sorted(occurring)[:80]}"
        )
