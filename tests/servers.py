"""Real servers that tests start on loopback, and stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def free_port() -> int:
    """A port of loopback that nothing listens on, with the one 10,000 above it free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            # SeaweedFS takes a second port 10,000 above each for its own talk.
            if port + 10_000 < 65_536 and other.connect_ex(("127.0.0.1", port + 10_000)):
                return port


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """The endpoint url of a real S3 server (SeaweedFS) that keeps its files in ``folder``."""
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer", "admin")}
    command = [
        str(Path(sys.executable).parent / "weed"),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | S3_CREDENTIALS
        )
    try:
        _wait_for(ports["s3"], server, log)
        yield f"http://127.0.0.1:{ports['s3']}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(1.0)  # the port answers a little before the bucket calls do
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")
