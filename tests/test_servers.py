"""Tests of the servers that other tests start, by the client that the project reads with."""

import asyncio
import secrets
import socket
import threading
import time
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from obstore.exceptions import BaseError, GenericError, InvalidPathError, PermissionDeniedError
from obstore.store import AzureStore, GCSStore, HTTPStore, ObjectStore, S3Store

from tests import servers
from tests.fault_server import (
    ACCESS_DENIED,
    BUCKET,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    NO_SUCH_KEY,
    SLOW_DOWN,
    EarlyClose,
    Fault,
    FaultServer,
    FlippedByte,
    Reset,
    Resized,
    Stall,
    WrongETag,
    fault_server,
)
from tests.relay import relay
from tests.servers import (
    S3_CREDENTIALS,
    AzureServer,
    GCSServer,
    ServerUnavailable,
    azure_server,
    gcs_server,
    http_server,
    open_server,
    s3_server,
)

NAMES = [
    "plain.jpg",
    "sub dir/IMG (1).jpg",
    "a#b.jpg",
    "a%b.jpg",
    "a%20b.jpg",
    "a%2Fb.jpg",
    "a+b.jpg",
    "a?b=c.jpg",
    "a&b;c,d.jpg",
    "a'b\"c[d]{e}.jpg",
    "a:b|c<d>^`~*.jpg",
    " lead, trail ",
    ".hidden/.../x",
    unicodedata.normalize("NFC", "café.jpg"),
    unicodedata.normalize("NFD", "café.jpg"),
    "写真/サバンナ 1.jpg",
]
DATA = bytes(range(256)) * 64


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a SeaweedFS with credentials."""
    with _or_skip(), s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """A running Azurite."""
    with _or_skip(), azure_server(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCSServer]:
    """A running fake-gcs-server."""
    with _or_skip(), gcs_server(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except ServerUnavailable as reason:
        pytest.skip(str(reason))


def _s3_store(url: str, bucket: str, timeout: str = "30s", max_retries: int = 0) -> S3Store:
    return S3Store(
        bucket,
        config={
            "endpoint": url,
            "access_key_id": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "secret_access_key": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "region": S3_CREDENTIALS["AWS_DEFAULT_REGION"],
        },
        client_options={"allow_http": True, "timeout": timeout},
        retry_config={"max_retries": max_retries},
    )


def _fresh_name(word: str) -> str:
    return f"{word}-{secrets.token_hex(4)}"


def _assert_keeps_names(store: ObjectStore) -> None:
    for name in NAMES:
        store.put(name, name.encode(), use_multipart=False)
    _assert_reads_names(store)


def _assert_reads_names(store: ObjectStore) -> None:
    assert sorted(entry["path"] for entry in store.list().collect()) == sorted(NAMES)
    for name in NAMES:
        assert bytes(store.get(name).bytes()) == name.encode()
        assert bytes(store.get_range(name, start=1, length=3)) == name.encode()[1:4]


def test_s3_keeps_every_name(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3Store puts, lists and gets names with spaces, signs and accents as they are."""
    for name, value in (S3_CREDENTIALS | {"AWS_ENDPOINT_URL": s3_url}).items():
        monkeypatch.setenv(name, value)
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = _fresh_name("names")
    s3fs.S3FileSystem().mkdir(bucket)
    _assert_keeps_names(_s3_store(s3_url, bucket))


def test_azure_keeps_every_name(azure: AzureServer) -> None:
    """AzureStore puts, lists and gets names with spaces, signs and accents as they are."""
    container = _fresh_name("names")
    azure.make_container(container)
    store = AzureStore(
        container,
        config={
            "account_name": azure.account_name,
            "account_key": azure.account_key,
            "endpoint": azure.endpoint,
        },
        client_options={"allow_http": True},
    )
    _assert_keeps_names(store)


