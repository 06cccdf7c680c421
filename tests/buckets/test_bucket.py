"""Buckets under fire: which faults pass unseen, which end in an error, and in which."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from obstore.store import S3Store

from serengeti_etl import retry
from serengeti_etl.buckets import bucket as bucket_module
from serengeti_etl.buckets import client
from serengeti_etl.buckets.place import Place
from serengeti_etl.errors import ChecksumError, RequestRefused
from serengeti_etl.storage import Store
from tests.fault_server import (
    ACCESS_DENIED,
    BUCKET,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    SLOW_DOWN,
    EarlyClose,
    Fault,
    FaultServer,
    FlippedByte,
    Refusal,
    Reset,
    Stall,
    Swapped,
    WrongETag,
    fault_server,
)

pytestmark = pytest.mark.usefixtures("impatient")

DATA = bytes(range(256)) * 64


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A server of one object, ``x``, that fails as told."""
    with fault_server({"x": DATA}) as running:
        yield running


def store_of(server: FaultServer, **options: Any) -> Store:
    return Store(
        url=f"s3://{BUCKET}",
        options={"endpoint_url": server.url, "key": "k", "secret": "s", **options},
    )


@pytest.mark.parametrize(
    "fault",
    [
        SLOW_DOWN,
        INTERNAL_ERROR,
        Reset(),
        Reset(after=100),
        EarlyClose(after=100),
        EarlyClose(after=100, has_length=False),
        Stall(after=100),
    ],
    ids=repr,
)
def test_a_fault_that_passes_is_not_seen(server: FaultServer, fault: Fault) -> None:
    """Two faults of the store or the network cost two more requests, and the bytes are right."""
    server.fail("x", fault, times=2)
    assert store_of(server).read("x") == DATA
    assert server.num_requests("x") == 3


