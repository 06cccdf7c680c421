"""Pages out of templates, by Jinja. Its only home. Whatever enters them is escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


class Templates:
    """The templates of a package, in its folder ``templates``.

    Args:
        package: such as ``serengeti_etl.browse``.
    """

    def __init__(self, package: str) -> None:
        self._environment = Environment(
            loader=PackageLoader(package),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def page(self, name: str, **values: Any) -> bytes:
        """The page of the template ``name`` with these values."""
        return self._environment.get_template(name).render(values).encode()
