"""What must be the same on driver and workers that make shards."""

import pyarrow as pa

from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.versions import code_versions


def conversion_versions() -> dict[str, str]:
    """The versions of code and Python, and of the libraries that decide pixels and index parts."""
    return code_versions() | {"encoder": encoder_version(), "pyarrow": pa.__version__}
