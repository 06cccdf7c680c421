"""Where commands show their pages, and to whom."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from serengeti_etl.web.guard import WebSettings
    from serengeti_etl.web.server import WebServer

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def page_options(address: str) -> Callable[[CommandT], CommandT]:
    """A decorator for commands that serve pages.

    Args:
        address: to listen on by default.
    """
    options = (
        click.option(
            "--address",
            default=address,
            show_default=True,
            help="Where to listen; port 0 takes a free one. One that others reach needs a token.",
        ),
        click.option("--token", help="To be given once as ?token=; made up where one is needed."),
        click.option(
            "--host-name",
            "host_names",
            multiple=True,
            help="By which else pages are asked for, such as that of a proxy; may be repeated.",
        ),
    )

    def decorated(command: CommandT) -> CommandT:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def web_settings(address: str, token: str | None, host_names: tuple[str, ...]) -> "WebSettings":
    """Where to serve, with a token made up where others could look in and none is given.

    Raises:
        ConfigError: an address or a token that cannot be.
    """
    from serengeti_etl.web.guard import WebSettings

    settings = WebSettings(address=address, token=token, host_names=host_names)
    if token is None and settings.is_open:
        made = secrets.token_urlsafe(24)
        return WebSettings(address=address, token=made, host_names=host_names)
    return settings


def where_shown(server: "WebServer", settings: "WebSettings") -> str:
    """The address to open in a browser, with the token if there is one."""
    return f"{server.url}?token={settings.token}" if settings.token else server.url
