"""Which sections of RFC 9110 ask something of a server of files, and that each has a row.

In scope are 8, 12.4, 12.5, 13, 14 and 15. A section that is not named below has no MUST, MUST NOT,
SHOULD or SHOULD NOT at all.
"""

from typing import Final

from tests.serving.rfc9110 import (
    test_conditions,
    test_negotiation,
    test_ranges,
    test_representations,
    test_status_codes,
    test_tags,
)

ROWS: Final = [
    *test_representations.ROWS,
    *test_negotiation.ROWS,
    *test_conditions.ROWS,
    *test_ranges.ROWS,
    *test_status_codes.ROWS,
    *test_tags.ROWS,
]

ASKS: Final = frozenset({
    "8.3", "8.3.3", "8.4", "8.4.1.3", "8.6", "8.7", "8.8.1", "8.8.2.1", "8.8.3", "8.8.3.1",
    "12.5.1", "12.5.3", "12.5.5",
    "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5", "13.2.1", "13.2.2",
    "14.1.2", "14.2", "14.4", "14.5",
    "15.2", "15.2.2", "15.3.1", "15.3.7", "15.3.7.1", "15.3.7.2", "15.4.2", "15.4.5",
    "15.5", "15.5.6", "15.5.17", "15.6", "15.6.6",
})  # fmt: skip
"""Sections with a requirement for us."""

DEFINES: Final = frozenset({
    "8.4.1", "8.8.3.3", "12.4.1", "12.4.2", "12.4.3", "14.1", "14.1.1", "14.3", "14.6",
    "15.5.1", "15.5.4", "15.5.5", "15.5.13", "15.5.15", "15.5.18", "15.6.1", "15.6.2", "15.6.4",
    "RFC 6585 5",
})  # fmt: skip
"""Sections that ask for nothing, or for nothing of us, but say what others ask for."""

NOT_OURS: Final = {
    "8.4.1.1": "compress is not offered",
    "12.5.4": "for user agents; no language is chosen here",
    "15": "for clients",
    "15.3.6": "205 is never sent",
    "15.3.7.3": "for clients",
    "15.4": "for clients",
    "15.4.1": "300 is never sent",
    "15.4.3": "302 is never sent",
    "15.4.8": "307 is never sent",
    "15.4.9": "308 is never sent",
    "15.5.2": "401 is never sent",
    "15.5.7": "406 is never sent: see 12.4.1",
    "15.5.8": "for proxies",
    "15.5.10": "409 is never sent",
    "15.5.14": "413 is never sent: content of requests is not read",
    "15.5.20": "for proxies",
    "15.5.22": "426 is never sent",
}


def test_every_section_that_asks_for_something_has_a_row() -> None:
    covered = {row.section for row in ROWS}
    assert covered == ASKS | DEFINES
    assert not covered & NOT_OURS.keys()


def test_what_is_never_sent_is_never_sent() -> None:
    never = {int(why[:3]) for why in NOT_OURS.values() if why[:3].isdecimal()}
    assert len(never) == 10
    assert not never & {row.status for row in ROWS}


def test_every_row_has_a_name_of_its_own() -> None:
    names = [str(row) for row in ROWS]
    assert sorted(names) == sorted(set(names))
