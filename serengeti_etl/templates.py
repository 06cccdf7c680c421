"""Pages out of templates, by Jinja. Its only home. Whatever enters them is escaped."""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError


class Templates:
    """The templates of a package.

    Args:
        package: such as ``serengeti_etl.browse``.
        folder: in it.
        filters: more of them than Jinja has, by name: how values are written for people.
    """

    def __init__(
        self,
        package: str,
        folder: str = "templates",
        filters: Mapping[str, Callable[..., str]] | None = None,
    ) -> None:
        self._environment = Environment(
            loader=PackageLoader(package, folder),
            autoescape=True,
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(filters or {})

    def page(self, template: str, /, **values: Any) -> str:
        """The page of ``template``, such as ``sample.html``, with these values.

        Raises:
            ValueError: the template wants what the values lack, or cannot be read.
        """
        try:
            return self._environment.get_template(template).render(values)
        except TemplateError as error:
            raise ValueError(f"{template}: {error}") from error
