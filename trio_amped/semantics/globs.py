"""Owns the patterns by which options name files: "*.woff2", "/assets/*". Pure."""

import re
from fnmatch import translate
from typing import Final

HASHED: Final = "hashed"

# Hexadecimal digits between a separator and the extension, as bundlers name what they build: as
# many as they take, with one digit and one letter at least, since 20261124 is a date and "facade" a
# word. Not the end of a UUID, which says nothing of the content.
_LENGTHS: Final = b"|".join(b"[0-9a-f]{%d}" % count for count in (8, 10, 12, 16, 20, 32, 40, 64))
_CONTENT_HASH: Final = re.compile(
    rb"(?<!-[0-9a-f]{4})[.\-_](?=[a-f]*+[0-9])(?=[0-9]*+[a-f])(?:" + _LENGTHS + rb")(?=\.)"
)


# As fnmatch reads them: a "]" that stands first is a member.
_BRACKETS: Final = re.compile(r"(?:[^\[]|\[!?+\]?+[^\]]*+\])*+", re.DOTALL)


class Glob:
    """A pattern as in fnmatch(3), in which "*" matches slashes as well.

    Without a slash in it, it is matched with the last name of a path; with one, with the whole
    path from the root on. Upper and lower case differ.
    """

    def __init__(self, pattern: str) -> None:
        _check(pattern)
        self._is_whole = "/" in pattern
        if self._is_whole and not pattern.startswith("/"):
            pattern = "/" + pattern
        # Names are bytes: latin-1 takes each for a character of its own.
        text = pattern.encode("utf-8", "surrogateescape").decode("latin-1")
        self._regex = re.compile(translate(text).encode("latin-1"))

    def matches(self, path: bytes) -> bool:
        """Whether it names the file at `path`, relative to the root."""
        subject = b"/" + path if self._is_whole else path.rpartition(b"/")[2]
        return self._regex.match(subject) is not None


def _check(pattern: str) -> None:
    """Raise ValueError for a pattern that can match nothing, or is none as its writer meant it."""
    if not pattern:
        raise ValueError("must not have an empty pattern")
    if not _BRACKETS.fullmatch(pattern):
        raise ValueError(f"must close each [ of its pattern, not {pattern!r}; [[] is one itself")
    if "(?!)" in translate(pattern):  # which stands for a range such as [z-a], and nothing else
        raise ValueError(f"must have a character in each [] of its pattern, not {pattern!r}")


def split_rule(rule: str, form: str) -> tuple[Glob, str]:
    """A rule in its two parts. Raises ValueError, which says what its `form` is ("GLOB: ...")."""
    pattern, colon, value = rule.partition(":")
    if not colon or not pattern.strip():
        raise ValueError(f"must be {form}, not {rule!r}")
    return Glob(pattern.strip()), value.strip(" \t")


def has_content_hash(path: bytes) -> bool:
    """Whether the last name of a path has a hash of its content in it: app.3f2a9c1d.js."""
    name = path.rpartition(b"/")[2]
    extensions = _extensions(name)
    return any(found.end() >= extensions for found in _CONTENT_HASH.finditer(name))


def _extensions(name: bytes) -> int:
    """Where they begin: all that follows a dot is letters and digits, and dots."""
    start = len(name)
    while (dot := name.rfind(b".", 0, start)) >= 0 and name[dot + 1 : start].isalnum():
        start = dot
    return start
