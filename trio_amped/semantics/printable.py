"""Owns how text from anybody is shown to people: targets, file names, arguments. Pure."""


def printable(text: bytes | str) -> str:
    """The text on one line, without anything that a terminal or a log reader might obey.

    A file name or a request may hold line ends, which would forge a line of a log, escape
    sequences, which terminals obey, and characters that turn the text round. Those are shown as
    Python would write them: `\\n`, `\\x1b`. So are bytes that are no UTF-8, since not every handler
    of a log can write them.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
