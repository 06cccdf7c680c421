"""What must be the same on driver and workers: the code of this package, and Python."""

import hashlib
import sys
from functools import cache
from pathlib import Path


def code_versions() -> dict[str, str]:
    """A digest of this package's own ``.py`` files, and Python's minor version, each by its name.

    Both decide whether a worker understands a task as the driver means it.
    """
    major, minor, *_ = sys.version_info
    return {"code": _code_digest(), "Python": f"{major}.{minor}"}


@cache  # what a process has loaded stays what it was, though the files change
def _code_digest() -> str:
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
