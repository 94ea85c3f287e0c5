"""Which files a URL may stand for, and which URL a file has."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.naming import Naming
from trio_amped.semantics.target import Target, parse_target

CLEAN: Final = Naming(is_clean=True)
NEVER: Final = Naming(slash="never")
KEEP: Final = Naming(is_clean=True, slash="keep")
TWO: Final = Naming((b"main.htm", b"index.html"), is_clean=True)


def target(path: str) -> Target:
    return parse_target(path.encode())


@pytest.mark.parametrize(
    ("naming", "path", "files"),
    [
        (Naming(), "/a", [b"a"]),
        (Naming(), "/a/", [b"a/index.html"]),
        (Naming(), "/", [b"index.html"]),
        (CLEAN, "/a", [b"a", b"a.html"]),
        (CLEAN, "/a.html", [b"a.html"]),
        (CLEAN, "/a/", [b"a/index.html", b"a.html"]),
        (CLEAN, "/", [b"index.html"]),
        (NEVER, "/a", [b"a", b"a/index.html"]),
        (KEEP, "/a", [b"a", b"a.html", b"a/index.html"]),
        (TWO, "/b/a/", [b"b/a/main.htm", b"b/a/index.html", b"b/a.html"]),
    ],
)
def test_files(naming: Naming, path: str, files: list[bytes]) -> None:
    assert naming.files(target(path)) == files


def test_the_folder_of_a_site_without_its_slash() -> None:
    """Below the prefix nothing is left of its path: another name cannot be made of that."""
    assert KEEP.files(Target(b"", False, None)) == [b""]


@pytest.mark.parametrize(
    ("naming", "asked", "file", "url"),
    [
        (Naming(), "/a/index.html", b"a/index.html", "/a/index.html"),
        (NEVER, "/a/", b"a/index.html", "/a"),
        (NEVER, "/a", b"a/index.html", "/a"),
        (NEVER, "/a/index.html", b"a/index.html", "/a/index.html"),
        (NEVER, "/", b"index.html", "/"),
        (CLEAN, "/a.html", b"a.html", "/a"),
        (CLEAN, "/a/", b"a.html", "/a"),
        (CLEAN, "/a/index", b"a/index.html", "/a/"),
        (CLEAN, "/a/index/", b"a/index.html", "/a/"),
        (CLEAN, "/a/main.htm", b"a/main.htm", "/a/main.htm"),
        (TWO, "/a/main.htm", b"a/main.htm", "/a/"),
        (KEEP, "/a/", b"a.html", "/a/"),
        (KEEP, "/a", b"a/index.html", "/a"),
        (KEEP, "/a/index.html", b"a/index.html", "/a/"),
    ],
)
def test_the_url_of_a_file(naming: Naming, asked: str, file: bytes, url: str) -> None:
    assert naming.url(target(asked), file) == target(url)


@pytest.mark.parametrize(
    ("naming", "is_simple"),
    [(Naming((b"x",)), True), (CLEAN, False), (NEVER, False), (Naming((b"x", b"y")), False)],
)
def test_simple(naming: Naming, is_simple: bool) -> None:
    assert naming.is_simple == is_simple


NAMES: Final = st.sampled_from([b"a", b"a.html", b"index.html", b"index", b"b.htm"])
PATHS: Final = st.lists(NAMES, max_size=3).map(b"/".join)
NAMINGS: Final = st.builds(
    Naming,
    st.lists(NAMES, min_size=1, max_size=2, unique=True).map(tuple),
    st.booleans(),
    st.sampled_from(["folder", "never", "keep"]),
)
QUERIES: Final = st.sampled_from([None, b"", b"q"])


@given(NAMINGS, PATHS, st.booleans(), QUERIES)
def test_a_url_leads_to_its_file_by_itself(
    naming: Naming, path: bytes, is_directory: bool, query: bytes | None
) -> None:
    """So whoever was redirected is not redirected again."""
    asked = Target(path, is_directory or not path, query)
    for file in naming.files(asked):
        url = naming.url(asked, file)
        assert url.query == query
        if file in naming.files(url):
            assert naming.url(url, file) == url
        else:
            assert url != asked
