"""The errors a person can act on; each message says what, where and what to do.

::

    SerengetiError
    ├── ConfigError (ValueError)    a setting asks for something impossible
    ├── CatalogError (ValueError)   a label file is missing something or contradicts itself
    ├── ImageError (ValueError)     one photograph is unreadable; recorded, never fatal alone
    ├── ChecksumError (ValueError)  what a store sends is not what it says to hold
    ├── RequestRefused (OSError)    a store will never answer this request; says why
    ├── SourceRefused               the store of the photographs refuses one after the other
    ├── ShardError (OSError)        a shard could not be written, or does not match its checksum
    ├── OutputHeld                  another process writes to the same place; says which
    ├── DatasetError (ValueError)   dataset.json, index and shards disagree
    ├── RunError                    a training cannot go on: checkpoints damaged, or diverged
    ├── Incomplete                  not all is done; the same command finishes the work
    └── TooManyFailures             beyond the budget of rejects; names examples

They cross process borders, so every one survives pickling: arguments go to ``args``.
"""

from collections.abc import Collection


class SerengetiError(Exception):
    """The root: catch this to catch everything that this package says on purpose."""


class ConfigError(SerengetiError, ValueError):
    """A setting asks for something impossible: which field, what it got, what it may be."""


def require(condition: bool, field_name: str, got: object, allowed: str) -> None:  # noqa: FBT001
    """Nothing, if ``condition`` holds.

    Raises:
        ConfigError: otherwise; names the field, what it got and what it may be.
    """
    if not condition:
        raise ConfigError(f"{field_name} is {got!r}, but it must be {allowed}")


def refuse_newer(unknown: Collection[str], where: str) -> None:
    """Nothing, if ``unknown`` is empty.

    Args:
        unknown: what a file says that this version does not know.
        where: name of the file.

    Raises:
        ConfigError: otherwise; names it.
    """
    if unknown:
        raise ConfigError(
            f"{where} was written by a newer version of serengeti-etl, as it has "
            f"{', '.join(sorted(unknown))}, which this one does not know: install that version"
        )


class CatalogError(SerengetiError, ValueError):
    """A label file lacks a column, repeats an image or contradicts itself."""


class ImageError(SerengetiError, ValueError):
    """One photograph cannot be used, for one reason of a fixed list.

    Args:
        reason: short word for counting, such as ``truncated`` (see ``convert.resize.REASONS``).
        message: one sentence for a person.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        """The reason and the sentence on one line."""
        return f"{self.reason}: {self.message}"


class ChecksumError(SerengetiError, ValueError):
    """The bytes that a store sends do not match the size or checksum that it declares."""


class RequestRefused(SerengetiError, OSError):  # noqa: N818 - the store's answer, in its words
    """A store will never answer this request: a wrong name, setting or kind of store."""


class SourceRefused(SerengetiError):  # noqa: N818 - the store's answer, in its words
    """The store refuses one photograph after the other; its reason and what to do."""


class ShardError(SerengetiError, OSError):
    """A shard could not be written, or its bytes do not match its checksum."""


class OutputHeld(SerengetiError):  # noqa: N818 - a state to wait for, not a fault
    """Another process writes to the same place: who, since when, and what to do."""


class DatasetError(SerengetiError, ValueError):
    """dataset.json, index and shards disagree, or there is no dataset at the url."""


class RunError(SerengetiError):
    """A training cannot go on: its checkpoints are damaged, or its loss is no longer a number."""


class Incomplete(SerengetiError):  # noqa: N818 - a state to continue from, not a fault
    """Not all is done, by faults that may pass or a wish to stop; the same command goes on."""


class TooManyFailures(SerengetiError):  # noqa: N818 - the name of the design
    """More photographs were rejected than the pipeline allows; names examples."""
