"""The last lines of an output, as a person would see them."""

from serengeti_etl.runs.tail import Tail


def test_the_last_lines_are_kept() -> None:
    """Of many lines the last, whatever the parts they come in; with one that is not ended."""
    tail = Tail(num_lines=3)
    for part in (b"one\ntw", b"o\nthree\n", b"four\nfi", b"ve"):
        tail.feed(part)
    assert tail.text() == "two\nthree\nfour\nfive"
    assert tail.text(2) == "four\nfive"


def test_what_is_written_over_is_gone() -> None:
    """Of a progress line its last state; streams are not mixed; bad bytes do no harm."""
    tail = Tail()
    tail.feed(b"10%\r50%\r", 2)
    tail.feed(b"out\n\xff\n", 1)
    tail.feed(b"90%\r\n", 2)
    assert tail.text() == "out\n\N{REPLACEMENT CHARACTER}\n90%"


def test_a_line_without_end_stays_small() -> None:
    """Megabytes without a line break are not kept."""
    tail = Tail()
    for _ in range(100):
        tail.feed(b"x" * 50_000)
    assert tail.text() == "x" * 2000
