"""Doubles: photographs that are the same pass; answers that were mixed up fail the shard."""

from collections.abc import Iterator

import pytest

from serengeti_etl.buckets.bucket import close_buckets
from serengeti_etl.convert.doubles import check_doubles, mark
from serengeti_etl.convert.fetch import Wanted, fetch_in_order
from serengeti_etl.errors import ImageError, ShardError
from serengeti_etl.storage import Store
from tests.fault_server import BUCKET, FaultServer, Swapped, fault_server

OBJECTS = {"a.jpg": b"a" * 9000, "b.jpg": b"b" * 9000, "again.jpg": b"a" * 9000, "c.jpg": b"c"}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A bucket of four photographs, two of them the same."""
    with fault_server(OBJECTS) as running:
        yield running
    close_buckets()


def fetched(server: FaultServer, *names: str) -> list[bytes | ImageError]:
    options = {"endpoint_url": server.url, "key": "k", "secret": "s"}
    images = Store(url=f"s3://{BUCKET}", options=options)
    wanted = [Wanted(file_name=name) for name in names]
    return list(check_doubles(images, wanted, fetch_in_order(images, wanted)))


def test_true_doubles_pass(server: FaultServer) -> None:
    """They come as they are; each is asked for once more, and no other is."""
    assert fetched(server, *OBJECTS) == list(OBJECTS.values())
    assert [server.num_requests(name) for name in OBJECTS] == [2, 1, 2, 1]


@pytest.mark.parametrize("wrong", ["b.jpg", "c.jpg"])
def test_mixed_answers_fail_the_shard(server: FaultServer, wrong: str) -> None:
    """One photograph in place of another, before or after it came itself, is named."""
    server.fail(wrong, Swapped("again.jpg" if wrong == "c.jpg" else "c.jpg", has_own_etag=True), 1)
    with pytest.raises(ShardError, match=rf"but {wrong} has another now: the store, or a proxy"):
        fetched(server, "b.jpg", "again.jpg", "c.jpg")


def test_what_is_missing_is_no_double(server: FaultServer) -> None:
    """Two that are not there are two rejects, and nothing is asked again."""
    found = fetched(server, "x.jpg", "y.jpg")
    assert [one.reason for one in found if isinstance(one, ImageError)] == ["missing"] * 2
    assert len(server.requests) == 2


def test_the_mark_tells_start_length_and_end() -> None:
    """Photographs that differ in one of them have different marks."""
    content = bytes(range(256)) * 64
    others = [b"x" + content[1:], content[:-1] + b"x", content + b"\0", b""]
    assert len({mark(one) for one in [content, *others]}) == 5
