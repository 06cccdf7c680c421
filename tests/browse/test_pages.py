"""The pages over HTTP: what they answer, what they refuse, and what they read."""

import hashlib
import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from serengeti_etl.browse.images import read_images
from serengeti_etl.browse.pages import PAGE_SIZE, Pages, open_pages
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store
from serengeti_etl.web.server import WebServer
from tests.browse.rows import HOSTILE, drawn_rows, hostile_rows
from tests.conftest import files_below
from tests.dataset_factory import dataset_of_rows
from tests.fault_server import BUCKET, SLOW_DOWN, FaultServer, fault_server
from tests.fault_server import Request as Asked

ROWS = drawn_rows(60)
SECRET = b"a secret beside the dataset"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a dataset, with a secret beside it."""
    outer = tmp_path_factory.mktemp("outer")
    (outer / "secret.txt").write_bytes(SECRET)
    dataset_of_rows(str(outer / "dataset"), ROWS)
    return outer / "dataset"


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    """Of ``ROWS``."""
    return open_dataset(str(folder))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[WebServer]:
    """Shows it."""
    with WebServer(open_pages(str(folder)).routes()) as running:
        yield running


class Got:
    """An answer."""

    def __init__(self, server: WebServer, path: str, headers: Mapping[str, str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        self.status, self.headers, self.body = response.status, response.headers, response.read()
        self.text = self.body.decode(errors="replace")
        connection.close()

    def links(self, start: str) -> list[str]:
        """Addresses on the page that begin so."""
        found = re.findall(rf'(?:href|src)="({re.escape(start)}[^"]*)"', self.text)
        return [unescape(one) for one in found]


def get(server: WebServer, path: str, **headers: str) -> Got:
    return Got(server, path, {name.replace("_", "-"): value for name, value in headers.items()})


def tar_bytes(dataset: Dataset, image_id: str) -> bytes:
    """The photograph, cut out of its shard by hand."""
    (row,) = [row for row in dataset.index().to_pylist() if row["image_id"] == image_id]
    shard = dataset.store.read(f"{row['split']}/{row['shard']}.tar")
    return shard[row["offset"] : row["offset"] + row["num_bytes"]]


def sample_path(image_id: str, **query: str) -> str:
    return f"/sample?{urlencode({**query, 'id': image_id})}"


def test_all_images_are_on_the_pages_once(server: WebServer) -> None:
    """Page after page, every image is linked once, in the order of site and time."""
    found: list[str] = []
    path = "/"
    while path:
        page = get(server, path)
        assert page.status == 200
        tiles = page.links("/sample?")
        assert len(tiles) <= PAGE_SIZE
        found += [one.split("id=")[1] for one in tiles]
        path = next(iter(re.findall(r'href="([^"]*)" title="next page"', page.text)), "")
        path = unescape(path)
    assert sorted(found) == sorted(quote(row["image_id"], safe="") for row in ROWS)
    assert f"<b>{len(ROWS)}</b> images" in get(server, "/").text


def test_a_filter_shows_its_images_only(server: WebServer) -> None:
    """The tiles, their number and the counts are those of the filter."""
    wanted = [row for row in ROWS if row["site"] == "B3" and "zebra" in row["labels"]]
    assert wanted
    page = get(server, "/?site=B3&category=zebra")
    assert f"<b>{len(wanted)}</b> image" in page.text
    ids = {one.split("id=")[1] for one in page.links("/sample?")}
    assert ids == {quote(row["image_id"], safe="") for row in wanted}
    assert all("site=B3" in one and "category=zebra" in one for one in page.links("/sample?"))


@pytest.mark.parametrize("page", ["0", "-1", "x", "1e9", "9" * 30, "१"])
def test_a_page_is_a_number(server: WebServer, page: str) -> None:
    """What is no number of a page is refused; a number beyond the last gives the last."""
    status = get(server, f"/?page={quote(page)}").status
    assert status == (200 if page == "0" else 400)
    assert get(server, "/?page=999").links("/sample?")


def test_a_picture_is_what_lies_in_the_shard(server: WebServer, dataset: Dataset) -> None:
    """The whole photograph byte for byte, kept for ever by who asks with its version."""
    page = get(server, sample_path(ROWS[5]["image_id"]))
    frames = [row for row in ROWS if row["seq_id"] == ROWS[5]["seq_id"]]
    links = list(dict.fromkeys(page.links("/picture/")))
    assert len(links) == len(frames)
    for row, one in zip(frames, links, strict=True):
        picture = get(server, one)
        assert picture.headers["Content-Type"] == "image/jpeg"
        assert picture.body == tar_bytes(dataset, row["image_id"])
    link = links[0]
    picture = get(server, link)
    assert "immutable" in picture.headers["Cache-Control"]
    again = get(server, link, If_None_Match=picture.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    bare = get(server, link.partition("?")[0])
    assert bare.body == picture.body
    assert bare.headers["Cache-Control"] == "private, no-cache"


def test_a_tile_is_small(tmp_path: Path) -> None:
    """A large photograph is shrunk for its tile, a small one sent as it is."""
    pixels = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    large = simplejpeg.encode_jpeg(pixels, quality=90)
    dataset = dataset_of_rows(str(tmp_path), ROWS[:1])
    (tar,) = tmp_path.glob("*/*.tar")
    content = tar.read_bytes()
    small = tar_bytes(dataset, ROWS[0]["image_id"])
    with WebServer(open_pages(str(tmp_path)).routes()) as server:
        assert get(server, "/tile/0").body == small
    place_in_shard(tmp_path, content + large, len(content), len(large))
    with WebServer(open_pages(str(tmp_path)).routes()) as server:
        tile, whole = get(server, "/tile/0"), get(server, "/picture/0")
    assert whole.body == large
    assert simplejpeg.decode_jpeg_header(tile.body)[:2] == (300, 400)


def place_in_shard(folder: Path, content: bytes, offset: int, num_bytes: int) -> None:
    """Give the only shard other content, and say in the index that its image lies there."""
    (tar,) = folder.glob("*/*.tar")
    tar.write_bytes(content)
    described = json.loads((folder / "dataset.json").read_text())
    described["shards"][0]["num_bytes"] = len(content)
    (folder / "dataset.json").write_text(json.dumps(described))
    table = pq.read_table(folder / "index.parquet", use_threads=False)
    for name, value in (("offset", offset), ("num_bytes", num_bytes)):
        column = pa.array([value], pa.int64())
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    pq.write_table(table, folder / "index.parquet")


def test_a_sample_says_where_it_comes_from(server: WebServer, dataset: Dataset) -> None:
    """Its provenance has the index's checksum and source, and its JSON as the shard has it."""
    one = ROWS[7]
    page = get(server, sample_path(one["image_id"]))
    assert page.status == 200
    for word in ("image_id", "seq_id", "site", "season", "shard"):
        assert one[word] in unescape(page.text)
    (path,) = re.findall(r'data-from="([^"]*)"', page.text)
    found = json.loads(get(server, path).body)
    assert found["problem"] == ""
    assert json.loads(found["said"])["image_id"] == one["image_id"]
    digest = hashlib.sha256(tar_bytes(dataset, one["image_id"])).hexdigest()
    assert found["facts"]["sha256"] == digest


