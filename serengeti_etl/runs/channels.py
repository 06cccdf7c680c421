"""Where alerts go: ntfy, a webhook, or any service that apprise knows; one url each.

A url may hold a password or be one, as a secret topic is. So only ``Channel.name`` is ever shown:
the kind and the host.
"""

import base64
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.header import Header
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from serengeti_etl.errors import ConfigError
from serengeti_etl.runs.alert import Alert, Level, SendError
from serengeti_etl.runs.apprise_channel import AppriseChannel

FORMAT = "serengeti-alert/1"

URL_FORMS = (
    "ntfy+https://HOST/TOPIC (https://ntfy.sh/TOPIC for short; :TOKEN@HOST or USER:PASSWORD@HOST "
    "signs in), webhook+https://HOST/PATH, any url of apprise such as mailto:// or tgram://, or "
    "@FILE with such urls, one a line, which keeps secrets out of the command line"
)

_NTFY_PRIORITIES = {Level.INFO: "3", Level.WARNING: "4", Level.CRITICAL: "5"}
_NTFY_TAGS = {Level.INFO: "information_source", Level.WARNING: "warning", Level.CRITICAL: "sos"}
_NTFY_NUM_BYTES = 3900
"""Of a message; from 4,096 on ntfy makes a file of it."""

_TIMEOUT_SECONDS = 10.0
_MAY_PASS = (408, 425, 429)
_PRINTABLE = re.compile(r"[!-~]+")


class Channel(Protocol):
    """One place that alerts go to."""

    @property
    def name(self) -> str:
        """What may be shown of its url."""

    def send(self, alert: Alert) -> None:
        """Hand it over, in one try.

        Raises:
            SendError: it did not get through.
        """


def open_channels(urls: Sequence[str]) -> list[Channel]:
    """The channels of ``--alert`` options.

    Args:
        urls: see ``URL_FORMS``.

    Raises:
        ConfigError: one is of no known form; says so without repeating what may be secret in it.
    """
    return [open_channel(one) for url in urls for one in _unfolded(url)]


def open_channel(url: str) -> Channel:
    """The channel at ``url``; see ``open_channels``."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"an --alert is no url, but must be {URL_FORMS}")
    scheme = scheme.lower()
    if scheme == "https" and rest.partition("/")[0].rpartition("@")[2] == "ntfy.sh":
        scheme = "ntfy+https"
    kind, _, protocol = scheme.rpartition("+")
    if kind in ("ntfy", "webhook") and protocol in ("http", "https"):
        parts = _checked(f"{protocol}://{rest}", kind)
        return Ntfy(parts) if kind == "ntfy" else Webhook(parts)
    if scheme in ("http", "https"):
        name = f"{scheme}://{_host(url)}/…"
        raise ConfigError(
            f"--alert {name} may be ntfy or a webhook: write ntfy+{scheme}:// or "
            f"webhook+{scheme}:// instead"
        )
    return AppriseChannel(url)


def shown_url(url: str) -> str:
    """What may be shown of an ``--alert``: a file's name, or the scheme and host."""
    if url.startswith("@"):
        return url
    scheme = url.partition("://")[0]
    is_ours = scheme.lower().rpartition("+")[2] in ("http", "https")
    return f"{scheme}://{_host(url)}/…" if is_ours else f"{scheme}://…"


def _host(url: str) -> str:
    try:
        parts = urlsplit(
            url.partition("+")[2] if url.lower().startswith(("ntfy+", "webhook+")) else url
        )
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.hostname or ''}{port}"


def _unfolded(url: str) -> Iterator[str]:
    if not url.startswith("@"):
        yield url.strip()
        return
    path = Path(url[1:])
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--alert {url} cannot be read: {type(error).__name__}") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise ConfigError(f"--alert {url} names a file without any url")
    yield from found


def _checked(url: str, kind: str) -> SplitResult:
    """The parts of a url that can be asked for."""
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and (parts.port or 1) > 0 and _PRINTABLE.fullmatch(url)
    except ValueError:
        is_good = None
    if not is_good:
        raise ConfigError(f"an --alert of {kind} has no host, a bad port or characters to quote")
    topic = parts.path.strip("/")
    if kind == "ntfy" and (not topic or "/" in topic):
        name = f"ntfy+{parts.scheme}://{parts.hostname}"
        raise ConfigError(f"--alert {name} must name one topic: {name}/TOPIC")
    return parts


