"""Scripts and styles that come with a package, as routes."""

from collections.abc import Mapping
from importlib.resources import files

from serengeti_etl.web.answers import ASK_AGAIN, Answer, PageError, Request, Route

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def file_route(*packages: str) -> Route:
    """A route ``/static/NAME`` to what is in the folders ``static`` of ``packages``."""
    folders = [files(package) / "static" for package in packages]
    found = {one.name: one.read_bytes() for folder in folders for one in folder.iterdir()}
    return Route(pattern="/static/(?P<name>[^/]+)", answer=_Files(found).answer)


class _Files:
    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = contents

    def answer(self, request: Request) -> Answer:
        name = request.parts["name"]
        content = self._contents.get(name)
        kind = _KINDS.get(name[name.rfind(".") :])
        if content is None or kind is None:
            raise PageError(404, f"there is no file {name}")
        return Answer(body=content, kind=kind, cache=ASK_AGAIN)
