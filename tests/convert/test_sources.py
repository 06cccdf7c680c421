"""Photographs from real stores of every kind, by loopback: the bytes of a folder."""

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
import s3fs
from obstore.store import S3Store

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.storage import Store
from tests.conftest import files_below, season_pipeline
from tests.servers import (
    S3_CREDENTIALS,
    ServerUnavailable,
    azure_server,
    gcs_server,
    http_server,
    open_server,
    s3_server,
)

ODD_NAMES = [
    "sub dir/IMG (1).jpg",
    "a#b.jpg",
    "a%b.jpg",
    "a%20b.jpg",
    "a+b&c;d,e.jpg",
    "a?b=c.jpg",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    "写真/サバンナ 1.jpg",
]


@pytest.fixture(scope="module")
def odd_season(season: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn season, with some photographs named as people name them."""
    folder = tmp_path_factory.mktemp("odd") / "season"
    shutil.copytree(season, folder)
    labels = json.loads((folder / "labels.json").read_text())
    whole = [one for one in labels["images"] if (folder / "images" / one["file_name"]).is_file()]
    for image, name in zip(whole, ODD_NAMES, strict=False):
        (folder / "images" / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / "images" / image["file_name"]).rename(folder / "images" / name)
        image["file_name"] = name
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


@contextmanager
def on_azure(season: Path, scratch: Path) -> Iterator[SeasonPipeline]:
    """The season in a container of Azurite."""
    with azure_server(scratch) as server:
        server.make_container("season")
        options = {
            "connection_string": "DefaultEndpointsProtocol=http;"
            f"AccountName={server.account_name};AccountKey={server.account_key};"
            f"BlobEndpoint={server.endpoint};"
        }
        store = Store(url="az://season/s 1", options=options)
        for path in (path for path in season.rglob("*") if path.is_file()):
            store.upload(path, str(path.relative_to(season)))
        yield replace(season_pipeline(store.url), storage_options=options)


@contextmanager
def on_open_s3(season: Path, scratch: Path) -> Iterator[SeasonPipeline]:
    """The season in a bucket of SeaweedFS, which anyone may read."""
    with open_server(scratch) as endpoint:
        request = urllib.request.Request(f"{endpoint}/season", b"", method="PUT")  # noqa: S310 - loopback
        urllib.request.urlopen(request).close()  # noqa: S310 - loopback
        options = {"endpoint_url": endpoint, "anon": True}
        store = Store(url="s3://season/s 1", options=options)
        for path in (path for path in season.rglob("*") if path.is_file()):
            store.upload(path, str(path.relative_to(season)))
        yield replace(season_pipeline(store.url), storage_options=options)


@contextmanager
def by_signed_addresses(season: Path, scratch: Path) -> Iterator[SeasonPipeline]:
    """Labels and a zip of the photographs in S3, read by addresses that are signed for an hour."""
    archive = shutil.make_archive(str(scratch / "images"), "zip", season / "images")
    (scratch / "s3").mkdir()
    with s3_server(scratch / "s3") as endpoint:
        keys = {
            "access_key_id": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "secret_access_key": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "region": S3_CREDENTIALS["AWS_DEFAULT_REGION"],
        }
        s3fs.S3FileSystem(
            endpoint_url=endpoint, key=keys["access_key_id"], secret=keys["secret_access_key"]
        ).mkdir("season")
        client = S3Store(
            "season",
            config={"endpoint": endpoint, **keys},  # type: ignore[arg-type]
            client_options={"allow_http": True},
        )
        signed = {}
        for name, path in (("labels.json", season / "labels.json"), ("i.zip", Path(archive))):
            obstore.put(client, name, path)
            signed[name] = obstore.sign(client, "GET", name, timedelta(hours=1))
        pipeline = season_pipeline(str(season))
        yield replace(pipeline, labels=signed["labels.json"], images=signed["i.zip"])


@contextmanager
def on_google(season: Path, scratch: Path) -> Iterator[SeasonPipeline]:
    """The season in a bucket of fake-gcs-server, which anyone may read."""
    with gcs_server(scratch) as server:
        server.make_bucket("season")
        for path in (path for path in season.rglob("*") if path.is_file()):
            server.put("season", f"s 1/{path.relative_to(season)}", path.read_bytes())
        options = {"endpoint_url": server.endpoint, "token": "anon"}
        yield replace(season_pipeline("gs://season/s 1"), storage_options=options)


@contextmanager
def on_the_web(season: Path, scratch: Path) -> Iterator[SeasonPipeline]:  # noqa: ARG001
    """The season on a plain web server."""
    with http_server(season) as url:
        yield season_pipeline(url)


@pytest.mark.parametrize(
    "serve", [on_azure, on_google, on_open_s3, on_the_web, by_signed_addresses]
)
def test_every_store_gives_the_bytes_of_a_folder(
    odd_season: Path,
    tmp_path: Path,
    serve: Callable[[Path, Path], AbstractContextManager[SeasonPipeline]],
) -> None:
    """Whoever serves it, missing files and odd names and all: the same dataset."""
    convert_season(season_pipeline(str(odd_season)), SerialRunner(), str(tmp_path / "folder"))
    scratch = tmp_path / "server"
    scratch.mkdir()
    try:
        with serve(odd_season, scratch) as pipeline:
            convert_season(pipeline, SerialRunner(), str(tmp_path / "store"))
    except ServerUnavailable as error:
        pytest.skip(str(error))
    assert files_below(tmp_path / "store") == files_below(tmp_path / "folder")