def test_gcs_reads_every_name(gcs: GCSServer) -> None:
    """GCSStore lists and gets names with spaces, signs and accents as they are."""
    bucket = _fresh_name("names")
    gcs.make_bucket(bucket)
    for name in NAMES:
        gcs.put(bucket, name, name.encode())
    store = GCSStore(
        bucket,
        config={"base_url": gcs.endpoint, "skip_signature": True},
        client_options={"allow_http": True},
    )
    _assert_reads_names(store)


def test_gcs_store_writes_to_the_open_server(tmp_path: Path) -> None:
    """GCSStore writes every name, and large objects in parts, to SeaweedFS without credentials."""
    with _or_skip(), open_server(tmp_path) as endpoint:
        request = urllib.request.Request(f"{endpoint}/names", b"", method="PUT")  # noqa: S310 - loopback
        urllib.request.urlopen(request).close()  # noqa: S310 - loopback
        store = GCSStore(
            "names",
            # A token of any kind, for GCSStore looks for one before it writes.
            config={"base_url": endpoint, "bearer_token": "test"},
            client_options={"allow_http": True},
        )
        _assert_keeps_names(store)
        store.put("large", bytes(6 << 20), use_multipart=True, chunk_size=5 << 20)
        assert store.head("large")["size"] == 6 << 20


def test_http_reads_every_name(tmp_path: Path) -> None:
    """HTTPStore gets files of every name by the name alone, whole or in part, and cannot list."""
    for name in NAMES:
        if "%2F" not in name:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    with _or_skip(), http_server(tmp_path) as url:
        store = HTTPStore(url, client_options={"allow_http": True}, retry_config={"max_retries": 0})
        for name in NAMES:
            if "%2F" not in name:
                assert bytes(store.get(name).bytes()) == name.encode()
                assert bytes(store.get_range(name, start=1, length=3)) == name.encode()[1:4]
        with pytest.raises(GenericError, match="405 Method Not Allowed"):
            store.list().collect()


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose program is missing says which, so that a fixture may skip."""
    monkeypatch.setattr("tests.servers.shutil.which", lambda _: None)
    with pytest.raises(ServerUnavailable, match="node is missing"), azure_server(tmp_path):
        pass


def test_a_server_that_does_not_start_shows_its_log() -> None:
    """A server that ends before it answers is reported with the end of what it said."""
    command = ["sh", "-c", "echo no luck; exit 1"]
    with (
        pytest.raises(RuntimeError, match=r"the odd server did not start: no luck"),
        servers._running("odd", command, servers.free_port()),
    ):
        pass


@contextmanager
def _far_store(latency_seconds: float, num_objects: int) -> Iterator[S3Store]:
    objects = {f"{index}.jpg": DATA for index in range(num_objects)}
    with fault_server(objects) as server:
        port = int(server.url.rpartition(":")[2])
        with relay("127.0.0.1", port, latency_seconds) as near_port:
            yield _s3_store(f"http://127.0.0.1:{near_port}", BUCKET)


def _seconds(action: Callable[[], object], enough: float) -> float:
    """What it takes when the machine does nothing else: of some tries the first to be so fast."""
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        action()
        seconds.append(time.monotonic() - start)
        if seconds[-1] < enough:
            break
    return min(seconds)


def test_the_relay_takes_a_round_trip() -> None:
    """A request through the relay takes about its latency, and no more for a body."""
    with _far_store(1.0, num_objects=1) as store:
        seconds = _seconds(lambda: store.get("0.jpg").bytes(), enough=2.0)
    assert 1.0 <= seconds < 2.0  # another round trip, for the body, would make it two


def test_the_relay_delays_requests_side_by_side() -> None:
    """Thirty-two requests at once take less time than three in turn."""

    async def get_all(store: S3Store) -> None:
        async def get(name: str) -> None:
            assert await (await store.get_async(name)).bytes_async() == DATA

        await asyncio.gather(*(get(f"{index}.jpg") for index in range(32)))

    with _far_store(0.3, num_objects=32) as store:
        seconds = _seconds(lambda: asyncio.run(get_all(store)), enough=0.9)
    assert 0.3 <= seconds < 0.9


def test_the_relay_passes_the_end_of_each_direction_on() -> None:
    """A client that ends its half still gets the rest of the answer, then the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # noqa: SIM117 - in turn
        with relay("127.0.0.1", server.getsockname()[1], 0.02) as port:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                with server.accept()[0] as far:
                    far.settimeout(10)
                    with far.makefile("rb") as received:
                        assert received.read() == b"question"
                    far.sendall(DATA * 64)
                with client.makefile("rb") as received:
                    assert received.read() == DATA * 64


