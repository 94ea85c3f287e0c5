"""Owns which files a URL may stand for, and which URL is the one of a file. Pure."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from .target import Target

SlashMode: TypeAlias = Literal["folder", "never", "keep"]

_PAGE: Final = b".html"


class Naming(NamedTuple):
    """How the URLs of a site are made of the names of its files.

    `indexes`: the names of a folder's page, the first one that is there counts. `is_clean`: a page
    is at its name without ".html", and a folder's page at the folder. `slash`: which URLs end in a
    slash, those of folders' pages, none, or any as it was asked for; a listing always does, since
    its links are relative.

    A URL stands for the first of its `files` that is one. It is redirected to the `url` of that
    file only where the same is true of that: so no file is hidden, and no redirect leads to another
    one.
    """

    indexes: tuple[bytes, ...] = (b"index.html",)
    is_clean: bool = False
    slash: SlashMode = "folder"

    @property
    def is_simple(self) -> bool:
        """Whether each URL can stand for one file alone, and is that of no other URL."""
        return len(self.indexes) == 1 and not self.is_clean and self.slash == "folder"

    def files(self, target: Target) -> Sequence[bytes]:
        """Return the paths of the files that a target may stand for, the first of them first."""
        path = target.path
        page = [path + _PAGE] if self.is_clean and path and not path.endswith(_PAGE) else []
        if target.is_directory:
            return [*self._indexes(path), *page]
        if self.slash == "folder" or not path:
            return [path, *page]
        return [path, *page, *self._indexes(path)]

    def _indexes(self, folder: bytes) -> list[bytes]:
        return [folder + b"/" + name if folder else name for name in self.indexes]

    def url(self, asked: Target, file: bytes) -> Target:
        """Return the URL of a file that was found by another one, or by the same."""
        folder, _, name = file.rpartition(b"/")
        if name in self.indexes and (self.is_clean or folder == asked.path):
            has_slash = self.slash == "folder" or not folder
            if self.slash == "keep":
                has_slash = asked.is_directory or folder != asked.path
            return asked._replace(path=folder, is_directory=has_slash)
        if self.is_clean and file.endswith(_PAGE):
            page = file.removesuffix(_PAGE)
            has_slash = self.slash == "keep" and asked.is_directory
            return asked._replace(path=page, is_directory=has_slash)
        return asked._replace(path=file, is_directory=False)
