"""Photographs in zip and tar archives: the standard library reads the same from the same bytes."""

import io
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.convert.archives import check_archive_name, list_members, match_members
from serengeti_etl.convert.member import (
    LOCATION_SCHEMA,
    MEMBER_SCHEMA,
    REASONS,
    Location,
    check_member,
    member_bytes,
)
from serengeti_etl.errors import CatalogError, ConfigError, ImageError
from serengeti_etl.storage import Store

MEMORY = Store(url="memory://archives")
MIB = 1 << 20
PHOTO = bytes(range(256)) * 20

FOLDERS = st.lists(st.text("abcXY 09é日()-_", min_size=1, max_size=8), min_size=1, max_size=3)
NAMES = FOLDERS.map(lambda folders: "/".join(folders) + ".JPG")
CONTENTS = st.one_of(st.binary(max_size=300), st.integers(0, 90_000).map(lambda n: b"zebra" * n))
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One member as a zip declares it, true or not."""

    name: str
    data: bytes
    num_bytes: int
    crc: int
    method: int = zipfile.ZIP_STORED
    flags: int = 0
    disk: int = 0
    local_extra: bytes = b""
    central_extra: bytes = b""
    local_signature: bytes = b"PK\x03\x04"

    def local(self) -> bytes:
        """The local header with the data behind it."""
        name = self.name.encode()
        sizes = (self.crc, len(self.data), self.num_bytes, len(name), len(self.local_extra))
        head = struct.pack("<5H3I2H", 20, self.flags, self.method, 0, 33, *sizes)
        return self.local_signature + head + name + self.local_extra + self.data

    def central(self, offset: int) -> bytes:
        """The record of the central directory."""
        name = self.name.encode()
        sizes = (self.crc, len(self.data), self.num_bytes, len(name), len(self.central_extra))
        rest = (0, self.disk, 0, 0, offset)
        head = struct.pack("<6H3I5H2I", 20, 20, self.flags, self.method, 0, 33, *sizes, *rest)
        return b"PK\x01\x02" + head + name + self.central_extra


def stored(name: str, content: bytes = PHOTO) -> Entry:
    return Entry(name=name, data=content, num_bytes=len(content), crc=zlib.crc32(content))


ENDLESS = replace(
    stored("a.jpg"),
    num_bytes=0xFFFF_FFFF,
    central_extra=struct.pack("<HHQ", 1, 8, (1 << 64) - 1),  # the number in zip64
)


def directory_and_end(entries: Iterable[tuple[Entry, int]], start: int, disk: int = 0) -> bytes:
    records = [entry.central(offset) for entry, offset in entries]
    directory = b"".join(records)
    counts = (disk, disk, len(records), len(records), len(directory), start, 0)
    return directory + b"PK\x05\x06" + struct.pack("<4H2IH", *counts)


def forged(*entries: Entry, disk: int = 0) -> bytes:
    body, placed = b"", []
    for entry in entries:
        placed.append((entry, len(body)))
        body += entry.local()
    return body + directory_and_end(placed, len(body), disk)


def zip_of(contents: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


def tar_of(contents: dict[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def listed(content: bytes, name: str = "x.zip") -> pa.Table:
    MEMORY.write(name, content)
    return list_members(MEMORY, [name])


def locations(table: pa.Table) -> list[Location]:
    return [Location(**row) for row in table.select(LOCATION_SCHEMA.names).to_pylist()]


def fetched(store: Store, location: Location) -> bytes | str:
    """The content, or the reason that there is none."""
    raw = store.read_range(location.archive, location.offset, location.end)
    try:
        return member_bytes(raw, location)
    except ImageError as error:
        return REASONS[REASONS.index(error.reason)]


def contents_of(table: pa.Table, store: Store = MEMORY) -> dict[str, bytes | str]:
    """Content, or reason that there is none, of each member, by one range request for each."""
    found = [fetched(store, location) for location in locations(table)]
    return dict(zip(table["name"].to_pylist(), found, strict=True))


def only(content: bytes, name: str = "x.zip") -> bytes | str:
    return fetched(MEMORY, locations(listed(content, name))[0])


class Unseekable(io.RawIOBase):
    """A stream such as standard output: zipfile writes descriptors behind the data."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """All of it."""
        self.content += data
        return len(data)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """A zip as one of many writers makes it."""
    file: Any = draw(st.sampled_from([io.BytesIO, Unseekable]))()
    with zipfile.ZipFile(file, "w") as archive:
        for name in draw(st.lists(NAMES, unique=True, max_size=5)):
            info = zipfile.ZipInfo(name)
            info.compress_type = draw(METHODS)
            extra = draw(st.binary(max_size=40))
            info.extra = struct.pack("<HH", 0xCAFE, len(extra)) + extra
            with archive.open(info, "w", force_zip64=draw(st.booleans())) as member:
                member.write(draw(CONTENTS))
        archive.comment = draw(st.binary(max_size=50).filter(lambda text: b"PK" not in text))
    content = bytes(file.content) if isinstance(file, Unseekable) else file.getvalue()
    return draw(st.binary(max_size=50).filter(lambda text: b"PK" not in text)) + content


@settings(max_examples=150, deadline=None)
@given(content=zips())
def test_a_zip_gives_what_zipfile_reads(content: bytes) -> None:
    """Stored, deflated, with extra fields, descriptors, zip64, comment or junk in front."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        expected = {name: archive.read(name) for name in archive.namelist()}
    table = listed(content)
    assert table.schema == MEMBER_SCHEMA
    assert contents_of(table) == expected
    # Together they are no more than the zip: none reaches into the next.
    assert sum(table["num_stored_bytes"].to_pylist()) <= len(content)