def test_previous_and_next_walk_through_the_filter(server: WebServer) -> None:
    """From the first image of a filter, next leads through all of them once, and back."""
    first = get(server, "/?site=B3").links("/sample?")
    seen = [first[0]]
    while following := re.findall(r'href="([^"]*)" rel="next"', get(server, seen[-1]).text):
        seen.append(unescape(following[0]))
    assert seen == first
    (back,) = re.findall(r'href="([^"]*)" rel="prev"', get(server, seen[-1]).text)
    assert unescape(back) == seen[-2]
    outside = next(row for row in ROWS if row["site"] != "B3")
    page = get(server, sample_path(outside["image_id"], site="B3"))
    assert "not in the filter" in page.text
    assert 'rel="next"' not in page.text


def test_styles_and_scripts_are_asked_for_once(server: WebServer) -> None:
    """What a page links to is there, of its kind, and not sent again while it is the same."""
    kinds = {"browse.css": "text/css", "browse.js": "text/javascript", "icon.svg": "image/svg+xml"}
    links = get(server, "/").links("/static/")
    assert {one.removeprefix("/static/") for one in links} == {*kinds}
    for link in links:
        found = get(server, link)
        assert found.headers["Content-Type"].startswith(kinds[link.removeprefix("/static/")])
        again = get(server, link, If_None_Match=found.headers["ETag"])
        assert (again.status, again.body) == (304, b"")