@pytest.fixture
def faulty() -> Iterator[FaultServer]:
    """A server of one object, ``x``, that fails as told."""
    with fault_server({"x": DATA}) as server:
        yield server


def _get(server: FaultServer, key: str = "x", timeout: str = "30s") -> bytes:
    return bytes(_s3_store(server.url, BUCKET, timeout).get(key).bytes())


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (SLOW_DOWN, GenericError, "503 Service Unavailable.*<Code>SlowDown"),
        (INTERNAL_ERROR, GenericError, "500 Internal Server Error.*<Code>InternalError"),
        (ACCESS_DENIED, PermissionDeniedError, "403 Forbidden.*<Code>AccessDenied"),
        (EXPIRED_TOKEN, GenericError, "400 Bad Request.*<Code>ExpiredToken"),
        (NO_SUCH_KEY, FileNotFoundError, "404 Not Found.*<Code>NoSuchKey"),
        (Reset(), GenericError, "error sending request(?s:.*)kind: ConnectionReset"),
        (Reset(100, seconds=1.0), GenericError, "response body error(?s:.*)kind: ConnectionReset"),
        (Stall(after=100), GenericError, "response body error(?s:.*)kind: Timeout"),
        (EarlyClose(after=100), GenericError, "response body error(?s:.*)IncompleteBody"),
        (EarlyClose(100, has_length=False), GenericError, "Content-Length Header missing"),
    ],
    ids=repr,
)
def test_a_fault_reaches_the_client(
    faulty: FaultServer, fault: Fault, error: type[BaseError | FileNotFoundError], message: str
) -> None:
    """Obstore raises the error that belongs to a fault, and reads the object once it is over."""
    faulty.fail("x", fault, times=1)
    with pytest.raises(error, match=message):
        _get(faulty, timeout="1s" if isinstance(fault, Stall) else "30s")
    assert _get(faulty) == DATA
    assert faulty.num_requests("x") == 2


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Stall(after=100, seconds=0.2), DATA),
        (Resized(by=3), DATA + bytes(3)),
        (Resized(by=-3), DATA[:-3]),
        (FlippedByte(at=0), b"\x01" + DATA[1:]),
        (WrongETag(), DATA),
    ],
    ids=repr,
)
def test_obstore_does_not_see_a_silent_fault(
    faulty: FaultServer, fault: Fault, body: bytes
) -> None:
    """Obstore reports neither a wrong byte, nor a wrong ETag, nor a length unlike the listing's."""
    faulty.fail("x", fault)
    assert _get(faulty) == body


def test_the_wrong_etag_is_not_that_of_the_content(faulty: FaultServer) -> None:
    """A wrong ETag in the answer differs from the one in the listing."""
    faulty.fail("x", WrongETag())
    store = _s3_store(faulty.url, BUCKET)
    assert store.get("x").meta["e_tag"] != store.list().collect()[0]["e_tag"]