@settings(max_examples=60, deadline=None)
@given(
    contents=st.dictionaries(NAMES, CONTENTS, max_size=5),
    tar_format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_a_tar_gives_what_was_put_in(contents: dict[str, bytes], tar_format: int) -> None:
    """In each of the three formats; nothing but the data is requested."""
    content = tar_of(contents, tar_format)
    table = listed(content, "x.tar")
    assert table.schema == MEMBER_SCHEMA
    assert contents_of(table) == contents
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert table["offset"].to_pylist() == [info.offset_data for info in archive]
    assert table["num_stored_bytes"] == table["num_bytes"]
    assert table["crc32"].null_count == table.num_rows


@pytest.mark.parametrize(
    ("tar_format", "name"),
    [
        (tarfile.USTAR_FORMAT, f"{'a' * 90}/{'b' * 90}.jpg"),
        (tarfile.GNU_FORMAT, f"{'ä' * 300}.jpg"),
        (tarfile.PAX_FORMAT, f"{'ä' * 300}.jpg"),
    ],
)
def test_long_names_in_a_tar_are_whole(tar_format: int, name: str) -> None:
    """A name longer than a header's field is found where its format puts it."""
    assert contents_of(listed(tar_of({name: PHOTO}, tar_format), "x.tar")) == {name: PHOTO}


def test_what_is_no_file_of_a_tar_is_left_out_or_refused() -> None:
    """Folders are left out; links and holes are refused; names in Latin-1 stay different."""
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as archive:
        for name, kind in (
            ("S1", tarfile.DIRTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("soft.jpg", tarfile.SYMTYPE),
            ("holes.jpg", tarfile.GNUTYPE_SPARSE),
            ("device", tarfile.CHRTYPE),
            ("é.jpg", tarfile.REGTYPE),
            ("è.jpg", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "S1/a.jpg"
            archive.addfile(info)
    refused = dict.fromkeys(("hard.jpg", "soft.jpg", "holes.jpg"), "unsupported_format")
    regular = {"\\xe9.jpg": b"", "\\xe8.jpg": b""}
    assert contents_of(listed(file.getvalue(), "x.tar")) == refused | regular


def test_archives_lie_in_a_bucket(make_bucket: Callable[[str], str]) -> None:
    """Zips and tars in S3 are listed and read by ranges; those damaged are one clear error."""
    store = Store(url=make_bucket("archives"))
    store.write("a b/1.zip", zip_of({"1.jpg": PHOTO}, zipfile.ZIP_DEFLATED))
    store.write("2.TAR", tar_of({"2.jpg": PHOTO * 2}))
    store.write("empty.zip", zip_of({}))
    table = list_members(store, ["a b/1.zip", "2.TAR", "empty.zip"])
    assert table["archive"].to_pylist() == ["a b/1.zip", "2.TAR"]
    assert contents_of(table, store) == {"1.jpg": PHOTO, "2.jpg": PHOTO * 2}
    for name in ("short.zip", "short.tar"):
        store.write(name, b"PK\x05\x06")
        with pytest.raises(CatalogError, match=name):
            list_members(store, [name])
    with pytest.raises(CatalogError, match=r"no archive s3://.*/no\.zip"):
        list_members(store, ["no.zip"])


class CountingFile(io.FileIO):
    """A file that counts the bytes read from it."""

    num_read = 0

    def readinto(self, buffer: Any) -> Any:
        """As a file, counted."""
        count = super().readinto(buffer)
        CountingFile.num_read += count or 0
        return count


def test_only_the_end_of_a_large_zip_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a zip of 6 GiB, in zip64, less than 100 kB; a gap between members is not requested."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("first.jpg", PHOTO)
        archive.start_dir += 6 << 30
        archive.writestr("second.jpg", PHOTO[::-1])
    monkeypatch.setattr(
        Store,
        "open_input",
        lambda *_: io.BufferedReader(CountingFile(tmp_path / "x.zip", "r")),
    )
    store = Store(url=str(tmp_path))
    table = list_members(store, ["x.zip"])
    assert 0 < CountingFile.num_read < 100_000
    assert table["offset"].to_pylist()[1] > 6 << 30
    assert max(table["num_stored_bytes"].to_pylist()) < 200_000
    assert contents_of(table, store) == {"first.jpg": PHOTO, "second.jpg": PHOTO[::-1]}


def test_parts_are_one_set_in_their_order() -> None:
    """Several whole zips and a tar are listed one after the other, each with its name."""
    MEMORY.write("1.zip", zip_of({"b.jpg": b"b", "a.jpg": b"a"}))
    MEMORY.write("2.zip", zip_of({"S1/": b"", "S1/c.jpg": b"c"}, zipfile.ZIP_DEFLATED))
    MEMORY.write("3.tar", tar_of({"./d.jpg": b"d"}))
    table = list_members(MEMORY, ["1.zip", "2.zip", "3.tar"])
    assert table["archive"].to_pylist() == ["1.zip", "1.zip", "2.zip", "3.tar"]
    assert table["method"].to_pylist() == ["stored", "stored", "deflated", "tar"]
    expected = {"b.jpg": b"b", "a.jpg": b"a", "S1/c.jpg": b"c", "d.jpg": b"d"}
    assert contents_of(table) == expected
    assert list(contents_of(table)) == list(expected)


def test_names_are_as_label_files_have_them() -> None:
    """Backslashes and a leading ./ are mended, what systems leave behind is left out."""
    names = ("./S1/a.jpg", "S1\\b.jpg", "../c.jpg", "S1/\\", "__MACOSX/S1/._a.jpg", "S1/._a.jpg")
    table = listed(forged(*map(stored, (*names, "S1/.DS_Store", "S1/Thumbs.db", ""))))
    assert table["name"].to_pylist() == ["S1/a.jpg", "S1/b.jpg", "../c.jpg"]
    old = forged(stored("S1/e.jpg")).replace(b"S1/e.jpg", b"S1/\x82.jpg")
    assert contents_of(listed(old)) == {"S1/é.jpg": PHOTO}  # code page 437 of DOS


def test_the_same_photograph_twice_is_taken_once() -> None:
    """In the first archive that has it, whatever is the same in the second."""
    MEMORY.write("1.zip", zip_of({"a.jpg": b"a", "readme.txt": b"part 1"}))
    MEMORY.write("2.zip", zip_of({"readme.txt": b"part 2", "a.jpg": b"a", "b.jpg": b"b"}))
    table = list_members(MEMORY, ["1.zip", "2.zip"])
    assert table["name"].to_pylist() == ["a.jpg", "readme.txt", "b.jpg"]
    assert table["archive"].to_pylist() == ["1.zip", "1.zip", "2.zip"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("1.zip", forged(stored("a.jpg", b"x"))), ("2.zip", forged(stored("a.jpg", b"y")))),
        (("1.zip", forged(stored("a.jpg"), stored("a.jpg", b"y"))), ("2.zip", forged())),
        (
            ("1.zip", forged(replace(stored("a.jpg", b"x"), crc=7))),
            ("2.zip", forged(replace(stored("a.jpg", b"xy"), crc=7))),
        ),
        (("1.tar", tar_of({"a.jpg": b"x"})), ("2.tar", tar_of({"a.jpg": b"x"}))),
    ],
)
def test_two_photographs_of_one_name_are_refused(
    first: tuple[str, bytes], second: tuple[str, bytes]
) -> None:
    """Different by CRC or size, in two archives or one, or not known to be the same."""
    for name, content in (first, second):
        MEMORY.write(name, content)
    with pytest.raises(CatalogError, match=r"a\.jpg is in 1\.(zip|tar) and again in [12]"):
        list_members(MEMORY, [first[0], second[0]])


@pytest.mark.parametrize("name", ["x.tar.gz", "S1/X.TGZ", "x.tar.xz", "x.tar.zst", "x.7z"])
def test_what_cannot_be_read_by_parts_is_refused(name: str) -> None:
    """A tar compressed as a whole is a ConfigError that says what to do."""
    with pytest.raises(ConfigError, match=r"unpack or recompress as plain tar or zip$"):
        check_archive_name(name)
    with pytest.raises(ConfigError):
        list_members(MEMORY, [name])


def test_archives_are_told_by_their_names() -> None:
    """Zip and tar in any case; a piece of a split zip is refused with the way to join it."""
    for name in ("a.zip", "b/c.TAR"):
        check_archive_name(name)
    check_archive_name("images")
    for name in ("x.z01", "x.zip.001"):
        with pytest.raises(ConfigError, match="join the pieces"):
            check_archive_name(name)


def assert_catalog_error(content: bytes, name: str = "x.zip", match: str = r"^x\.") -> None:
    with pytest.raises(CatalogError, match=match) as caught:
        listed(content, name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_cut_anywhere_is_one_clear_error(method: int) -> None:
    """Whatever number of bytes is missing at its end, and that in zip64 too."""
    names = {f"S1/{n}.jpg": b"zebra" * 5 for n in range(3)}
    for content in (zip_of(names, method), zip64_of(names)):
        assert listed(content).num_rows == 3
        for num_bytes in range(len(content)):
            assert_catalog_error(content[:num_bytes], match="download it again$")


def zip64_of(contents: dict[str, bytes]) -> bytes:
    """A zip with the end records of zip64, as a large one has."""
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    assert b"PK\x06\x06" in file.getvalue()
    return file.getvalue()


def test_a_zip_with_a_hole_is_one_clear_error() -> None:
    """Bytes missing before, in or across its directory are noticed, the end record whole."""
    content = zip_of({f"S1/{n}.jpg": b"zebra" * 5 for n in range(3)})
    directory = content.index(b"PK\x01\x02")
    for start in range(len(content) - 23):
        for num_bytes in (1, 7, 46, 54):
            if start + num_bytes <= len(content) - 22:
                assert_catalog_error(content[:start] + content[start + num_bytes :])
    assert_catalog_error(content[directory:])


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_bytes_changed_anywhere_are_never_another_error(data: st.DataObject) -> None:
    """A zip or tar with wrong bytes is a CatalogError, or members with content or a reason."""
    contents = {"S1/a.jpg": b"zebra" * 9, "S1/ü.jpg": b"gnu" * 9}
    name, content = data.draw(
        st.sampled_from(
            [
                ("x.zip", zip_of(contents)),
                ("x.zip", zip_of(contents, zipfile.ZIP_DEFLATED)),
                ("x.zip", zip64_of(contents)),
                ("x.tar", tar_of(contents, tarfile.GNU_FORMAT)[:4096]),
                ("x.tar", tar_of({"é" * 120: b"zebra"})[:4096]),
            ]
        )
    )
    changed = bytearray(content)
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    if name == "x.tar":  # its checksum set right, or tarfile would look no further
        head = bytes(changed[:148]) + b" " * 8 + bytes(changed[156:512])
        changed[148:156] = b"%06o\0 " % sum(head)
    try:
        table = listed(bytes(changed), name)
    except CatalogError:
        return
    contents_of(table)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no zip"),
        (b"<html>404</html>", "no zip"),
        (PHOTO * 30, "no zip"),
        (b"PK\x07\x08" + forged(stored("a.jpg"))[:-22], "join"),
        (forged(replace(stored("a.jpg"), disk=1), disk=2), "join"),
        (forged(stored("a.jpg")).replace(b"\1\0\1\0", b"\2\0\2\0"), "2 members declared, 1 found"),
        (directory_and_end([(stored("a.jpg"), 5)], 0), r"a\.jpg is said to begin at 5"),
        (b"PK\x05\x06" + bytes(13), "no zip"),
        (forged(ENDLESS), r"2\^63 bytes"),
    ],
)
def test_what_is_no_whole_zip_says_so(content: bytes, match: str) -> None:
    """No zip at all, a piece of a split one, a directory at odds with itself."""
    assert_catalog_error(content, match=match)


def test_a_zip64_without_its_end_record_is_one_clear_error(tmp_path: Path) -> None:
    """In a local file, where seeking before the start is an OSError, as an outage is."""
    end = directory_and_end([(stored("a.jpg"), 0)], 0)[-22:]
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 0, 1)
    (tmp_path / "x.zip").write_bytes(locator + end)
    with pytest.raises(CatalogError, match=r"x\.zip"):
        list_members(Store(url=str(tmp_path)), ["x.zip"])


