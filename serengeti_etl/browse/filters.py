"""Which images are wanted, and in what order: values of a page's address, so that it can be shared.

Within a facet one of the chosen values is enough; of several facets all must hold.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args
from urllib.parse import urlencode

from serengeti_etl.web.answers import PageError

Facet = Literal["category", "site", "season", "split", "predicted"]
FACETS: tuple[Facet, ...] = get_args(Facet)

Order = Literal["place", "sure", "unsure"]
ORDERS: dict[Order, str] = {
    "place": "site and time",
    "sure": "most certain first",
    "unsure": "least certain first",
}

_TWO_DAYS = ("since", "until")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """What is wanted.

    Attributes:
        chosen: values by facet; a facet that is left out is not looked at.
        since: first day, by the camera's clock.
        until: last day.
        is_wrong: only where the predicted category is none of the labels.
        order: by place and time, or by how certain the prediction is.
    """

    chosen: Mapping[Facet, tuple[str, ...]]
    since: dt.date | None = None
    until: dt.date | None = None
    is_wrong: bool = False
    order: Order = "place"

    @staticmethod
    def of_query(query: Mapping[str, Sequence[str]]) -> "Filter":
        """What an address asks for; other names in it are not looked at.

        Raises:
            PageError: a day is none, or there is no such order.
        """
        chosen = {
            facet: tuple(dict.fromkeys(filter(None, query.get(facet, ())))) for facet in FACETS
        }
        order = next(iter(query.get("order", ())), "") or "place"
        if order not in ORDERS:
            raise PageError(400, f"order is {order!r}, but it must be one of {', '.join(ORDERS)}")
        since, until = (_day(name, query) for name in _TWO_DAYS)
        return Filter(
            chosen={facet: values for facet, values in chosen.items() if values},
            since=since,
            until=until,
            is_wrong=bool(next(iter(query.get("wrong", ())), "")),
            order=order,
        )

    def query(self, **more: object) -> str:
        """The same as an address has it after its ``?``, with ``more`` at its end."""
        pairs: list[tuple[str, str]] = [
            (facet, value) for facet in FACETS for value in self.chosen.get(facet, ())
        ]
        days = {"since": self.since, "until": self.until}
        pairs += [(name, day.isoformat()) for name, day in days.items() if day is not None]
        pairs += [("wrong", "1")] * self.is_wrong
        pairs += [("order", self.order)] * (self.order != "place")
        return urlencode([*pairs, *((name, str(value)) for name, value in more.items())])

    def toggled(self, facet: Facet, value: str) -> "Filter":
        """With ``value`` chosen, or no longer chosen."""
        now = self.chosen.get(facet, ())
        values = tuple(one for one in now if one != value) if value in now else (*now, value)
        return self._choosing(facet, values)

    def without(self, facet: Facet) -> "Filter":
        """Whatever the facet's value."""
        return self._choosing(facet, ())

    @property
    def is_everything(self) -> bool:
        """Whether nothing is kept out."""
        return not (self.chosen or self.since or self.until or self.is_wrong)

    def _choosing(self, facet: Facet, values: tuple[str, ...]) -> "Filter":
        chosen = {**self.chosen, facet: values}
        return replace(self, chosen={name: some for name, some in chosen.items() if some})


def _day(name: str, query: Mapping[str, Sequence[str]]) -> dt.date | None:
    text = next(iter(query.get(name, ())), "")
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError:
        raise PageError(400, f"{name} is {text!r}, but it must be a day, as 2012-07-31") from None