TRAVERSALS = (
    "/../secret.txt",
    "/static/../../secret.txt",
    "/static/%2e%2e/%2e%2e/secret.txt",
    "/static/..%2f..%2fsecret.txt",
    "/static/%252e%252e%252fsecret.txt",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/browse.css%00.txt",
    "/static/..\\..\\secret.txt",
    "/tile/../../secret.txt",
    "/tile/-1",
    "/tile/1e3",
    "/tile/99999999",
    "/tile/9999999999999999999999",
    "/tile/0x1",
    "/tile/%31%2f..",
    "/tile/\u0661",
    "/picture/../dataset.json",
    "/picture/0/../../secret.txt",
    "/provenance/dataset.json",
    "/provenance/999999",
    "/sample?id=../secret.txt",
    "/sample?id=..%2F..%2Fsecret.txt",
    "/sample?id=/etc/passwd",
    "/sample?id=train/train-000000.tar",
    "/sample?id=%00",
    "/sample?id=",
    "/sample",
    "/dataset.json",
    "/train/train-000000.tar",
    "//secret.txt",
    "/./../secret.txt",
    "file:///etc/passwd",
    "http://localhost/../secret.txt",
)


@pytest.mark.parametrize("path", TRAVERSALS)
def test_nothing_outside_the_dataset_is_shown(server: WebServer, path: str) -> None:
    """Paths and keys that lead elsewhere are refused, sent as they are over a bare socket."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        line = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(line.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert int(answer.split(b" ")[1]) in (400, 404)
    for secret in (SECRET, b"root:", b"image/jpeg", b"ustar"):
        assert secret not in answer


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Names of sites, categories and keys come out escaped, and their links lead to them."""
    dataset_of_rows(str(tmp_path), hostile_rows())
    with WebServer(open_pages(str(tmp_path)).routes()) as server:
        page = get(server, "/")
        for name in HOSTILE:
            assert name in unescape(page.text)
        for harm in ("<script>alert", "<img src=x", "1337"):
            assert harm not in page.text
        for link in page.links("/sample?"):
            sample = get(server, link)
            assert sample.status == 200
            assert "<script>alert" not in sample.text
            assert len(set(sample.links("/picture/"))) == 2
        filters = page.links("/?category=")
        assert len(filters) == len(HOSTILE)
        for link in filters:
            assert "<b>2</b> images" in get(server, link).text


def test_a_damaged_shard_is_said_in_the_tile(tmp_path: Path) -> None:
    """The picture of a missing or damaged shard says so; pages and other pictures are shown."""
    dataset_of_rows(str(tmp_path), ROWS)
    tars = sorted(tmp_path.glob("train/*.tar"))
    tars[0].unlink()
    tars[1].write_bytes(tars[1].read_bytes()[: 1024 * 3])
    tars[2].write_bytes(b"\0" * tars[2].stat().st_size)
    index = open_dataset(str(tmp_path)).index(columns=["shard", "image_id"]).to_pylist()
    row_of = {row["shard"]: at for at, row in enumerate(index)}  # the last of each
    with WebServer(open_pages(str(tmp_path)).routes()) as server:
        assert get(server, "/").status == 200
        for tar, text in zip(tars, ("not there", "no JPEG of", "no JPEG of"), strict=True):
            row = row_of[tar.stem]
            for kind in ("tile", "picture"):
                picture = get(server, f"/{kind}/{row}")
                assert picture.status == 502
                assert picture.headers["Content-Type"] == "image/svg+xml"
                assert picture.headers["Cache-Control"] == "no-store"
                said = unescape(re.sub("<[^>]*>", " ", picture.text))
                assert f"{tar.stem}.tar is damaged" in " ".join(said.split())
                assert text in " ".join(said.split())
            assert get(server, sample_path(index[row]["image_id"])).status == 200
            assert json.loads(get(server, f"/provenance/{row}").body)["problem"]
        assert get(server, f"/tile/{row_of['val-000000']}").status == 200