class Ntfy:
    """A topic of ntfy; see https://docs.ntfy.sh/publish/.

    Args:
        parts: of the topic's address.
    """

    def __init__(self, parts: SplitResult) -> None:
        self._post = _Post.to(parts)
        self.name = f"ntfy+{parts.scheme}://{self._post.host}/…"

    def send(self, alert: Alert) -> None:
        """See ``Channel``."""
        headers = {
            "Title": _header(alert.title),
            "Priority": _NTFY_PRIORITIES[alert.level],
            "Tags": _NTFY_TAGS[alert.level],
        }
        self._post.send(_message(alert), headers)


class Webhook:
    """An address that takes a JSON object by POST; see ``webhook_body``.

    Args:
        parts: of the address.
    """

    def __init__(self, parts: SplitResult) -> None:
        self._post = _Post.to(parts)
        self.name = f"webhook+{parts.scheme}://{self._post.host}/…"

    def send(self, alert: Alert) -> None:
        """See ``Channel``."""
        self._post.send(webhook_body(alert), {"Content-Type": "application/json"})


def webhook_body(alert: Alert) -> bytes:
    """What a webhook gets: ``format``, the fields of ``Alert``, ``host`` and ``time``."""
    value = {
        "format": FORMAT,
        "kind": alert.kind,
        "level": alert.level.value,
        "run": alert.run,
        "title": alert.title,
        "text": alert.text,
        "tail": alert.tail,
        "host": socket.gethostname(),
        "time": round(time.time(), 3),
    }
    return json.dumps(value).encode()


def _header(text: str) -> str:
    """``text`` in one line of ASCII, by RFC 2047 where it has anything else."""
    line = " ".join(text.split())[:200] or "serengeti-etl"
    if line.isascii() and line.isprintable():
        return line
    return Header(line, "utf-8", maxlinelen=4000).encode()


def _message(alert: Alert) -> bytes:
    """Text and tail, within what ntfy shows as a message; of the tail its end."""
    text = (alert.text or alert.title).encode()[:_NTFY_NUM_BYTES]
    left = _NTFY_NUM_BYTES - len(text) - 2
    tail = alert.tail.encode()[-left:] if left > 0 and alert.tail else b""
    message = text + b"\n\n" + tail if tail else text
    return message.decode(errors="ignore").encode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent on becomes a GET, and the alert is lost: it counts as refused."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Post:
    """Sends bodies to one address.

    Attributes:
        url: without user and password.
        host: with the port, if one is given.
        sign_in: header for user and password.
    """

    url: str
    host: str
    sign_in: Mapping[str, str]

    @classmethod
    def to(cls, parts: SplitResult) -> "_Post":
        host = parts.netloc.rpartition("@")[2]
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        sign_in = {}
        if user:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            sign_in = {"Authorization": f"Basic {pair}"}
        elif password:
            sign_in = {"Authorization": f"Bearer {password}"}
        url = urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))
        return cls(url=url, host=host, sign_in=sign_in)

    def send(self, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
                self.url, body, {**headers, **self.sign_in}, method="POST"
            )
            opener = urllib.request.build_opener(_NoRedirect)
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            with error:
                may_pass = (
                    error.code in _MAY_PASS or error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR
                )
                raise SendError(f"it answered {error.code}", may_pass=may_pass) from None
        except TimeoutError:
            raise SendError(f"no answer in {_TIMEOUT_SECONDS:.0f} s", may_pass=True) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise SendError(_plain(reason), may_pass=True) from None
        except (http.client.HTTPException, ValueError) as error:
            # Their messages may repeat the address.
            raise SendError(f"no HTTP ({type(error).__name__})", may_pass=True) from None


def _plain(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer in {_TIMEOUT_SECONDS:.0f} s"
    said = getattr(reason, "strerror", None)
    return str(said or type(reason).__name__)
