"""A real S3 server on loopback, and the same one a round trip away."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LATENCY_SECONDS = 0.05
BUCKET = "bench"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The endpoint of an S3 server that keeps its files in ``folder``, which is made."""
    from tests.servers import s3_server

    folder.mkdir()
    with s3_server(folder) as endpoint:
        yield endpoint


@contextmanager
def relayed(endpoint: str) -> Iterator[str]:
    """The endpoint behind ``LATENCY_SECONDS``."""
    from tests.relay import relay

    address = urlsplit(endpoint)
    with relay(address.hostname or "127.0.0.1", address.port or 80, LATENCY_SECONDS) as port:
        yield f"http://127.0.0.1:{port}"


def variables(endpoint: str) -> dict[str, str]:
    """What a process needs in its environment to reach the server."""
    from tests.servers import S3_CREDENTIALS

    return S3_CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}


def make_bucket(endpoint: str) -> Any:
    """The store's files, with an empty ``BUCKET``."""
    import s3fs

    names = variables(endpoint)
    files = s3fs.S3FileSystem(
        endpoint_url=endpoint, key=names["AWS_ACCESS_KEY_ID"], secret=names["AWS_SECRET_ACCESS_KEY"]
    )
    files.mkdir(BUCKET)
    return files


def upload(source: Path, endpoint: str) -> None:
    """Put a folder's files into ``BUCKET``, which is made."""
    files = make_bucket(endpoint)
    files.put(f"{source}/", f"{BUCKET}/", recursive=True)
