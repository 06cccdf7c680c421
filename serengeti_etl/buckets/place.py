"""Which bucket or web server a url names, and what in it."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

_KINDS: dict[str, Literal["s3", "gs", "az", "http"]] = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "http",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A bucket, a container or a web server.

    Attributes:
        kind: of the store.
        name: of the bucket or container; of a web server, its url as far as it is no path.
        account: of Azure, where the url has it; "" otherwise.
    """

    kind: Literal["s3", "gs", "az", "http"]
    name: str
    account: str = ""

    @property
    def url(self) -> str:
        """For messages: without what a signed address has behind its ``?``."""
        name = self.name.partition("?")[0]
        return name if self.kind == "http" else f"{self.kind}://{name}"

    @property
    def is_signed(self) -> bool:
        """True for a web address with a query, which names one file."""
        return self.kind == "http" and "?" in self.name


def place_of(url: str) -> tuple[Place, str] | None:
    """The place that ``url`` is in, and its path there; None if it is in no bucket.

    Keys of buckets are taken literally, ``%`` and ``#`` and all; a web address is percent-encoded
    as usual. One with a query, as signed ones have, is a place by itself.
    """
    scheme, _, rest = url.partition("://")
    kind = _KINDS.get(scheme) if "://" in url else None
    if kind is None:
        return None
    if kind == "http":
        return _web_place(url)
    name, _, path = rest.partition("/")
    container, _, host = name.partition("@")
    account = host.partition(".")[0]
    return Place(kind=kind, name=container, account=account), path.strip("/")


def _web_place(url: str) -> tuple[Place, str]:
    parts = urlsplit(url)
    if parts.query:
        return Place(kind="http", name=url), ""
    origin = f"{parts.scheme}://{parts.netloc}"
    return Place(kind="http", name=origin), unquote(parts.path).strip("/")
