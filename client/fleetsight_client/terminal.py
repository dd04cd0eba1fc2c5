"""Text on a terminal: labels, names, messages and log lines of others show, and cannot control it."""

import codecs
import io
import re
import sys
from typing import Final, TextIO

_CONTROLS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u180e\u200b\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e0fff]"
)
"""The characters that a terminal executes or hides instead of showing them, except line feed and tab.

Control characters (C0, DEL, C1); the separators of lines and of paragraphs; overrides and isolates of the direction,
which show text in another order (https://trojansource.codes); characters without a width, in which a text can hide,
except the joiners and marks of direction that scripts need; and surrogates, which cannot be encoded.
"""


def printable(text: str) -> str:
    """Return a text with a replacement character for each character that controls a terminal."""
    return _CONTROLS.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Return a printable text in which line feeds are replaced, too: it cannot add a line of its own."""
    return printable(text).replace("\n", "\ufffd")


class CleanedTerminal(io.TextIOWrapper):
    """A terminal to which only printable text is written.

    Attributes:
        terminal: the stream without this restriction.
    """

    def __init__(self, terminal: TextIO) -> None:
        # Click writes to the buffer beneath a stream of ASCII, which nothing would clean.
        encoding = (
            "utf-8" if terminal.encoding.lower() in {"ascii", "us-ascii", "ansi_x3.4-1968"} else terminal.encoding
        )
        super().__init__(terminal.buffer, encoding, "replace", line_buffering=True, write_through=True)
        self.terminal = terminal

    def write(self, text: str, /) -> int:
        """Write the printable text."""
        super().write(printable(text))
        return len(text)


def clean_terminal_output() -> None:
    """Clean what this process prints on a terminal from now on; every command begins with this.

    Files and pipes get each byte as it is: programs read them, as UTF-8 also on Windows, where Python would write
    them in a code page that does not have every label.
    """
    for stream in (sys.stdout, sys.stderr):
        is_code_page = codecs.lookup(stream.encoding or "utf-8").name.startswith("cp")
        if is_code_page and isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8")
    if sys.stdout.isatty():
        sys.stdout = CleanedTerminal(sys.stdout)
    if sys.stderr.isatty():
        sys.stderr = CleanedTerminal(sys.stderr)
