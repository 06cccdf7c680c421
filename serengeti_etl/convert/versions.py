"""What must be the same on driver and workers that make shards."""

from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.versions import code_versions


def conversion_versions() -> dict[str, str]:
    """The versions of code and Python, and of the libraries that decide pixels."""
    return code_versions() | {"encoder": encoder_version()}
