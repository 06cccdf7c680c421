"""Commands over labels: what a label file holds, and labels handed on to others."""

from pathlib import Path
from typing import Any

import click

from serengeti_etl.cli.options import debug_option, load_pipeline, pipeline_options, place_options
from serengeti_etl.cli.stopping import works_long


@click.command()
@works_long
@pipeline_options
@click.option("--output", help="Folder or url for the tables; by default NAME-catalog here.")
@click.option("--schemas", help="Folder or url of Camtrap DP's table schemas.")
@debug_option
def catalog(  # noqa: PLR0913 - one parameter per option
    pipeline: Path,
    source: str | None,
    limit: int | None,
    output: str | None,
    schemas: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
) -> None:
    """Show what PIPELINE's label file holds, what is odd in it, and how it splits."""
    from serengeti_etl.label_catalog import make_label_catalog
    from serengeti_etl.label_tables import catalog_text

    settings = load_pipeline(pipeline, source=source, limit=limit)
    where = output or f"{settings.name}-catalog"
    made = make_label_catalog(settings, where, schemas)
    click.echo(catalog_text(settings.name, made.labels, made.selection), nl=False)
    splits = ", splits.json" if made.refusal is None else ""
    click.echo(f"written: {where}/catalog.parquet, annotations.parquet{splits}")
    if made.refusal is not None:
        raise made.refusal


@click.command()
@click.argument("url")
@click.option("--format", "kind", type=click.Choice(["coco", "camtrap_dp"]), required=True)
@click.option("--output", required=True, help="Folder or url for what is written.")
@click.option("--split", help="Only the images of this split.")
@place_options
@debug_option
def export(
    url: str,
    kind: str,
    output: str,
    split: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
    **place: Any,
) -> None:
    """Write the labels of the dataset or catalog at URL for others to read."""
    from serengeti_etl.export import exported_labels, write_labels

    labels = exported_labels(url, split)
    click.echo(write_labels(labels, kind, output, place))
