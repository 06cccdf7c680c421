"""Which event, and so which sequence, each medium of a Camtrap DP belongs to."""

from typing import Any

import numpy as np
import pandas as pd

from serengeti_etl.catalog.camtrap_dp.tags import tag_values, text_column


def name_events(media: pd.DataFrame, observations: pd.DataFrame) -> None:
    """Add ``event`` to both tables: ids of events that mean one event each.

    An event without an id is named by its deployment and start.
    """
    of_event = observations["mediaID"].isna()
    made = observations["deploymentID"] + "#" + observations["eventStart"]
    observations["eventID"] = observations["eventID"].fillna(made.where(of_event))
    pairs = pd.concat([one[["eventID", "deploymentID"]] for one in (media, observations)])
    pairs = pairs.dropna().drop_duplicates()
    shared = pairs.loc[pairs["eventID"].duplicated(), "eventID"]
    for frame in (media, observations):
        is_shared = frame["eventID"].isin(shared)
        with_place = frame["deploymentID"] + "#" + frame["eventID"]
        frame["event"] = frame["eventID"].mask(is_shared, with_place)
    # Our own writer says so where one sequence is at two sites.
    tagged = tag_values(text_column(observations["observationTags"]), "seq_id")
    own = pd.Series(tagged.to_pandas().to_numpy(), observations.index, dtype="string")
    observations["event"] = own.fillna(observations["event"])


def events_of(media: pd.DataFrame, observations: pd.DataFrame) -> "pd.Series[str]":
    """The event of each medium: by its observation, by time, by its own sequence, or missing."""
    seen = observations.dropna(subset=["mediaID", "event"])
    seen = seen[["mediaID", "event"]].sort_values("event").drop_duplicates("mediaID")
    events = media["mediaID"].map(seen.set_index("mediaID")["event"]).astype("string")
    waiting = media[events.isna()]
    if len(waiting):
        events = events.fillna(_events_by_time(waiting, observations))
    return events.fillna(media["event"])


def _events_by_time(media: pd.DataFrame, observations: pd.DataFrame) -> "pd.Series[str]":
    """The event of its deployment in which each medium was taken; missing outside of all."""
    whole = observations[observations["mediaID"].isna()].dropna(subset="event")
    columns = {"deploymentID": whole["deploymentID"], "event": whole["event"]}
    times = {name: _instants(whole[name]) for name in ("eventStart", "eventEnd")}
    events = pd.DataFrame(columns | times).dropna().drop_duplicates()
    by_deployment = dict(iter(events.sort_values(["eventStart", "event"]).groupby("deploymentID")))
    found = pd.Series(pd.NA, media.index, dtype="string")
    instants = _instants(media["timestamp"]).dropna()
    for deployment, group in instants.groupby(media["deploymentID"]):
        if deployment in by_deployment:
            own = by_deployment[deployment]
            at = _latest_around(
                group.to_numpy(), own["eventStart"].to_numpy(), own["eventEnd"].to_numpy()
            )
            found[group.index[at >= 0]] = own["event"].to_numpy()[at[at >= 0]]
    return found


def _latest_around(
    instants: "np.ndarray[Any, Any]", starts: "np.ndarray[Any, Any]", ends: "np.ndarray[Any, Any]"
) -> "np.ndarray[Any, Any]":
    """Place of the latest-starting span in which each instant lies; −1 outside of all.

    Args:
        instants: to look up.
        starts: of the spans, sorted.
        ends: of the same spans, inclusive.
    """
    latest_end = np.maximum.accumulate(ends)
    at = np.searchsorted(starts, instants, side="right") - 1
    while True:
        # ``latest_end`` tells when no earlier span reaches as far, so that few steps are taken.
        at[(at >= 0) & (latest_end[at] < instants)] = -1
        is_over = (at >= 0) & (ends[at] < instants)
        if not is_over.any():
            return at
        at[is_over] -= 1


def _instants(texts: "pd.Series[str]") -> "pd.Series[Any]":
    """Moments in UTC, missing where the text is none; without a zone it is taken as UTC."""
    moments = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    return moments.dt.tz_localize(None)


def has_bad_time(observations: pd.DataFrame) -> "pd.Series[bool]":
    """True for observations of an event whose start or end is written, but is no time."""
    of_event = observations["mediaID"].isna()
    is_bad = pd.Series(data=False, index=observations.index)
    for column in ("eventStart", "eventEnd"):
        is_bad |= observations[column].notna() & _instants(observations[column]).isna()
    return of_event & is_bad
