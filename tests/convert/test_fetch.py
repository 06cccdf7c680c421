"""Fetching: in order, bounded by bytes, an outage never taken for a bad photograph."""

import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.buckets.bucket import close_buckets
from serengeti_etl.convert import fetch
from serengeti_etl.convert.archives import list_members
from serengeti_etl.convert.fetch import Wanted, fetch_in_order
from serengeti_etl.convert.member import Location
from serengeti_etl.errors import ImageError, SourceRefused
from serengeti_etl.retry import OnRetry, is_slow_down
from serengeti_etl.storage import Store
from tests.fault_server import BUCKET, SLOW_DOWN, FaultServer, FlippedByte, fault_server

HERE = Store(url="memory://fetch")


def wanted(*names: str) -> list[Wanted]:
    return [Wanted(file_name=name) for name in names]


class Requests:
    """Answers ``_fetch`` with bytes of given sizes, and knows what was held at once."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.lock = threading.Lock()
        self.num_held = 0
        self.most_held = 0

    def fetch(self, images: Store, photograph: Wanted, on_retry: OnRetry) -> bytes:  # noqa: ARG002
        """As ``fetch._fetch``; later requests answer sooner."""
        at = int(photograph.file_name)
        time.sleep(0.001 * (5 - at % 5))
        with self.lock:
            self.num_held += self.sizes[at]
            self.most_held = max(self.most_held, self.num_held)
        return bytes(self.sizes[at])

    def taken(self, content: bytes) -> None:
        """The consumer has let this one go."""
        with self.lock:
            self.num_held -= len(content)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 5000), max_size=120))
def test_results_keep_their_order_and_few_bytes_wait(sizes: list[int]) -> None:
    """Whatever the sizes, contents come in order, and the limit is kept once sizes are known."""
    requests = Requests(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "_fetch", requests.fetch)
        patch.setattr(fetch, "MAX_NUM_BYTES_AHEAD", 40_000)
        patch.setattr(fetch, "_FIRST_GUESS_NUM_BYTES", 5000)
        found = []
        for content in fetch_in_order(HERE, wanted(*map(str, range(len(sizes))))):
            assert isinstance(content, bytes)
            requests.taken(content)
            found.append(len(content))
    assert found == sizes
    assert requests.most_held <= 40_000


def test_one_larger_than_the_limit_still_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph above the whole limit is fetched alone."""
    HERE.write("large.jpg", bytes(1000))
    monkeypatch.setattr(fetch, "MAX_NUM_BYTES_AHEAD", 10)
    contents = list(fetch_in_order(HERE, wanted("large.jpg", "large.jpg")))
    assert contents == [bytes(1000), bytes(1000)]


def test_many_requests_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow store costs the wait of a few requests, not of all."""
    together = threading.Barrier(fetch.MAX_IN_FLIGHT, timeout=20)

    def waiting(images: Store, photograph: Wanted, on_retry: OnRetry) -> bytes:  # noqa: ARG001
        together.wait()
        return b"x"

    monkeypatch.setattr(fetch, "_fetch", waiting)
    names = map(str, range(2 * fetch.MAX_IN_FLIGHT))
    assert list(fetch_in_order(HERE, wanted(*names))) == [b"x"] * 2 * fetch.MAX_IN_FLIGHT


def test_a_missing_photograph_is_a_reject_and_an_outage_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not there is a counted reason; a store that fails raises."""
    HERE.write("there.jpg", b"1")
    found = list(fetch_in_order(HERE, wanted("there.jpg", "not there.jpg")))
    assert found[0] == b"1"
    assert isinstance(found[1], ImageError)
    assert found[1].reason == "missing"

    def away(self: Store, name: str, on_retry: OnRetry) -> bytes:  # noqa: ARG001
        raise ConnectionError(f"{self.url}{name} is away")

    monkeypatch.setattr(Store, "read_checked", away)
    with pytest.raises(ConnectionError, match="is away"):
        list(fetch_in_order(HERE, wanted("there.jpg")))


def refusing(names: set[str]) -> Any:
    def answer(self: Store, name: str, on_retry: OnRetry) -> bytes:  # noqa: ARG001
        if name in names:
            raise PermissionError("403 AccessDenied")
        return b"x"

    return answer


def test_a_store_that_refuses_all_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One refused photograph is a reject; sixteen in a row are the store's reason to stop."""
    names = [str(at) for at in range(40)]
    monkeypatch.setattr(Store, "read_checked", refusing({"3", *names[10:25]}))
    reasons = [
        content.reason
        for content in fetch_in_order(HERE, wanted(*names))
        if isinstance(content, ImageError)
    ]
    assert reasons == ["forbidden"] * 16
    monkeypatch.setattr(Store, "read_checked", refusing(set(names[10:26])))
    with pytest.raises(SourceRefused, match=r"refuses 16 photographs in a row.*403 AccessDenied"):
        list(fetch_in_order(HERE, wanted(*names)))


