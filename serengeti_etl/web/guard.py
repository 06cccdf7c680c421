"""Who may see the pages: by the name they are asked for, and by a token."""

import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from serengeti_etl.errors import ConfigError, require

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebSettings:
    """Where pages are served, and to whom.

    Attributes:
        address: ``host:port`` to listen on; port 0 takes a free one.
        token: must be given once as ``?token=``; needed where others can reach the address.
        host_names: by which else the server may be asked, such as that of a proxy before it;
            addresses, ``localhost`` and the name of the machine always are.
        num_threads: that make pages, and as many that wait for stores.
    """

    address: str = "127.0.0.1:0"
    token: str | None = None
    host_names: tuple[str, ...] = ()
    num_threads: int = 8

    def __post_init__(self) -> None:
        """Raises ConfigError for an address or a token that cannot be."""
        host, port = self.place
        allowed = "host:port, such as 127.0.0.1:8000"
        require(bool(host) and 0 <= port <= 65_535, "address", self.address, allowed)  # noqa: PLR2004
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            # What it got is a secret, perhaps with a slip of the finger.
            raise ConfigError("token must be 16 to 256 letters, digits, - or _")
        require(self.num_threads > 0, "num_threads", self.num_threads, "above 0")

    @property
    def place(self) -> tuple[str, int]:
        """Host and port; an empty host where the address is none."""
        try:
            parts = urlsplit(f"//{self.address}")
            is_whole = parts.netloc == self.address and "@" not in self.address
            port = parts.port
        except ValueError:
            return "", -1
        return (parts.hostname or "", -1 if port is None else port) if is_whole else ("", -1)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches ``address``, of a socket that listens."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def is_known_host(header: str, settings: WebSettings) -> bool:
    """Whether a page may be asked for by this Host header.

    A page of an attacker's can give its own name the address of this machine (DNS rebinding) and
    would then be of the same origin; but its name, which is sent along, is none of ours.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    own = {"localhost", socket.gethostname().lower(), *(n.lower() for n in settings.host_names)}
    return name in own or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_token(given: str, settings: WebSettings) -> bool:
    """Whether ``given`` is the token, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), (settings.token or "").encode())
