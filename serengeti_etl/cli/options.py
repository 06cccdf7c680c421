"""Options that several commands have, and the Python files that some of them name."""

import dataclasses
import runpy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serengeti_etl.errors import ConfigError

if TYPE_CHECKING:
    from serengeti_etl.config import ClusterSpec, SeasonPipeline

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def debug_option(command: CommandT) -> CommandT:
    """``command`` with ``--debug``, which ``main`` reads."""
    return click.option("--debug", is_flag=True, help="Show the whole traceback.")(command)


def pipeline_options(command: CommandT) -> CommandT:
    """``command`` of a pipeline file, and of what the command line may change in it."""
    command = click.option("--limit", type=int, help="Take only this many sequences.")(command)
    command = click.option("--source", help="Where labels and images lie instead.")(command)
    return click.argument("pipeline", type=click.Path(path_type=Path))(command)


def cluster_option(default: str) -> Callable[[CommandT], CommandT]:
    """A decorator for commands whose tasks may run elsewhere."""
    return click.option(
        "--cluster",
        default=default,
        show_default=True,
        help="serial, local, the address of a scheduler, or a Python file with a ClusterSpec.",
    )


_PLACE_OPTIONS = (
    click.option(
        "--utc-offset", default="+03:00", show_default=True, help="Of the cameras' clocks."
    ),
    click.option("--latitude", type=float, help="Of sites that --sites lacks, in degrees."),
    click.option("--longitude", type=float, help="Likewise."),
    click.option("--sites", help="CSV with the columns site, latitude and longitude."),
    click.option("--contributor", default="unknown", show_default=True, help="Who made the data."),
    click.option(
        "--sampling-design",
        default="opportunistic",
        show_default=True,
        help="How sites were chosen, in the words of Camtrap DP.",
    ),
)


def place_options(command: CommandT) -> CommandT:
    """What Camtrap DP demands and nobody else; `click` wants the last one first."""
    for option in reversed(_PLACE_OPTIONS):
        command = option(command)
    return command


def load_pipeline(path: Path, *, source: str | None, limit: int | None) -> "SeasonPipeline":
    """The ``pipeline`` of a pipeline file, with what the command line sets.

    Raises:
        ConfigError: the file is missing, or defines none.
    """
    from serengeti_etl.config import SeasonPipeline

    pipeline: SeasonPipeline = load_named(path, "pipeline", SeasonPipeline)
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
    spec: ClusterSpec = load_named(Path(where), "cluster", ClusterSpec)
    return spec


def load_named(path: Path, name: str, kind: type) -> Any:
    """The value of ``name`` in the Python file at ``path``.

    Raises:
        ConfigError: there is no such file, or it defines no such value of this kind.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    value = runpy.run_path(str(path)).get(name)
    if not isinstance(value, kind):
        raise ConfigError(f"{path} must define `{name} = {kind.__name__}(...)`")
    return value


def need_training() -> None:
    """Nothing, where the extra [train] is installed.

    Raises:
        ConfigError: it is not.
    """
    needed = ("torch", "torchvision", "safetensors", "simplejpeg")
    missing = [name for name in needed if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"training needs {', '.join(missing)}: install the extra with "
            "`pip install 'serengeti-etl[train]'`"
        )