def test_a_store_that_never_answers_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline the shard fails, naming the photograph, and no photograph is blamed."""
    release = threading.Event()
    monkeypatch.setattr(fetch, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "_fetch", lambda *_: release.wait(20))
    with pytest.raises(TimeoutError, match=r"did not answer for a\.jpg within"):
        list(fetch_in_order(HERE, wanted("a.jpg")))
    release.set()


def test_a_damaged_answer_is_fetched_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped bit on the way costs a second request; twice, it is a reject."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"photograph" * 100)
    store = Store(url=str(tmp_path))
    row = list_members(store, ["a.zip"]).to_pylist()[0]
    del row["name"]
    location = Location(**row)
    real = Store.read_range
    num_flips = iter([1, 0, 1, 1])

    def flipping(self: Store, name: str, *args: Any) -> bytes:
        content = bytearray(real(self, name, *args))
        content[500] ^= next(num_flips)
        return bytes(content)

    monkeypatch.setattr(Store, "read_range", flipping)
    member = [Wanted(file_name="a.jpg", location=location)]
    assert list(fetch_in_order(store, member)) == [b"photograph" * 100]
    (refused,) = fetch_in_order(store, member)
    assert isinstance(refused, ImageError)
    assert refused.reason == "checksum"


def test_a_store_that_refuses_a_small_shard_stops_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of few photographs refused is the store's doing; a single one may be its own."""
    monkeypatch.setattr(Store, "read_checked", refusing({"a", "b", "c"}))
    with pytest.raises(SourceRefused, match="refuses 3 photographs in a row"):
        list(fetch_in_order(HERE, wanted("a", "b", "c")))
    (refused,) = fetch_in_order(HERE, wanted("a"))
    assert isinstance(refused, ImageError)


def on_s3(server: FaultServer) -> Store:
    close_buckets()
    return Store(
        url=f"s3://{BUCKET}", options={"endpoint_url": server.url, "key": "k", "secret": "s"}
    )


def test_a_photograph_that_does_not_match_its_checksum_is_fetched_once_more() -> None:
    """A byte flipped once costs a second request; flipped each time, it is a reject."""
    with fault_server({"a.jpg": b"photograph", "b.jpg": b"photograph"}) as server:
        server.fail("a.jpg", FlippedByte(at=3), times=1)
        server.fail("b.jpg", FlippedByte(at=3))
        found = list(fetch_in_order(on_s3(server), wanted("a.jpg", "b.jpg")))
        assert [server.num_requests(name) for name in ("a.jpg", "b.jpg")] == [2, 2]
    assert found[0] == b"photograph"
    assert isinstance(found[1], ImageError)
    assert found[1].reason == "checksum"


def test_a_listed_photograph_that_is_gone_is_a_reject() -> None:
    """What the labels name and the bucket no longer has is missing, after one request."""
    with fault_server({"a.jpg": b"x"}) as server:
        found = list(fetch_in_order(on_s3(server), wanted("a.jpg", "b.jpg", "c//d.jpg")))
        assert server.num_requests("b.jpg") == 1
    assert [error.reason for error in found[1:] if isinstance(error, ImageError)] == ["missing"] * 2


def test_a_slow_down_halves_the_requests_and_they_grow_back() -> None:
    """Many complaints at once count as one; a round of answers allows one request more."""
    pace = fetch.Pace()
    assert pace.num_in_flight == fetch.MAX_IN_FLIGHT
    pace.told(ConnectionError("reset by peer"))
    assert pace.num_in_flight == fetch.MAX_IN_FLIGHT
    for _ in range(10):
        pace.told(ConnectionError("503 Service Unavailable: SlowDown"))
    assert pace.num_in_flight == fetch.MAX_IN_FLIGHT // 2
    for _ in range(17):
        pace.answered()
    assert pace.num_in_flight == fetch.MAX_IN_FLIGHT // 2 + 1
    for _ in range(10_000):
        pace.answered()
    assert pace.num_in_flight == fetch.MAX_IN_FLIGHT


def test_complaints_of_a_store_slow_its_task_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each SlowDown of a real answer reaches the pace, and all photographs come."""
    told: list[BaseException] = []
    monkeypatch.setattr(fetch.Pace, "told", lambda _, error: told.append(error))
    names = [f"{at}.jpg" for at in range(40)]
    with fault_server({name: name.encode() for name in names}) as server:
        for name in names[:8]:
            server.fail(name, SLOW_DOWN, times=1)
        found = list(fetch_in_order(on_s3(server), wanted(*names)))
    assert found == [name.encode() for name in names]
    assert [is_slow_down(error) for error in told] == [True] * 8
