"""Photographs from real stores of every kind, by loopback: the bytes of a folder."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.storage import Store
from tests.conftest import files_below, season_pipeline
from tests.servers import ServerUnavailable, azure_server, gcs_server, http_server


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


@pytest.mark.parametrize("serve", [on_azure, on_google, on_the_web])
def test_every_store_gives_the_bytes_of_a_folder(
    season: Path,
    tmp_path: Path,
    serve: Callable[[Path, Path], AbstractContextManager[SeasonPipeline]],
) -> None:
    """Azure, Google and a web server: missing files and all, the same dataset."""
    convert_season(season_pipeline(str(season)), SerialRunner(), str(tmp_path / "folder"))
    scratch = tmp_path / "server"
    scratch.mkdir()
    try:
        with serve(season, scratch) as pipeline:
            convert_season(pipeline, SerialRunner(), str(tmp_path / "store"))
    except ServerUnavailable as error:
        pytest.skip(str(error))
    assert files_below(tmp_path / "store") == files_below(tmp_path / "folder")