def test_faults_take_their_turns(faulty: FaultServer) -> None:
    """Faults come in the order asked for, each so many times, and retries are counted."""
    faulty.fail("x", SLOW_DOWN, times=2)
    faulty.fail("x", Reset(after=100, seconds=1.0), times=1)
    store = _s3_store(faulty.url, BUCKET, max_retries=3)
    assert bytes(store.get("x").bytes()) == DATA
    assert faulty.num_requests("x") == 4
    assert [request.byte_range for request in faulty.requests][-1] == f"bytes=100-{len(DATA) - 1}"
    assert faulty.times == sorted(faulty.times)


def test_obstore_retries_no_expired_token(faulty: FaultServer) -> None:
    """An expired token ends the request at once: nothing retries it, whatever the settings."""
    faulty.fail("x", EXPIRED_TOKEN)
    with pytest.raises(GenericError, match="ExpiredToken"):
        _s3_store(faulty.url, BUCKET, max_retries=3).get("x")
    assert faulty.num_requests("x") == 1


def test_a_listing_can_fail(faulty: FaultServer) -> None:
    """A fault for the empty key befalls listings alone."""
    faulty.fail("", SLOW_DOWN, times=1)
    store = _s3_store(faulty.url, BUCKET)
    with pytest.raises(GenericError, match="SlowDown"):
        store.list().collect()
    assert [entry["path"] for entry in store.list().collect()] == ["x"]


def test_a_write_can_fail(faulty: FaultServer) -> None:
    """A fault for PUT befalls the write alone, which then goes through."""
    faulty.fail("y", ACCESS_DENIED, times=1, method="PUT")
    store = _s3_store(faulty.url, BUCKET)
    with pytest.raises(PermissionDeniedError):
        store.put("y", b"new", use_multipart=False)
    store.put("y", b"new", use_multipart=False)
    assert faulty.objects["y"] == b"new"
    assert faulty.num_requests("y", "PUT") == 2


def test_the_greatest_number_in_flight_is_kept() -> None:
    """Eight requests that are answered once all are there count as eight in flight."""
    names = [str(index) for index in range(8)]

    async def get_all(store: S3Store) -> None:
        async def get(name: str) -> None:
            await (await store.get_async(name)).bytes_async()

        await asyncio.gather(*(get(name) for name in names))

    with fault_server(dict.fromkeys(names, DATA)) as server:
        server.on_request = threading.Barrier(len(names), timeout=30).wait
        asyncio.run(get_all(_s3_store(server.url, BUCKET)))
        assert server.max_in_flight == 8


def test_a_listing_comes_in_pages() -> None:
    """More than a thousand objects are listed whole, and by folder or after a name."""
    objects = {f"site {index % 2}/{index:04}.jpg": b"" for index in range(2500)}
    with fault_server(objects) as server:
        store = _s3_store(server.url, BUCKET)
        assert len(store.list().collect()) == 2500
        assert server.num_requests("") == 3
        assert store.list_with_delimiter()["common_prefixes"] == ["site 0", "site 1"]
        late = store.list("site 1", offset="site 1/2497.jpg").collect()
        assert [entry["path"] for entry in late] == ["site 1/2499.jpg"]


@pytest.mark.parametrize("key", ["a//b", "./x", "a/../b", "line\nbreak", "tab\t", "folder//"])
def test_one_odd_key_fails_a_whole_listing(key: str) -> None:
    """Obstore lists nothing from a bucket that holds a key which it cannot parse, nor gets it."""
    with fault_server({"good": DATA, key: DATA}) as server:
        with pytest.raises(InvalidPathError):
            _s3_store(server.url, BUCKET).list().collect()
        with pytest.raises(ValueError, match="Could not parse path"):
            _get(server, key)


@pytest.mark.parametrize("key", ["folder/", "/lead"])
def test_outer_slashes_are_lost(key: str) -> None:
    """Obstore lists a key with an outer slash without it, and then does not find it."""
    with fault_server({key: DATA}) as server:
        listed = _s3_store(server.url, BUCKET).list().collect()
        assert [entry["path"] for entry in listed] == [key.strip("/")]
        with pytest.raises(FileNotFoundError):
            _get(server, key)
