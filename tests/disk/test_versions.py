"""Which versions of files have settled, and what is remembered of them."""

from typing import get_args

import pytest

from tests.simulated import NANO, NOW
from trio_amped.disk import versions
from trio_amped.disk.opening import Status
from trio_amped.disk.versions import Versions
from trio_amped.semantics.validators import TagKind

HOUR = 3600


def status(mtime: float, ctime: float | None = None, inode: int = 7, size: int = 10) -> Status:
    mtime_ns = int(mtime * NANO)
    ctime_ns = mtime_ns if ctime is None else int(ctime * NANO)
    return Status(0o100644, 0, 1, inode, size, mtime_ns, ctime_ns, mtime_ns)


@pytest.mark.parametrize("tags", get_args(TagKind))
def test_by_its_dates(tags: TagKind) -> None:
    known = Versions(tags)
    assert known.has_settled(status(NOW - 3), NOW, 0.0)
    for now in (0.0, 100.0):  # the clock on the wall stands still
        assert not known.has_settled(status(NOW - 2), NOW, now)
        assert not known.has_settled(status(NOW), NOW, now)
    ctime_counts = tags in ("ctime", "digest")
    assert known.has_settled(status(NOW - 3, NOW - 1), NOW, 0.0) is not ctime_counts
    assert not known.has_settled(status(1, NOW - 1), NOW, 0.0)  # Nix


@pytest.mark.parametrize("tags", get_args(TagKind))
@pytest.mark.parametrize("ahead", [1, HOUR, 10**9])
def test_a_date_in_the_future_settles_when_it_was_seen_for_a_while(
    tags: TagKind, ahead: float
) -> None:
    known, file = Versions(tags), status(NOW + ahead)
    assert not known.has_settled(file, NOW, 100.0)
    assert not known.has_settled(file, NOW, 101.9)
    assert not known.has_settled(file, NOW, 102.0)
    assert known.has_settled(file, NOW, 102.1)
    assert known.has_settled(file, NOW - HOUR, 9000.0), "whatever becomes of the clock on the wall"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(status(NOW + HOUR, inode=8), id="a rename"),
        pytest.param(status(NOW + HOUR, size=11), id="a larger one"),
        pytest.param(status(NOW + HOUR + 1), id="a write"),
        pytest.param(status(NOW + HOUR, NOW), id="its date was put back"),
    ],
)
def test_one_that_was_changed_meanwhile_is_new(other: Status) -> None:
    known, file = Versions("mtime"), status(NOW + HOUR)
    assert not known.has_settled(file, NOW, 0.0)
    assert not known.has_settled(other, NOW, 2.1)
    assert not known.has_settled(other, NOW, 4.0)
    assert known.has_settled(other, NOW, 4.2)


def test_digests() -> None:
    known = Versions("digest")
    file = status(NOW - HOUR)
    assert known.digest(file) is None
    assert known.note_digest(file, file._replace(atime_ns=0), b"digest") == b"digest"
    assert known.digest(file._replace(atime_ns=0, links=2)) == b"digest"
    others = (
        *(file._replace(device=2), file._replace(inode=8), file._replace(size=11)),
        *(file._replace(mtime_ns=1), file._replace(ctime_ns=1)),
    )
    assert [known.note_digest(file, each, b"other") for each in others] == [b""] * 5
    assert [known.digest(each) for each in others] == [None] * 5
    assert known.digest(file) == b"digest"


def test_whatever_was_not_needed_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_SEEN", 2)
    monkeypatch.setattr(versions, "_DIGESTS", 2)
    known = Versions("digest")
    a, b, c = (status(NOW + HOUR, inode=inode) for inode in (1, 2, 3))
    for now, each in enumerate((a, b, a, c)):
        known.has_settled(each, NOW, now)
        known.note_digest(each, each, b"%d" % each.inode)
    assert known.has_settled(a, NOW, 2.5)
    assert [known.digest(each) for each in (a, b, c)] == [b"1", None, b"3"]
    assert not known.has_settled(b, NOW, 10.0), "it was forgotten when it was first seen"
