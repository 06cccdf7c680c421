"""Pages: numbers as people read them, text that stays text, and nothing from outside."""

import re

import pytest

from serengeti_etl.report.pages import (
    count,
    decimals,
    duration,
    large,
    percent,
    render,
    size,
    width,
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (count(7_178_440), "7,178,440"),
        (count(None), "–"),
        (large(9_999), "9,999"),
        (large(12_340), "12.3 k"),
        (large(7_178_440), "7.18 M"),
        (size(999), "999 bytes"),
        (size(17_300_000), "17.3 MB"),
        (size(2_310_000_000_000), "2.3 TB"),
        (percent(0.125), "12.5 %"),
        (percent(0.0), "0.0 %"),
        (percent(0.0001), "< 0.1 %"),
        (percent(0.004, 0), "< 1 %"),
        (percent(None), "–"),
        (decimals(0.18741), "0.1874"),
        (decimals(None), "–"),
        (duration(2.14), "2.1 s"),
        (duration(245), "4 min 5 s"),
        (duration(12_000), "3 h 20 min"),
        (width(0.5), "50.00%"),
        (width(0.00001), "0.40%"),
        (width(0), "0.00%"),
        (width(1.7), "100.00%"),
        (width(None), "0.00%"),
    ],
)
def test_numbers_are_written_for_people(said: str, expected: str) -> None:
    """Counts, sizes, shares and times, with little never written as nothing."""
    assert said == expected


def test_whatever_a_template_gets_is_text_and_only_its_own_script_may_run() -> None:
    """Markup in a value is escaped, and the page's policy names no address."""
    page = render("base.html").decode()
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert len(policy) == 1
    assert "default-src 'none'" in policy[0]
    assert "http" not in policy[0]
    assert page.count("<script") == 1