def test_a_tar_cut_anywhere_is_one_clear_error() -> None:
    """Also between two members, and where zeros stand for what never came."""
    content = tar_of({"a.jpg": PHOTO, "b.jpg": PHOTO})
    end = 2 * (512 + 5120)
    for num_bytes in [*range(0, end + 512, 100), 512 + 5120, end]:
        assert_catalog_error(content[:num_bytes], "x.tar", "download it again$")
    assert listed(content[: end + 512], "x.tar").num_rows == 2
    assert_catalog_error(content[:5632] + bytes(2 * MIB), "x.tar", "after its end")
    second = bytearray(content)
    second[5632] ^= 1
    assert_catalog_error(bytes(second), "x.tar", "byte 5632")


def test_a_tar_that_is_none_or_leads_back_is_one_clear_error() -> None:
    """A compressed tar under a tar's name, and a member of negative size."""
    assert_catalog_error(zlib.compress(tar_of({})), "x.tar")
    info = tarfile.TarInfo("a.jpg")
    second = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    second[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024, in base 256
    second[148:156] = b" " * 8
    second[148:156] = b"%06o\0 " % sum(second)
    assert_catalog_error(tar_of({"b.jpg": b"b"})[:1024] + bytes(second), "x.tar", "back")


class FailingFile(io.BytesIO):
    """A file of a store that fails after some reads."""

    num_left = 0

    def read(self, size: int | None = -1) -> bytes:
        """As a file, until the store fails."""
        if self.num_left == 0:
            raise ConnectionResetError("reset")
        self.num_left -= 1
        return super().read(size)


@pytest.mark.parametrize("num_reads", range(4))
def test_an_outage_is_no_damage(num_reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the store fails, its own error comes, and nobody downloads a good zip again."""
    content = zip64_of({"a.jpg": b"", "b.jpg": b""})

    def open_failing(*_: object) -> BinaryIO:
        file = FailingFile(content)
        file.num_left = num_reads
        return file

    monkeypatch.setattr(Store, "open_input", open_failing)
    with pytest.raises(ConnectionResetError):
        list_members(MEMORY, ["x.zip"])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (replace(stored("a.jpg"), flags=1), "unsupported_format"),
        (replace(stored("a.jpg"), method=99, flags=1), "unsupported_format"),
        (replace(stored("a.jpg"), method=12), "unsupported_format"),
        (replace(stored("a.jpg"), num_bytes=1 << 30), "too_large"),
        (replace(stored("a.jpg"), local_signature=b"JUNK"), "corrupt"),
        (replace(stored("a.jpg"), local_extra=b"x" * 99), PHOTO),
        (replace(stored("a.jpg"), num_bytes=len(PHOTO) - 1), "checksum"),
        (replace(stored("a.jpg"), num_bytes=len(PHOTO) + 1), "checksum"),
        (replace(stored("a.jpg"), crc=1), "checksum"),
        (replace(stored("a.jpg"), method=8), "corrupt"),
        (replace(stored("a.jpg"), method=8, data=b""), "corrupt"),
    ],
)
def test_a_member_that_cannot_be_used_has_a_reason(entry: Entry, reason: bytes | str) -> None:
    """Encrypted, of another method, too large, damaged, or not as declared; its neighbour is."""
    table = listed(forged(entry, stored("b.jpg")))
    assert contents_of(table) == {"a.jpg": reason, "b.jpg": PHOTO}


def test_methods_are_named() -> None:
    """What cannot be read is told apart in the table and in the message."""
    bzip2 = replace(stored("b.jpg"), method=zipfile.ZIP_BZIP2)
    table = listed(forged(replace(stored("a.jpg"), flags=1), bzip2))
    assert table["method"].to_pylist() == ["encrypted", "method 12"]
    with pytest.raises(ImageError, match=r"x\.zip is method 12"):
        check_member(locations(table)[1])


def test_a_flipped_byte_is_a_wrong_checksum() -> None:
    """The message says what was declared and what was found."""
    content = bytearray(forged(stored("a.jpg", b"zebra")))
    content[content.index(b"zebra")] ^= 1
    (location,) = locations(listed(bytes(content)))
    declared, found = zlib.crc32(b"zebra"), zlib.crc32(b"{ebra")
    with pytest.raises(ImageError, match=f"declared CRC {declared:08x}, found {found:08x}"):
        member_bytes(bytes(content)[location.offset : location.end], location)


def deflated(content: bytes, level: int = 9) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush()


@pytest.mark.parametrize("num_bytes", [0, 1, 4999, 5000, 5001])
def test_a_deflated_member_has_exactly_the_declared_size(num_bytes: int) -> None:
    """One byte more or less than declared is refused, with both sizes where known."""
    content = b"zebra" * 1000
    entry = replace(stored("a.jpg", content), data=deflated(content), method=8)
    found = only(forged(replace(entry, num_bytes=num_bytes)))
    assert found == (content if num_bytes == 5000 else "checksum")
    assert only(forged(replace(entry, data=entry.data[:-1], num_bytes=num_bytes))) != content


def zeros_deflated(num_mib: int) -> bytes:
    """So many MiB of zeros, compressed: each part stands for itself after a full flush."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    part = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    return part * num_mib + stream.flush()


@pytest.mark.parametrize(
    ("num_bytes", "max_num_bytes", "reason"),
    [(1000, MIB, "checksum"), (1 << 30, MIB, "too_large"), (MIB, MIB, "checksum")],
)
def test_a_bomb_does_not_go_off(num_bytes: int, max_num_bytes: int, reason: str) -> None:
    """1 GiB of zeros takes no more memory than it declares, or than the limit allows."""
    bomb = Entry(name="a.jpg", data=zeros_deflated(1024), num_bytes=num_bytes, crc=0, method=8)
    content = forged(bomb)
    (location,) = locations(listed(content))
    raw = memoryview(content)[location.offset : location.end]
    tracemalloc.start()
    with pytest.raises(ImageError) as caught:
        member_bytes(raw, location, max_num_bytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == reason
    assert peak < len(raw) + 3 * MIB


def test_a_large_range_is_not_requested_for_a_small_member() -> None:
    """Where much is stored but little declared, it is refused before any request."""
    content = forged(Entry(name="a.jpg", data=bytes(2 * MIB), num_bytes=9, crc=0, method=8))
    with pytest.raises(ImageError, match="too_large"):
        check_member(locations(listed(content))[0], max_num_bytes=MIB)


def test_a_short_range_is_refused() -> None:
    """An archive that became shorter since it was listed is no good photograph, zip or tar."""
    for name, content in (("x.zip", forged(stored("a.jpg"))), ("x.tar", tar_of({"a.jpg": PHOTO}))):
        (location,) = locations(listed(content, name))
        raw = content[location.offset : location.end]
        assert member_bytes(memoryview(raw + b"more"), location) == PHOTO
        for num_bytes in (0, 3, 29, 40, len(raw) - 1):
            with pytest.raises(ImageError, match="checksum"):
                member_bytes(raw[:num_bytes], location)


def test_many_members_on_one_header_are_read_each() -> None:
    """20,000 entries that share one member's bytes have sizes as if each were alone."""
    body = stored("a.jpg").local()
    entries = [(stored(f"{n:05d}.jpg"), 0) for n in range(20_000)]
    table = listed(body + directory_and_end(entries, len(body)))
    assert table.num_rows == 20_000
    assert set(table["num_stored_bytes"].to_pylist()) == {len(body)}
    assert set(contents_of(table.slice(19_990)).values()) == {PHOTO}


def test_the_order_of_the_directory_does_not_matter() -> None:
    """Members listed from last to first have the ranges that they have the other way round."""
    entries = [stored("a.jpg", b"a"), stored("b.jpg", b"b" * 99), stored("c.jpg", b"c")]
    sizes = [len(entry.local()) for entry in entries]
    placed = list(zip(entries, (0, sizes[0], sizes[0] + sizes[1]), strict=True))
    body = b"".join(entry.local() for entry in entries)
    table = listed(body + directory_and_end(reversed(placed), len(body)))
    assert table["num_stored_bytes"].to_pylist() == sizes[::-1]
    assert contents_of(table) == {"c.jpg": b"c", "b.jpg": b"b" * 99, "a.jpg": b"a"}


def test_a_header_that_the_directory_cuts_off_is_corrupt() -> None:
    """A member said to begin a few bytes before the central directory has no whole header."""
    body = b"PK\x03\x04" + bytes(6)
    assert only(body + directory_and_end([(stored("a.jpg"), 0)], len(body))) == "corrupt"


def test_members_inside_each_other_are_read_as_declared() -> None:
    """A member whose data holds the next one's header gets its range from its own size."""
    inner = stored("b.jpg")
    outer = stored("a.jpg", b"before" + inner.local() + b"after")
    body = outer.local()
    placed = [(outer, 0), (inner, body.index(inner.local()))]
    table = listed(body + directory_and_end(placed, len(body)))
    assert contents_of(table) == {"a.jpg": outer.data, "b.jpg": PHOTO}


def test_names_find_their_members() -> None:
    """In the order asked for, repeated ones too; a name that is nowhere has nulls."""
    members = listed(zip_of({f"S1/{n}.jpg": PHOTO[n:] for n in range(5)}))
    found = match_members(members, ["S1/3.jpg", "S1/nothing.jpg", "S1/0.jpg", "S1/3.jpg"])
    assert found.schema == LOCATION_SCHEMA
    sizes = [len(PHOTO) - 3, None, len(PHOTO), len(PHOTO) - 3]
    assert found["num_bytes"].to_pylist() == sizes
    assert [column.null_count for column in found.columns] == [1] * len(found.columns)
    assert match_members(members, []).num_rows == 0
    assert match_members(members.slice(0, 0), ["a"])["archive"].to_pylist() == [None]


def test_a_folder_on_top_is_found() -> None:
    """Names without the archive's folder are matched below the one where most of them are."""
    inside = {f"Season 1/S1/{n}.jpg": bytes([n]) for n in range(30)}
    members = listed(zip_of(inside | {"other/S1/99.jpg": b"", "other/S1/1.jpg": b"x"}))
    wanted = pa.chunked_array([["S1/99.jpg", "S1/29.jpg"], ["no.jpg", "S1/1.jpg", "S1/4.jpg"]])
    found = match_members(members, wanted)
    rows = [row if row["archive"] else None for row in found.to_pylist()]
    contents = [row and fetched(MEMORY, Location(**row)) for row in rows]
    assert contents == [None, b"\x1d", None, b"\x01", b"\x04"]


def test_a_part_of_a_name_is_no_match() -> None:
    """Folders are matched whole, not where two would do, and never beside exact names."""
    members = listed(zip_of({"xS1/1.jpg": b"", "top/S1/2.jpg": b"", "S1/3.jpg": b""}))
    assert match_members(members, ["S1/1.jpg"])["archive"].to_pylist() == [None]
    found = match_members(members, ["S1/2.jpg", "S1/3.jpg"])
    assert found["archive"].to_pylist() == [None, "x.zip"]
    assert match_members(members, ["S1/2.jpg"])["archive"].to_pylist() == ["x.zip"]
    assert match_members(members, ["2.jpg"])["archive"].to_pylist() == ["x.zip"]
    twice = listed(zip_of({"S1/1.jpg": b"", "S2/1.jpg": b""}))
    assert match_members(twice, ["1.jpg"])["archive"].to_pylist() == [None]
