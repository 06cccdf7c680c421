"""A store that is away for longer than a request is tried: the same command ends equal."""

import os
import random
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from tests.chaos.drivers import Driver, small_shards, write_pipeline
from tests.conftest import files_below
from tests.fault_server import BUCKET, fault_server
from tests.seeds import SEED
from tests.servers import free_port

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SECONDS_AWAY = 20.0

_HOST = "store.test"
_RESOLVABLE = f"127.0.0.1 localhost {_HOST}\n"

# What a process is run by that finds names in this file, which may change meanwhile.
WITH_HOSTS = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')

OVER_BUCKET = """
from dataclasses import replace
options = {{"endpoint_url": {url!r}, "key": "k", "secret": "s"}}
pipeline = replace(pipeline, source={source!r}, storage_options=options)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A file of names in which the store's is found; skipped where a process has no own."""
    file = tmp_path / "hosts"
    file.write_text(_RESOLVABLE)
    command = [*WITH_HOSTS, str(file), "getent", "hosts", _HOST]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a process cannot be given an /etc/hosts of its own")
    return file


def test_the_bucket_is_away_for_a_while(season: Path, tmp_path: Path, hosts: Path) -> None:
    """The port is closed, and for a while more the name unknown: exit 3 or 2, no byte differs."""
    draw = random.Random(f"{SEED}")  # noqa: S311 - a repeatable moment, not a secret
    convert_season(small_shards(str(season)), SerialRunner(), str(tmp_path / "undisturbed"))
    objects = {f"season/{name}": content for name, content in files_below(season).items()}

    class Inside(Driver):
        within = (*WITH_HOSTS, str(hosts))

    with ExitStack() as stack:
        port = free_port()
        server = stack.enter_context(fault_server(objects, port))
        server.on_request = lambda: time.sleep(0.1)
        pipeline = write_pipeline(tmp_path, season)
        with pipeline.open("a") as file:
            url = f"http://{_HOST}:{port}"
            file.write(OVER_BUCKET.format(url=url, source=f"s3://{BUCKET}/season"))
        driver = Inside(pipeline, tmp_path / "out", "serial")
        driver.wait_for_commits(draw.randint(1, 6), lambda: None)
        hosts.write_text("127.0.0.1 localhost\n")
        stack.close()
        share = draw.uniform(0.2, 0.8)
        time.sleep(share * SECONDS_AWAY)
        stack.enter_context(fault_server(objects, port))
        time.sleep((1 - share) * SECONDS_AWAY)
        hosts.write_text(_RESOLVABLE)
        codes = [driver.wait()]
        said = driver.said.read_text()
        if codes == [3]:
            assert "run the same command again" in said, SEED
            driver = Inside(pipeline, tmp_path / "out", "serial")
            codes.append(driver.wait())
    assert codes in ([2], [3, 2]), (SEED, said)
    assert "Traceback" not in said
    assert files_below(tmp_path / "out") == files_below(tmp_path / "undisturbed"), SEED
