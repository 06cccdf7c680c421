"""The command line; the only module that prints. Each command imports what it needs when run.

Exit codes: 0 complete; 2 complete, with rejects within the budget; 3 incomplete, run it again;
4 refused, something must be changed first.
"""

import dataclasses
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serengeti_etl.errors import ConfigError, Incomplete, SerengetiError

if TYPE_CHECKING:
    from serengeti_etl.config import ClusterSpec, SeasonPipeline

COMPLETE, WITH_REJECTS, INCOMPLETE, REFUSED = 0, 2, 3, 4

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def main() -> None:
    """Run the command line and exit with one of its codes."""
    arguments = sys.argv[1:]
    try:
        code = commands.main(arguments, prog_name="serengeti-etl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = REFUSED
    except click.Abort:
        code = _say_interrupted()
    except SerengetiError as error:
        code = _say_error(error, debug="--debug" in arguments)
    sys.exit(code if isinstance(code, int) else COMPLETE)


def _say_error(error: SerengetiError, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    click.echo(f"serengeti-etl: {error}{notes}", err=True)
    return INCOMPLETE if isinstance(error, Incomplete) else REFUSED


def _say_interrupted() -> int:
    click.echo("serengeti-etl: interrupted; the same command continues", err=True)
    return INCOMPLETE


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="serengeti-etl")
def commands() -> None:
    """Camera-trap photographs: from a bucket to resized shards to a trained model."""


def _debug(command: CommandT) -> CommandT:
    return click.option("--debug", is_flag=True, help="Show the whole traceback.")(command)


def _pipeline_options(command: CommandT) -> CommandT:
    command = click.option("--limit", type=int, help="Take only this many sequences.")(command)
    command = click.option("--source", help="Where labels and images lie instead.")(command)
    return click.argument("pipeline", type=click.Path(path_type=Path))(command)


def _cluster_option(default: str) -> Callable[[CommandT], CommandT]:
    return click.option(
        "--cluster",
        default=default,
        show_default=True,
        help="serial, local, the address of a scheduler, or a Python file with a ClusterSpec.",
    )


@commands.command()
@_pipeline_options
@_debug
def plan(pipeline: Path, source: str | None, limit: int | None, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Show what PIPELINE would do; nothing is written."""
    from serengeti_etl.convert.season import plan_season

    settings = load_pipeline(pipeline, source=source, limit=limit)
    catalog, made = plan_season(settings)
    _print_plan(settings.name, catalog, made)


@commands.command()
@_pipeline_options
@click.option("--output", required=True, help="Folder or url for the dataset.")
@_cluster_option("local")
@_debug
def convert(  # noqa: PLR0913 - one parameter per option
    pipeline: Path,
    source: str | None,
    limit: int | None,
    output: str,
    cluster: str,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
) -> int:
    """Turn the photographs of PIPELINE into a dataset of tar shards."""
    settings = load_pipeline(pipeline, source=source, limit=limit)
    conversion = run_conversion(settings, output, load_cluster(cluster))
    _print_conversion(conversion, output)
    return WITH_REJECTS if conversion.ledger.num_rejected else COMPLETE


@commands.command()
@click.argument("url")
@_debug
def info(url: str, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Show what the dataset at URL holds."""
    from serengeti_etl.dataset.index import open_dataset

    _print_dataset(open_dataset(url))


@commands.command()
@click.argument("url")
@_cluster_option("serial")
@_debug
def verify(url: str, cluster: str, debug: bool) -> int:  # noqa: ARG001, FBT001 - debug is read by main
    """Read the whole dataset at URL and report every disagreement in it."""
    found = run_verification(url, load_cluster(cluster))
    for problem in found.problems:
        click.echo(problem)
    size = (
        f"{found.num_shards} shards, {found.num_samples:,} samples, {_megabytes(found.num_bytes)}"
    )
    if not found.problems:
        click.echo(f"whole: {size}; tars, index, rejects, checksums and ledger agree")
        return COMPLETE
    click.echo(f"{len(found.problems)} problems in {size}")
    return INCOMPLETE


def load_pipeline(path: Path, *, source: str | None, limit: int | None) -> "SeasonPipeline":
    """The ``pipeline`` of a pipeline file, with what the command line sets.

    Raises:
        ConfigError: the file is missing, or defines none.
    """
    from serengeti_etl.config import SeasonPipeline

    pipeline: SeasonPipeline = _load_named(path, "pipeline", SeasonPipeline)
    changes: dict[str, Any] = {}
    if source is not None:
        changes["source"] = source
    if limit is not None:
        changes["max_sequences"] = limit
    return dataclasses.replace(pipeline, **changes)


def load_cluster(where: str) -> "str | ClusterSpec":
    """``where`` itself, or the ``cluster`` of the Python file that it names."""
    from serengeti_etl.config import ClusterSpec

    if not where.endswith(".py"):
        return where
    spec: ClusterSpec = _load_named(Path(where), "cluster", ClusterSpec)
    return spec


def _load_named(path: Path, name: str, kind: type) -> Any:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    value = runpy.run_path(str(path)).get(name)
    if not isinstance(value, kind):
        raise ConfigError(f"{path} must define `{name} = {kind.__name__}(...)`")
    return value


def run_conversion(pipeline: "SeasonPipeline", output: str, where: "str | ClusterSpec") -> Any:
    """Convert with a progress line; the ``Conversion``."""
    from tqdm import tqdm

    from serengeti_etl.cluster import open_runner
    from serengeti_etl.convert.season import Progress, convert_season

    with open_runner(where) as runner, tqdm(unit=" images", desc="convert") as line:
        totals = {"bytes": 0, "rejects": 0}

        def show(progress: Progress) -> None:
            report = progress.report
            line.total = progress.num_planned
            num_images = report.info.num_samples + report.info.num_rejected
            line.initial += 0 if progress.is_new else num_images
            totals["bytes"] += report.num_source_bytes
            totals["rejects"] += report.info.num_rejected
            seconds = max(line.format_dict["elapsed"], 1e-9)
            rate = totals["bytes"] / 1e6 / seconds
            line.set_postfix_str(f"{rate:.1f} MB/s, {totals['rejects']} rejected", refresh=False)
            line.update(num_images)

        return convert_season(pipeline, runner, output, show)


def run_verification(url: str, where: "str | ClusterSpec") -> Any:
    """Verify with a progress line; the ``Verification``."""
    from tqdm import tqdm

    from serengeti_etl.cluster import open_runner
    from serengeti_etl.dataset.verify import verify_dataset

    with open_runner(where) as runner, tqdm(unit=" shards", desc="verify") as line:
        return verify_dataset(url, runner, lambda _shard: line.update())


def _print_plan(name: str, catalog: Any, made: Any) -> None:
    import pyarrow.compute as pc

    rows = []
    for split in sorted({shard.split for shard in made.shards}):
        part = made.rows.filter(pc.field("split") == split)
        num_shards = sum(shard.split == split for shard in made.shards)
        rows.append((split, num_shards, part.num_rows, *_num_distinct(part)))
    total = (len(made.shards), made.rows.num_rows, *_num_distinct(made.rows))
    rows.append(("planned", *total))
    rows.append(("excluded", "", made.excluded.num_rows, *_num_distinct(made.excluded)))
    rows.append(("catalog", "", catalog.num_rows, *_num_distinct(catalog)))
    _table(f"plan of {name}", ("", "shards", "images", "sequences", "sites"), rows)
    _print_classes(made.rows, made.classes)
    reasons = pc.value_counts(made.excluded["reason"]).to_pylist()
    _table("excluded", ("rule", "images"), [(row["values"], row["counts"]) for row in reasons])


def _num_distinct(table: Any) -> tuple[int, int]:
    import pyarrow.compute as pc

    return pc.count_distinct(table["seq_id"]).as_py(), pc.count_distinct(table["site"]).as_py()


def _print_classes(table: Any, classes: tuple[str, ...]) -> None:
    """Images of each class in each split."""
    from collections import Counter

    splits = sorted(set(table["split"].to_pylist()))
    counts: Counter[tuple[str, str]] = Counter()
    for split, labels in zip(table["split"].to_pylist(), table["labels"].to_pylist(), strict=True):
        counts.update((split, label) for label in labels)
    rows = [(name, *(counts[split, name] for split in splits)) for name in classes]
    _table("images by class", ("class", *splits), rows)


def _print_conversion(conversion: Any, output: str) -> None:
    _print_ledger(conversion.index.ledger)
    spent = ", ".join(f"{stage} {value:.1f} s" for stage, value in conversion.seconds.items())
    read = _megabytes(conversion.num_source_bytes)
    num_shards = len(conversion.index.shards)
    click.echo(f"{num_shards} shards, {conversion.num_made} made now; read {read}; {spent}")
    click.echo(f"dataset: {output}")


def _print_ledger(ledger: Mapping[str, Any]) -> None:
    rows: list[tuple[str, str, int]] = [("in shards", "", ledger["num_in_shards"])]
    for state in ("rejected", "excluded", "duplicates"):
        rows += [(state, reason, count) for reason, count in ledger[state].items()]
    rows.append(("catalog", "", ledger["num_images"]))
    _table("ledger", ("state", "reason", "images"), rows)


def _print_dataset(dataset: Any) -> None:
    rows = []
    for split in dataset.splits:
        shards = dataset.shards(split)
        size = _megabytes(sum(shard.num_bytes for shard in shards))
        rows.append((split, len(shards), dataset.num_images(split), size))
    _table(f"dataset {dataset.info.name}", ("split", "shards", "images", "size"), rows)
    index = dataset.index(columns=["split", "labels"])
    _print_classes(index, dataset.classes)
    _print_ledger(dataset.info.ledger)
    settings = dataset.info.settings["resize"]
    click.echo(f"resize: {settings['size']} px, quality {settings['quality']}")
    click.echo(f"made by: {dataset.info.versions['encoder']}; plan {dataset.plan_hash[:16]}")


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print a table; nothing when there are no rows."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for at, column in enumerate(columns):
        numeric = at > 0 and not isinstance(rows[0][at], str)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
        table.add_row(*cells)
    # Not cut to the width of a pipe: what is printed may be read by a program.
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
