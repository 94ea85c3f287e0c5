"""Which status an errno of opening a file is."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.errors import HttpError, status_of_errno

NOT_FOUND = [
    "ENOENT",
    "ENOTDIR",
    "EISDIR",
    "EACCES",
    "EPERM",
    "EXDEV",
    "ELOOP",
    "ENAMETOOLONG",
    "EINVAL",
    "EILSEQ",
    "ENXIO",
    "ENODEV",
    "ENOTSUP",
    "EOPNOTSUPP",
]
TRY_LATER = ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EBUSY", "ETIMEDOUT", "ESTALE"]
BROKEN = ["EIO", "EROFS", "ENOSPC", "EBADF", "EFAULT", "EOVERFLOW", "ENOSYS"]


@pytest.mark.parametrize("name", NOT_FOUND)
def test_forbidden_and_missing_look_alike(name: str) -> None:
    assert status_of_errno(getattr(errno, name)) == 404


@pytest.mark.parametrize("name", TRY_LATER)
def test_a_shortage_is_to_be_tried_later(name: str) -> None:
    assert status_of_errno(getattr(errno, name)) == 503


@pytest.mark.parametrize("name", BROKEN)
def test_anything_else_is_an_error_of_the_server(name: str) -> None:
    assert status_of_errno(getattr(errno, name)) == 500


@given(st.integers())
def test_every_number_has_a_status(code: int) -> None:
    assert status_of_errno(code) in (404, 500, 503)


def test_an_error_carries_status_detail_and_headers() -> None:
    error = HttpError(405, "why", ((b"Allow", b"GET"),))
    assert (error.status, error.detail, error.headers) == (405, "why", ((b"Allow", b"GET"),))
    assert HttpError(404, "why").headers == ()
    assert str(error) == "(405, 'why')"
