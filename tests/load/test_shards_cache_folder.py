"""The files of a cache: who may write one, when it gets its name, who may delete it."""

import contextlib
import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serengeti_etl.load.cache_folder import LOCK_NAME, CacheFolder, Claim
from serengeti_etl.load.held_shards import HeldFile, Identity, identity_of, open_to_read

NAME = f"serengeti-{'a' * 64}.tar"


class Waiting:
    """Tells when a claim waits for another one."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()

    def __call__(self) -> contextlib.AbstractContextManager[None]:
        """What is entered around the wait."""
        self.has_begun.set()
        return contextlib.nullcontext()


def claim_of(folder: CacheFolder) -> Claim:
    """A claim that nobody else holds."""
    claim = folder.claim(NAME, contextlib.nullcontext)
    assert isinstance(claim, Claim)
    return claim


def write(folder: CacheFolder, claim: Claim, content: bytes = b"whole") -> Identity:
    """Finish the claim's file."""
    assert folder.reserve(claim, len(content), lambda _: None)
    claim.put(0, content)
    return folder.place(claim)


def test_who_waited_for_a_claim_gets_what_was_written(tmp_path: Path) -> None:
    """It is told which file that is, so that it need not check it; a later one is told nothing."""
    one, other, waiting = CacheFolder(tmp_path, 100), CacheFolder(tmp_path, 100), Waiting()
    with ThreadPoolExecutor(1) as pool:
        with claim_of(one) as claim:
            answer = pool.submit(other.claim, NAME, waiting)
            assert waiting.has_begun.wait(30)
            identity = write(one, claim)
        assert answer.result(timeout=30) == identity
    assert other.claim(NAME, contextlib.nullcontext) is None
    assert {path.name for path in tmp_path.iterdir()} == {NAME, LOCK_NAME}
    assert other.path(NAME).read_bytes() == b"whole"


def test_a_claim_given_up_goes_to_who_waits(tmp_path: Path) -> None:
    """A writer that failed leaves no file, and the next one writes a new one, with its name."""
    one, other, waiting = CacheFolder(tmp_path, 100), CacheFolder(tmp_path, 100), Waiting()
    with ThreadPoolExecutor(1) as pool:
        with claim_of(one) as claim:
            answer = pool.submit(other.claim, NAME, waiting)
            assert waiting.has_begun.wait(30)
            claim.put(0, b"half")
        assert not other.path(NAME).exists()
        taken = answer.result(timeout=30)
    assert isinstance(taken, Claim)
    with taken:
        write(other, taken)
    assert other.path(NAME).read_bytes() == b"whole"
    assert {path.name for path in tmp_path.iterdir()} == {NAME, LOCK_NAME}


def test_a_file_keeps_its_name_while_room_is_made(tmp_path: Path) -> None:
    """Who adds up sizes must not miss a file between its two names."""
    folder = CacheFolder(tmp_path, 100)
    with claim_of(folder) as claim, ThreadPoolExecutor(1) as pool:
        assert folder.reserve(claim, 5, lambda _: None)
        with (tmp_path / LOCK_NAME).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            placing = pool.submit(folder.place, claim)
            with pytest.raises(TimeoutError):
                placing.result(timeout=0.2)
            assert not folder.path(NAME).exists()
        placing.result(timeout=30)
    assert folder.path(NAME).exists()


def test_a_file_deleted_just_before_its_lock_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking a file another process may delete it; then it is not used."""
    path = tmp_path / NAME
    path.write_bytes(b"whole")
    with path.open("rb") as file:
        identity = identity_of(file.fileno())
    held = HeldFile(path=path, identity=identity, is_whole=True, is_shared=True)
    held.open().close()
    monkeypatch.setattr(fcntl, "flock", lambda *_: path.unlink())
    with pytest.raises(FileNotFoundError):
        held.open()


def test_a_locked_file_is_not_deleted(tmp_path: Path) -> None:
    """What somebody reads or writes stays, though it is worth the least; then room is refused."""
    folder, other = CacheFolder(tmp_path, 10), f"serengeti-{'b' * 64}.tar"
    with claim_of(folder) as claim:
        write(folder, claim, bytes(8))
    descriptor = open_to_read(folder.path(NAME), is_shared=True)
    second = folder.claim(other, contextlib.nullcontext)
    assert isinstance(second, Claim)
    with os.fdopen(descriptor, "rb"), second:
        assert not folder.reserve(second, 8, lambda _: (0, 0.0))
        assert folder.reserve(second, 2, lambda _: (0, 0.0))
    third = folder.claim(other, contextlib.nullcontext)
    assert isinstance(third, Claim)
    with third:
        assert folder.reserve(third, 8, lambda _: (0, 0.0))
    assert not folder.path(NAME).exists()


def test_what_a_killed_writer_left_takes_no_room_from_its_successor(tmp_path: Path) -> None:
    """A partial file that is taken over is not counted twice."""
    (tmp_path / f"{NAME}.partial").write_bytes(bytes(9))
    folder = CacheFolder(tmp_path, 10)
    with claim_of(folder) as claim:
        assert folder.reserve(claim, 10, lambda _: None)
        claim.put(0, b"0123456789")
        folder.place(claim)
    assert folder.path(NAME).read_bytes() == b"0123456789"
