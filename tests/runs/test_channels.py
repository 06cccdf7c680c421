"""Channels: what each kind of url gets, and that no s3cret of it is shown."""

import base64
import threading
from email.header import decode_header
from pathlib import Path

import pytest

from serengeti_etl.errors import ConfigError
from serengeti_etl.runs import channels
from serengeti_etl.runs.alert import Alert, Level, SendError
from serengeti_etl.runs.channels import open_channel, open_channels, shown_url
from tests.runs.alert_server import AlertServer

LOST = Alert(
    kind="lost",
    run="s3://bucket/run",
    title="Läufe: lost",
    text="no word for 2 min",
    tail="step 7\nstep 8",
    level=Level.CRITICAL,
)


def test_ntfy_gets_headers_and_a_text(server: AlertServer) -> None:
    """Title by RFC 2047 if not ASCII, Priority and Tags by level, text and tail as body."""
    open_channel(server.url("ntfy", "topic")).send(LOST)
    got = server.posted[0]
    [(title, charset)] = decode_header(got.headers["Title"])
    assert (got.path, title, charset) == ("/topic", "Läufe: lost".encode(), "utf-8")
    assert (got.headers["Priority"], got.headers["Tags"]) == ("5", "sos")
    assert got.body == b"no word for 2 min\n\nstep 7\nstep 8"


def test_ntfy_gets_a_plain_title_as_it_is(server: AlertServer) -> None:
    """ASCII in one line; a line break in a run's name cannot make a header of its own."""
    one = Alert(kind="done", run="r", title="run\r\nX-Evil: 1")
    open_channel(server.url("ntfy", "topic")).send(one)
    assert server.posted[0].headers["Title"] == "run X-Evil: 1"
    assert "X-Evil" not in server.posted[0].headers


def test_ntfy_gets_the_end_of_a_long_tail(server: AlertServer) -> None:
    """Within the size up to which it is a message, in whole characters."""
    tail = "ä" * 5000 + "the end"
    one = Alert(kind="died", run="r", title="t", text="died", tail=tail)
    open_channel(server.url("ntfy", "topic")).send(one)
    body = server.posted[0].body
    assert len(body) < 4096
    assert body.decode().startswith("died\n\nä")
    assert body.decode().endswith("ääthe end")


def test_a_webhook_gets_json(server: AlertServer) -> None:
    """All fields, the format, host and time."""
    open_channel(server.url("webhook", "a/b?c=d")).send(LOST)
    got = server.posted[0]
    value = got.json()
    assert (got.path, got.headers["Content-Type"]) == ("/a/b?c=d", "application/json")
    assert value.pop("host")
    assert value.pop("time") > 1.7e9
    assert value == {
        "format": "serengeti-alert/1",
        "kind": "lost",
        "level": "critical",
        "run": "s3://bucket/run",
        "title": "Läufe: lost",
        "text": "no word for 2 min",
        "tail": "step 7\nstep 8",
    }


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ("anne:p%40ss@", "Basic " + base64.b64encode(b"anne:p@ss").decode()),
        (":tk_1@", "Bearer tk_1"),
    ],
)
def test_user_and_token_sign_in(server: AlertServer, user: str, header: str) -> None:
    """A user and password by Basic, a password alone as a token."""
    open_channel(server.url("ntfy", "topic", user)).send(LOST)
    assert server.posted[0].headers["Authorization"] == header


@pytest.mark.parametrize(
    ("status", "may_pass"), [(500, True), (429, True), (404, False), (401, False), (302, False)]
)
def test_what_is_answered_with_a_status(
    server: AlertServer, status: int, *, may_pass: bool
) -> None:
    """Faults of the server may pass, refusals do not; a redirect is one, as it loses the body."""
    server.answers = [status]
    with pytest.raises(SendError, match=f"it answered {status}") as raised:
        open_channel(server.url("webhook")).send(LOST)
    assert raised.value.may_pass is may_pass
    assert len(server.posted) == 1


def test_what_does_not_answer(
    server: AlertServer, monkeypatch: pytest.MonkeyPatch, dead_port: int
) -> None:
    """A server that hangs is left after the timeout; a port without one is refused."""
    monkeypatch.setattr(channels, "_TIMEOUT_SECONDS", 0.2)
    server.hang = threading.Event()
    with pytest.raises(SendError, match="no answer in 0 s"):
        open_channel(server.url("webhook")).send(LOST)
    with pytest.raises(SendError, match="Connection refused"):
        open_channel(f"webhook+http://127.0.0.1:{dead_port}/s3cret").send(LOST)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://ntfy.sh/s3cret", "ntfy+https://ntfy.sh/…"),
        ("https://u:s3cret@ntfy.sh/t", "ntfy+https://ntfy.sh/…"),
        ("ntfy+https://:s3cret@h:81/t", "ntfy+https://h:81/…"),
        ("WEBHOOK+HTTPS://h/s3cret?s3cret=1", "webhook+https://h/…"),
        ("tgram://123456789:abcdefg_hijklmnop/12315544/", "tgram://…"),
        ("json://user:s3cret@localhost", "json://…"),
    ],
)
def test_kinds_are_told_apart_and_names_are_safe(url: str, name: str) -> None:
    """Each form has one meaning; what is shown has scheme and host, of apprise the scheme."""
    assert open_channel(url).name == name
    assert "s3cret" not in shown_url(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ntfy.sh/s3cret", "no url, but must be ntfy"),
        ("https://example.org/s3cret", r"https://example\.org/… may be ntfy or a webhook"),
        ("ntfy+https://example.org/", "must name one topic"),
        ("ntfy+https://example.org/a/s3cret", "must name one topic"),
        ("webhook+https:///s3cret", "has no host"),
        ("webhook+https://h:99999/s3cret", "a bad port"),
        ("webhook+https://h/s3cr et", "characters to quote"),
        ("nonsense://s3cret", "apprise does not know --alert nonsense://"),
        ("@/nowhere/file", "cannot be read"),
    ],
)
def test_what_is_refused(url: str, said: str) -> None:
    """Forms that are none are refused when opened, without repeating what may be s3cret."""
    with pytest.raises(ConfigError, match=said) as raised:
        open_channels([url])
    assert "s3cret" not in str(raised.value)


def test_apprise_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without apprise the message names the extra."""
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"pip install 'serengeti-etl\[alerts\]'"):
        open_channel("tgram://123456789:abcdefg_hijklmnop/12315544/")


def test_apprise_sends(server: AlertServer) -> None:
    """A service of apprise's gets title, text and tail; one that fails is a SendError."""
    # Its timeouts of four seconds are short for a machine that is busy.
    channel = open_channel(f"json://127.0.0.1:{server.port}/x?cto=60&rto=60")
    channel.send(LOST)
    value = server.posted[0].json()
    assert (value["title"], value["type"]) == ("Läufe: lost", "failure")
    assert value["message"] == "no word for 2 min\n\nstep 7\nstep 8"
    server.answers = [500]
    with pytest.raises(SendError):
        channel.send(LOST)


def test_urls_of_a_file(tmp_path: Path) -> None:
    """One a line; empty lines and comments are passed over; an empty file is refused."""
    path = tmp_path / "urls"
    path.write_text("# phones\n\n  https://ntfy.sh/a\nwebhook+http://h/b\n")
    names = [channel.name for channel in open_channels([f"@{path}"])]
    assert names == ["ntfy+https://ntfy.sh/…", "webhook+http://h/…"]
    path.write_text("\n")
    with pytest.raises(ConfigError, match="without any url"):
        open_channels([f"@{path}"])