@pytest.mark.parametrize("fault", [SLOW_DOWN, Reset(after=100), Stall(after=100)], ids=repr)
def test_a_fault_that_stays_is_an_outage(
    server: FaultServer, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last try it is a ConnectionError: a store that never answers does not hang."""
    monkeypatch.setattr(retry, "NUM_ATTEMPTS", 3)
    server.fail("x", fault)
    with pytest.raises(ConnectionError):
        store_of(server).read("x")
    assert server.num_requests("x") == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ACCESS_DENIED, PermissionError),
        (EXPIRED_TOKEN, RequestRefused),
        (Refusal(403, "SignatureDoesNotMatch"), RequestRefused),
        (Refusal(400, "InvalidRequest"), RequestRefused),
        (Refusal(404, "NoSuchKey"), FileNotFoundError),
    ],
    ids=repr,
)
def test_an_answer_is_not_asked_for_again(
    server: FaultServer, fault: Fault, error: type[OSError]
) -> None:
    """What the store has decided is one request; stale credentials blame no object."""
    server.fail("x", fault)
    with pytest.raises(error) as raised:
        store_of(server).read("x")
    assert type(raised.value) is error
    assert server.num_requests("x") == 1
    assert "Debug source" not in str(raised.value)


def test_a_store_without_conditions_is_asked_first(server: FaultServer) -> None:
    """Where a write on a condition is not implemented, it is looked whether there is something."""
    store = store_of(server)
    for name in ("x", "y"):
        server.fail(name, Refusal(501, "NotImplemented"), times=1, method="PUT")
    assert not store.write_new("x", b"mine")
    assert store.write_new("y", b"mine")
    assert (server.objects["x"], server.objects["y"]) == (DATA, b"mine")


def test_faults_of_a_new_object_are_tried_again(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that pass are not seen; those that stay are an outage, not an answer."""
    store = store_of(server)
    server.fail("y", SLOW_DOWN, times=2, method="PUT")
    assert store.write_new("y", b"mine")
    assert server.num_requests("y", "PUT") == 3
    monkeypatch.setattr(retry, "NUM_ATTEMPTS", 2)
    server.fail("z", INTERNAL_ERROR, method="PUT")
    with pytest.raises(ConnectionError):
        store.write_new("z", b"mine")


def test_each_further_try_is_told(server: FaultServer) -> None:
    """The caller hears of every fault that is followed by another try."""
    server.fail("x", SLOW_DOWN, times=2)
    server.fail("x", Reset(), times=1)
    told: list[BaseException] = []
    assert store_of(server).read_checked("x", told.append) == DATA
    assert [retry.is_slow_down(error) for error in told] == [True, True, False]
    assert not retry.is_slow_down(ConnectionError("GET http://h/b/503.jpg: connection reset"))


def test_a_flipped_byte_is_found(server: FaultServer) -> None:
    """Content that does not match its ETag is a ChecksumError with both; unchecked it passes."""
    server.fail("x", FlippedByte(at=5))
    with pytest.raises(ChecksumError, match=hashlib.md5(DATA).hexdigest()):  # noqa: S324
        store_of(server).read_checked("x")
    assert store_of(server, check_etag=False).read_checked("x") != DATA


@pytest.mark.parametrize("has_own_etag", [True, False])
def test_another_object_in_its_place_is_found(server: FaultServer, *, has_own_etag: bool) -> None:
    """With its own ETag no answer tells, but the head does, where it is asked for."""
    server.objects["y"] = DATA[::-1]
    server.fail("x", Swapped("y", has_own_etag=has_own_etag))
    if has_own_etag:
        assert store_of(server).read_checked("x") == DATA[::-1]
    with pytest.raises(ChecksumError):
        store_of(server, check_head=True).read_checked("x")
    server.heal("x")
    assert store_of(server, check_head=True).read_checked("x") == DATA


def test_an_etag_that_is_no_checksum_can_be_left_alone(server: FaultServer) -> None:
    """A bucket whose ETags mean something else says so in its options."""
    server.fail("x", WrongETag())
    with pytest.raises(ChecksumError, match="check_etag"):
        store_of(server).read_checked("x")
    assert store_of(server, check_etag=False).read_checked("x") == DATA


def test_an_etag_of_parts_is_no_checksum(make_bucket: Any) -> None:
    """An object that was put in parts has another kind of ETag, and is read."""
    store = Store(url=make_bucket("parts"))
    content = bytes(20 << 20)
    store.write("x", content)
    assert store.read_checked("x") == content


def test_a_stream_is_there_when_it_is_whole(make_bucket: Any) -> None:
    """What is appended in parts is one object after the block, and nothing before."""
    store = Store(url=make_bucket("stream"))
    with store.create("x") as append:
        for at in range(40):
            append(bytes([at]) * 500_000)
        assert not store.exists("x")
    content = store.read("x")
    assert len(content) == 20_000_000
    assert content[::500_000] == bytes(range(40))


def test_a_stream_that_fails_leaves_what_was_there(make_bucket: Any) -> None:
    """When its block raises, no object appears, whole or half, and an old one stays."""
    store = Store(url=make_bucket("stream"))
    store.write("old", b"old")
    for name in ("old", "new"):
        with pytest.raises(ValueError, match="no more"), store.create(name) as append:  # noqa: PT012
            append(bytes(20_000_000))
            raise ValueError("no more")
    assert store.read("old") == b"old"
    assert store.list("") == ["old"]


def test_a_name_that_the_client_cannot_ask_for_is_not_there(server: FaultServer) -> None:
    """An empty part or a control character in a name is FileNotFoundError that says why."""
    for name in ("a//b", "tab\t"):
        with pytest.raises(FileNotFoundError, match="cannot ask for such a name"):
            store_of(server).read(name)
    assert server.requests == []


@contextmanager
def other_region(region: str | None) -> Iterator[str]:
    """The url of a server that says of every bucket that it lies elsewhere, and perhaps where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(301)
            if region:
                self.send_header("x-amz-bucket-region", region)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_GET

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_region_of_a_bucket_is_learnt() -> None:
    """A server that refuses or redirects still tells the region; one that cannot is None."""
    with other_region("af-south-1") as url:
        assert client.bucket_region("b", url) == "af-south-1"
    with other_region(None) as url:
        assert client.bucket_region("b", url) is None
    assert client.bucket_region("b", url) is None


def test_a_bucket_elsewhere_is_asked_there(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect without an address is followed to the region that the bucket is in."""
    asked = []

    def open_client(place: Any, options: dict[str, Any], max_retries: int) -> Any:
        if options.get("region") == "af-south-1":
            options = {**options, "endpoint": server.url}
        asked.append(options.get("region"))
        return client.open_client(place, options, max_retries)

    monkeypatch.setattr(bucket_module, "open_client", open_client)
    with other_region("af-south-1") as url:
        monkeypatch.setattr(
            bucket_module, "bucket_region", lambda name: client.bucket_region(name, url)
        )
        store = replace(store_of(server), options={"endpoint": url, "anon": True})
        assert store.read("x") == DATA
        assert store.read_range("x", 1, 3) == DATA[1:3]
    assert asked == [None, None, "af-south-1", "af-south-1"]


def test_a_redirect_to_nowhere_is_refused(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the region cannot be learnt, the error says that it is probably wrong."""
    with other_region(None) as url:
        monkeypatch.setattr(bucket_module, "bucket_region", lambda _: None)
        store = replace(store_of(server), options={"endpoint": url, "anon": True})
        with pytest.raises(RequestRefused, match="incorrectly configured region"):
            store.read("x")


def test_profiles_are_read_as_the_command_line_does(
    server: FaultServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile's keys sign the requests, and its region is theirs."""
    (tmp_path / "credentials").write_text("[far]\naws_access_key_id=AK\naws_secret_access_key=S\n")
    (tmp_path / "config").write_text("[profile far]\nregion=af-south-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    store = Store(url=f"s3://{BUCKET}", options={"endpoint": server.url, "profile": "far"})
    assert store.read("x") == DATA
    opened = bucket_module.open_bucket(Place(kind="s3", name=BUCKET), store.options)
    assert isinstance(opened._client, S3Store)
    assert opened._client.config.get("region") == "af-south-1"
    keys: Any = opened._client.credential_provider
    assert (keys()["access_key_id"], keys()["secret_access_key"]) == ("AK", "S")


def test_a_web_server_cannot_be_listed_or_written(server: FaultServer) -> None:
    """To list its files or to write is refused with what to do, and no folder is seen."""
    store = Store(url=f"{server.url}/photographs")
    for listing in (store.find, store.list):
        with pytest.raises(RequestRefused, match="name a label file"):
            listing("")
    with pytest.raises(RequestRefused, match="where nothing can be written"):
        store.write_new("x", b"")
    assert not store.is_folder("")
    assert server.requests == []


def test_an_error_keeps_a_signature_to_itself(server: FaultServer) -> None:
    """What stands behind the ``?`` of an address is in no message."""
    server.fail("x", ACCESS_DENIED)
    with pytest.raises(PermissionError) as raised:
        Store(url=f"{server.url}/{BUCKET}/x?X-Signature=secret").read("")
    assert "secret" not in str(raised.value)
    assert "403" in str(raised.value)
