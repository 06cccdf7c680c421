"""Commands that show pages in a browser: a dataset, picture by picture."""

import contextlib

import click

from serengeti_etl.cli.options import debug_option
from serengeti_etl.cli.serving import page_options, web_settings, where_shown
from serengeti_etl.cli.stopping import works_long


@click.command()
@works_long
@click.argument("url")
@click.option(
    "--predictions",
    metavar="URL",
    help="Parquet of images, written by evaluate or predict: shows what a model took them for.",
)
@page_options("127.0.0.1:8000")
@click.option("--open/--no-open", "opens", help="Open the page in a browser here.")
@debug_option
def browse(  # noqa: PLR0913 - one parameter per option
    url: str,
    *,
    predictions: str | None,
    address: str,
    token: str | None,
    host_names: tuple[str, ...],
    opens: bool,
    debug: bool,  # noqa: ARG001 - debug is read by main
) -> None:
    """Show the dataset at URL as a page on this machine: filters, thumbnails, sequences."""
    from serengeti_etl.browse.pages import open_pages
    from serengeti_etl.web.server import WebServer

    settings = web_settings(address, token, host_names)
    pages = open_pages(url, predictions)
    click.echo(f"{url}: {pages.num_images:,} images")
    with WebServer(pages.routes(), settings) as server:
        where = where_shown(server, settings)
        click.echo(f"shown at {where}; Ctrl-C ends it")
        if opens:
            click.launch(where)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
