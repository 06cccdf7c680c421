"""Photographs of one task with the same content: are they so, or did the store mix answers up?

A store, or a proxy before it, that answers with another object, its length and its ETag does all
right but for the name, which no answer tells. Such a mistake is made among requests that are under
way together, so that both often belong to one task, and one photograph comes twice. True doubles
are rare, and cost two requests more.
"""

from collections.abc import Iterator, Sequence

from serengeti_etl.convert.fetch import Wanted, fetch_in_order
from serengeti_etl.errors import ImageError, ShardError
from serengeti_etl.storage import Store

_NUM_BYTES = 4096

Mark = tuple[int, int, int]


def mark(content: bytes) -> Mark:
    """The same for the same content, and else most likely not, for next to no time."""
    return len(content), hash(content[:_NUM_BYTES]), hash(content[-_NUM_BYTES:])


def check_doubles(
    images: Store, wanted: Sequence[Wanted], contents: Iterator[bytes | ImageError]
) -> Iterator[bytes | ImageError]:
    """``contents``, where a photograph that came before with another name is asked for again.

    Args:
        images: where the photographs lie.
        wanted: which of them; what they are, in turn, is:
        contents: of each, or why it cannot be had.

    Raises:
        ShardError: asked again, one of the two is something else: the shard is to be made again.
        OSError: as ``fetch_in_order``.
    """
    first: dict[Mark, Wanted] = {}
    for photograph, content in zip(wanted, contents, strict=True):
        if isinstance(content, bytes):
            other = first.setdefault(mark(content), photograph)
            if other.file_name != photograph.file_name:
                _ask_again(images, (other, photograph), content)
        yield content


def _ask_again(images: Store, both: tuple[Wanted, Wanted], content: bytes) -> None:
    for one, again in zip(both, fetch_in_order(images, both), strict=True):
        if not isinstance(again, bytes) or mark(again) != mark(content):
            raise ShardError(
                f"{both[0].file_name} and {both[1].file_name} came from {images.url} with the "
                f"same content, but {one.file_name} has another now: the store, or a proxy before "
                "it, mixes answers up"
            )
