"""Words for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """``text`` with bytes that are no UTF-8, as names of files may hold, in the form ``\\xff``."""
    try:
        content = text.encode(errors="surrogateescape")  # how Python hands on names it could not decode
    except UnicodeEncodeError:
        content = text.encode(errors="backslashreplace")
    return content.decode(errors="backslashreplace")
