"""Rows of datasets to look at: drawn at random, or with names that mean harm."""

import datetime as dt
from typing import Any

import numpy as np

CATEGORIES = ("empty", "zebra", "giraffe", "lion female", "wildebeest")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "'-alert(3)-'",
    "{{ 7 * 191 }}",
    "../../../../etc/passwd",
    "javascript:alert(4)",
    "a&b?c=d#e%2e%2e",
    "name\u202ewith\u2028lines",
)


def drawn_rows(num_sequences: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sequences of one to three frames at a few sites; some have no time."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for sequence in range(num_sequences):
        site, season = f"B{rng.integers(1, 13)}", f"S{rng.integers(1, 12)}"
        num_labels = int(rng.integers(1, 3))
        labels = sorted({str(one) for one in rng.choice(CATEGORIES, num_labels)})
        split = "val" if site in ("B1", "B2", "B10") else "train"
        start = dt.datetime(2012, 1, 1) + dt.timedelta(hours=int(rng.integers(0, 800 * 24)))  # noqa: DTZ001 - the camera's clock
        has_time = rng.random() > 0.1
        rows += [
            {
                "image_id": f"{season}/{site}/PICT{sequence:04d}_{frame}",
                "seq_id": f"{season}#{site}#{sequence}",
                "frame_num": frame,
                "site": site,
                "season": season,
                "datetime": start + dt.timedelta(seconds=frame) if has_time else None,
                "labels": labels,
                "split": split,
                "shard": f"{split}-{sequence % 3:06d}",
            }
            for frame in range(1, int(rng.integers(2, 5)))
        ]
    return rows


def hostile_rows() -> list[dict[str, Any]]:
    """A sequence of two frames for each hostile name, which is its site, season and category."""
    return [
        {
            "image_id": f"{name}/{frame}",
            "seq_id": name,
            "frame_num": frame,
            "site": name,
            "season": name,
            "datetime": None,
            "labels": [name],
            "split": "train",
            "shard": "train-000000",
        }
        for name in HOSTILE
        for frame in (1, 2)
    ]