def test_a_flipped_byte_is_said_beside_the_sample(tmp_path: Path) -> None:
    """A photograph that shows but is not the one which was written is told by its checksum."""
    dataset = dataset_of_rows(str(tmp_path), ROWS[:3])
    row = dataset.index().to_pylist()[1]
    tar = tmp_path / row["split"] / f"{row['shard']}.tar"
    content = bytearray(tar.read_bytes())
    content[row["offset"] + row["num_bytes"] - 20] ^= 1
    tar.write_bytes(content)
    with WebServer(open_pages(str(tmp_path)).routes()) as server:
        found = json.loads(get(server, "/provenance/1").body)
        assert "do not have this checksum" in found["problem"]
        assert json.loads(get(server, "/provenance/0").body)["problem"] == ""


def test_an_index_that_points_outside_a_shard_reads_nothing(tmp_path: Path) -> None:
    """Offsets and sizes beyond the shard are said, not read."""
    dataset_of_rows(str(tmp_path), ROWS[:1])
    (tar,) = tmp_path.glob("*/*.tar")
    content = tar.read_bytes()
    for offset, num_bytes in ((-512, 100), (len(content) - 10, 100), (512, 0), (512, 2**40)):
        place_in_shard(tmp_path, content, offset, num_bytes)
        with WebServer(open_pages(str(tmp_path)).routes()) as server:
            assert get(server, "/tile/0").status == 502
            assert json.loads(get(server, "/provenance/0").body)["problem"]


def test_a_dataset_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    """Without dataset.json there is one sentence: convert again."""
    dataset_of_rows(str(tmp_path), ROWS[:3])
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DatasetError, match=r"conversion has not finished; run `serengeti-etl conv"):
        open_pages(str(tmp_path))


def test_a_bucket_shows_what_a_folder_shows(folder: Path, make_bucket: Any) -> None:
    """Pages, tiles and provenance from a real S3 server equal those from the folder."""
    url = f"{make_bucket('browse')}/set"
    bucket = Store(url=url)
    for name, content in files_below(folder).items():
        bucket.write(name, content)
    with (
        WebServer(open_pages(str(folder)).routes()) as ours,
        WebServer(open_pages(url).routes()) as theirs,
    ):
        for path in ("/?category=zebra", "/tile/3", "/picture/3", "/provenance/3"):
            here, there = get(ours, path), get(theirs, path)
            assert there.status == 200
            assert there.body.replace(url.encode(), str(folder).encode()) == here.body


def test_a_store_that_is_away_is_said_until_it_is_back(folder: Path) -> None:
    """Tiles say that the store refuses, the page is shown all the same; later they are shown."""
    with fault_server(files_below(folder)) as store, of_bucket(store) as server:
        store.choose = lambda request: SLOW_DOWN if request.key.endswith(".tar") else None
        tile = get(server, "/tile/0")
        assert (tile.status, tile.headers["Content-Type"]) == (503, "image/svg+xml")
        assert tile.headers["Cache-Control"] == "no-store"
        assert get(server, "/").status == 200
        assert get(server, sample_path(ROWS[0]["image_id"])).status == 200
        assert json.loads(get(server, "/provenance/0").body)["problem"]
        store.choose = lambda _: None
        assert get(server, "/tile/0").headers["Content-Type"] == "image/jpeg"


def test_only_ranges_of_shards_are_read(folder: Path) -> None:
    """A page of a bucket costs one range request of a shard for each tile, and no whole shard."""
    with fault_server(files_below(folder)) as store, of_bucket(store) as server:
        begun = len(store.requests)
        assert not [one for one in store.requests if one.key.endswith(".tar")]
        page = get(server, "/?site=B3")
        assert len(store.requests) == begun
        tiles = page.links("/tile/")
        sizes = [len(get(server, one).body) for one in tiles]
        asked = store.requests[begun:]
        assert len(asked) == len(tiles)
        assert all(one.key.endswith(".tar") for one in asked)
        assert sorted(num_asked(one) for one in asked) == sorted(sizes)


def num_asked(request: Asked) -> int:
    """Bytes of the range that a request asks for."""
    first, last = (request.byte_range or "").removeprefix("bytes=").split("-")
    return int(last) - int(first) + 1


def of_bucket(store: FaultServer) -> WebServer:
    """Shows the dataset of a store that counts."""
    options = {"endpoint_url": store.url, "key": "k", "secret": "s"}
    dataset = open_dataset(f"s3://{BUCKET}", **options)
    return WebServer(Pages(dataset, read_images(dataset)).routes())
