"""A Camtrap DP held against its own table schemas, by frictionless, whose home this is.

The reader takes what it understands and refuses what is ambiguous; here everything is found that
another reader of the format may stumble over.
"""

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from serengeti_etl.catalog.camtrap_dp.package import CamtrapPackage, open_package
from serengeti_etl.catalog.camtrap_dp.words import TABLES
from serengeti_etl.catalog.checks import Finding
from serengeti_etl.errors import ConfigError
from serengeti_etl.storage import Store

if TYPE_CHECKING:
    from frictionless import Error, Resource
    from frictionless.resources import TableResource

NOT_VALIDATED = "not validated"
_NUM_EXAMPLES = 3

Descriptor = dict[str, Any]


def validate_camtrap_dp(
    source: Store, name: str, schemas: Store | None = None
) -> tuple[Finding, ...]:
    """What in the tables of a Camtrap DP is against its table schemas; () where nothing is.

    One finding per table and kind of error; or one alone, ``not validated``, that says why. Reads
    about 15,000 rows a second, and keeps all ids in memory.

    Args:
        source: where the package lies.
        name: its folder, zip or datapackage.json there.
        schemas: folder of deployments-, media- and observations-table-schema.json; None takes
            them from where the package says.

    Raises:
        CatalogError: it is no Camtrap DP, or a table is not there.
    """
    package = open_package(source, name)
    if find_spec("frictionless") is None:
        return (_not_validated("no frictionless here: pip install 'serengeti-etl[camtrap]'"),)
    try:
        found = {table: _schema(package, table, schemas) for table in TABLES}
        return tuple(_validated(package, found))
    except _NotValidated as reason:
        return (_not_validated(str(reason)),)


class _NotValidated(Exception):  # noqa: N818 - a state to report, not a fault
    """Why the tables were not validated, and what to do."""


def _not_validated(meaning: str) -> Finding:
    return Finding(
        name=NOT_VALIDATED, meaning=meaning, unit="tables", count=len(TABLES), examples=TABLES
    )


def _schema(package: CamtrapPackage, table: str, schemas: Store | None) -> Descriptor:
    """The schema of a table, as its JSON says."""
    file = f"{table}-table-schema.json"
    if schemas is not None:
        return _fetched(schemas.at(file))
    package.path(table)  # refuses a package without the table
    named = package.resources[table].get("schema")
    if isinstance(named, dict):
        return named
    if not isinstance(named, str):
        raise _NotValidated(
            f"{package.name}, of Camtrap DP {package.version}, names no schema of {table}: give a "
            f"folder that holds {file} with --schemas"
        )
    if "://" in named:
        return _fetched(Store(url=named))
    with package.open(named) as opened:
        return _parsed(opened.read(), named)


def _fetched(place: Store) -> Descriptor:
    try:
        content = place.read("")
    except _network_errors() as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise _NotValidated(
            f"the schema {place.url} cannot be read ({told}): give a folder with the three table "
            "schemas with --schemas"
        ) from error
    return _parsed(content, place.url)


def _network_errors() -> tuple[type[Exception], ...]:
    """What reading an address may raise: no file, no network, no client for its scheme."""
    known = (OSError, ConfigError, ValueError)
    try:
        from aiohttp import ClientError
    except ImportError:
        return known
    return (*known, ClientError)


def _parsed(content: bytes, name: str) -> Descriptor:
    try:
        schema = json.loads(content)
    except ValueError as error:
        raise _NotValidated(f"the schema {name} is no JSON ({error}): give another") from error
    if not isinstance(schema, dict):
        raise _NotValidated(f"the schema {name} is no JSON object: give another")
    return schema


def _validated(package: CamtrapPackage, schemas: Mapping[str, Descriptor]) -> Iterator[Finding]:
    """Findings of all tables, each from a local copy: frictionless refuses other places."""
    from frictionless import Package

    with TemporaryDirectory() as folder:
        for table in TABLES:
            with (
                package.open(package.path(table)) as file,
                (Path(folder) / f"{table}.csv").open("wb") as copy,
            ):
                shutil.copyfileobj(file, copy)
        resources = [_resource(package, table, schemas[table]) for table in TABLES]
        # Together, because ids of one table are looked up in another.
        whole = Package(resources=resources, basepath=folder)
        for table in TABLES:
            yield from _findings(whole.get_table_resource(table), package.path(table))


def _resource(package: CamtrapPackage, table: str, schema: Descriptor) -> "Resource":
    from frictionless import Detector, Dialect, FrictionlessException, Schema
    from frictionless.formats import CsvControl
    from frictionless.resources import TableResource

    try:
        parsed = Schema.from_descriptor(schema)
    except FrictionlessException as error:
        told = " ".join(error.error.message.split())[:200]
        raise _NotValidated(f"the schema of {table} is none ({told}): give another") from error
    return TableResource(
        name=table,
        path=f"{table}.csv",
        encoding="utf-8",
        schema=parsed,
        dialect=Dialect(controls=[CsvControl(delimiter=package.delimiter(table))]),
        # By name: by position, one missing column would make all that follow nonsense.
        detector=Detector(schema_sync=True),
    )


def _findings(resource: "TableResource", path: str) -> Iterator[Finding]:
    """One finding per kind of error; of each kind only three are kept."""
    counts: Counter[str] = Counter()
    first: dict[str, list[Error]] = {}
    for error in _errors(resource):
        counts[error.type] += 1
        if counts[error.type] <= _NUM_EXAMPLES:
            first.setdefault(error.type, []).append(error)
    for kind, errors in sorted(first.items()):
        title = errors[0].title.lower()
        yield Finding(
            name=f"{resource.name}: {kind}",
            meaning=f"against its table schema ({title}): read as far as it is understood",
            unit=_unit(errors[0]),
            count=counts[kind],
            examples=tuple(_told(error, path) for error in errors),
        )


def _errors(resource: "TableResource") -> Iterator["Error"]:
    from frictionless import FrictionlessException

    try:
        with warnings.catch_warnings():
            # frictionless 5.18 knows no other way than ``schema_sync``; later ones warn of it.
            warnings.simplefilter("ignore", DeprecationWarning)
            resource.open()  # type: ignore[no-untyped-call]
        yield from resource.header.errors
        for row in resource.row_stream:
            yield from row.errors
    except FrictionlessException as error:
        yield error.error
    finally:
        resource.close()


def _unit(error: "Error") -> str:
    from frictionless import errors

    if isinstance(error, errors.CellError):
        return "cells"
    return "rows" if isinstance(error, errors.RowError) else "columns"


def _told(error: "Error", path: str) -> str:
    """Where and what, on one line."""
    from frictionless import errors

    told = f": {error.note or error.message}"
    if isinstance(error, errors.CellError):
        told = f": {error.field_name} {error.cell!r}: {error.note or error.title.lower()}"
    where = f"{path} row {error.row_number}" if isinstance(error, errors.RowError) else path
    return " ".join(f"{where}{told}".split())
