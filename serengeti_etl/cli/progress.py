"""Progress lines."""

import sys
from typing import Any


def progress_line(**kwargs: Any) -> Any:
    """A tqdm progress line; in a log file it is written every ten seconds only."""
    from tqdm import tqdm

    return tqdm(mininterval=0.1 if sys.stderr.isatty() else 10.0, **kwargs)
