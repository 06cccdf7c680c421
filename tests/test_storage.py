"""Storage: whole or not at all, the same on a folder and in a bucket."""

import errno
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serengeti_etl import retry
from serengeti_etl.errors import ConfigError, RequestRefused
from serengeti_etl.files import LocalFiles
from serengeti_etl.retry import is_transient
from serengeti_etl.storage import Store, join_url


@pytest.fixture(params=["folder", "bucket", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same store as a local folder, in a real S3 bucket and in memory."""
    if request.param == "bucket":
        make_bucket: Callable[[str], str] = request.getfixturevalue("make_bucket")
        return Store(url=f"{make_bucket('storage')}/some prefix")
    url = str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}"
    return Store(url=url)


def test_what_is_written_is_read(store: Store) -> None:
    """Bytes come back whole and by range, under names with spaces and brackets."""
    store.write("a b/c (2).bin", b"0123456789")
    assert store.read("a b/c (2).bin") == b"0123456789"
    assert store.read_range("a b/c (2).bin", 2, 5) == b"234"
    assert store.num_bytes("a b/c (2).bin") == 10
    with store.open_input("a b/c (2).bin") as file:
        file.seek(8)
        assert file.read() == b"89"


def test_names_are_seen_as_they_are_now(store: Store) -> None:
    """Listing and existence follow writes and deletes at once; a missing folder is empty."""
    assert store.list("shards") == []
    store.write("shards/b", b"")
    store.write("shards/a", b"1")
    assert store.list("shards") == ["shards/a", "shards/b"]
    store.delete("shards/a")
    store.delete("shards/a")
    assert not store.exists("shards/a")
    assert store.list("shards") == ["shards/b"]
    assert store.exists("shards/b")
    assert not store.exists("shards")


def test_folders_are_searched_to_any_depth(store: Store) -> None:
    """Every file below a folder is found by its relative name; without one, none is."""
    for name in ("a/b/c.jpg", "a/d.jpg", "other/e.jpg"):
        store.write(name, b"")
    assert store.find("a") == ("b/c.jpg", "d.jpg")
    assert store.find("") == ("a/b/c.jpg", "a/d.jpg", "other/e.jpg")
    assert store.find("nowhere") == ()
    assert store.is_folder("a")
    assert not store.is_folder("nowhere")
    assert not store.is_folder("a/d.jpg")


def test_a_local_file_is_put_whole(store: Store, tmp_path: Path) -> None:
    """An uploaded file has its bytes, replaces what was there, and leaves nothing beside it."""
    store.write("x", b"old")
    (tmp_path / "new").write_bytes(b"new" * 1000)
    store.upload(tmp_path / "new", "x")
    assert store.read("x") == b"new" * 1000
    assert store.find("") == ("x",)


def test_what_is_there_is_not_written_over(store: Store) -> None:
    """``write_new`` puts what is not there, says no to what is, and leaves nothing beside it."""
    assert store.write_new("deep/x", b"first")
    assert not store.write_new("deep/x", b"second")
    assert store.read("deep/x") == b"first"
    store.delete("deep/x")
    assert store.write_new("deep/x", b"third")
    assert store.read("deep/x") == b"third"
    assert store.find("") == ("deep/x",)


def test_of_many_new_files_at_once_one_is_whole(tmp_path: Path) -> None:
    """Twelve threads put the same new name in a folder: one succeeds, and all of it is its own."""
    store = Store(url=str(tmp_path))
    contents = [bytes([number]) * 100_000 for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(lambda content: store.write_new("x", content), contents))
    assert sum(won) == 1
    assert store.read("x") == contents[won.index(True)]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_folder_without_hard_links_knows_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Where a file cannot have two names, the new one is opened as such."""

    def refused(self: Path, target: Path) -> None:  # noqa: ARG001
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    store = Store(url=str(tmp_path))
    assert store.write_new("x", b"first")
    assert not store.write_new("x", b"second")
    assert store.read("x") == b"first"
    assert store.find("") == ("x",)


def test_a_new_file_is_tried_again_when_another_process_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``remove_partial`` of somebody else in the middle of ``write_new`` costs one more try."""
    store, real, num_tries = Store(url=str(tmp_path)), Path.hardlink_to, 0

    def tidied_before(self: Path, target: Path) -> None:
        nonlocal num_tries
        num_tries += 1
        if num_tries == 1:
            store.remove_partial()
        real(self, target)

    monkeypatch.setattr(Path, "hardlink_to", tidied_before)
    assert store.write_new("x", b"whole")
    assert (num_tries, store.read("x")) == (2, b"whole")


def test_a_missing_name_is_file_not_found(store: Store) -> None:
    """Reading and measuring what is not there is FileNotFoundError, not tried again."""
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    with pytest.raises(FileNotFoundError):
        store.num_bytes("nothing")


def test_json_is_written_the_same_way_every_time(store: Store) -> None:
    """Key order does not matter; text is UTF-8 with a final newline."""
    store.write_json("x.json", {"b": 1, "a": "é"})
    assert store.read("x.json") == '{\n "a": "é",\n "b": 1\n}\n'.encode()


def test_a_local_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills up in the middle, the name shows what it showed before."""
    store = Store(url=str(tmp_path))
    store.write("x", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr(retry, "NUM_ATTEMPTS", 1)
    with pytest.raises(OSError, match="No space"):
        store.write("x", b"new and longer")
    assert store.read("x") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_transient_errors_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two faults of the store pass unseen; five do not."""
    store = Store(url=str(tmp_path))
    store.write("x", b"there")
    real = LocalFiles.read
    faults = iter([ConnectionResetError("reset"), TimeoutError("slow")])

    def flaky(self: LocalFiles, path: str) -> bytes:
        for fault in faults:
            raise fault
        return real(self, path)

    monkeypatch.setattr(LocalFiles, "read", flaky)
    assert store.read("x") == b"there"
    faults = iter([ConnectionResetError("reset")] * 5)
    with pytest.raises(ConnectionResetError):
        store.read("x")


def test_which_errors_are_worth_another_try() -> None:
    """Faults of network and disk are; answers and our own mistakes are not."""
    assert is_transient(ConnectionError())
    assert is_transient(TimeoutError())
    assert is_transient(OSError(28, "No space left on device"))
    assert not is_transient(FileNotFoundError())
    assert not is_transient(PermissionError())
    assert not is_transient(RequestRefused())
    assert not is_transient(ValueError())


@pytest.mark.parametrize(
    ("base", "name", "joined"),
    [
        ("s3://b/p", "x/y", "s3://b/p/x/y"),
        ("s3://b/p/", "x", "s3://b/p/x"),
        ("folder", "", "folder"),
        ("s3://b", "gs://c/x", "gs://c/x"),
        ("folder", "/elsewhere/x", "/elsewhere/x"),
    ],
)
def test_urls_are_joined(base: str, name: str, joined: str) -> None:
    """A name goes below its base, unless it is a place of its own."""
    assert join_url(base, name) == joined


def test_an_unknown_scheme_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose package is missing is a ConfigError that says so."""
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(ConfigError, match=r"sftp://host/x needs .* not installed"):
        Store(url="sftp://host/x").read("y")


def test_a_client_without_its_settings_says_what_it_needs() -> None:
    """Azure without an account is a ConfigError in the client's own words."""
    with pytest.raises(ConfigError, match=r"az://container cannot be opened: .*Account"):
        Store(url="az://container/x").read("y")


def test_what_another_has_just_deleted_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may delete one file: it is gone, which is what both want."""
    monkeypatch.setattr(LocalFiles, "exists", lambda *_: True)
    Store(url=str(tmp_path)).delete("gone")
