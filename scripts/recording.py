"""Records a command in a pseudo-terminal as an animated SVG, for GitHub's `<img>`: no script, and no other file.

pyte emulates the terminal. Each different content of a line is drawn once, and a CSS animation shows it while the
terminal showed it. A reader who prefers no motion sees the last moment.
"""

import os
import re
import subprocess
import termios
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import pyte

from services.errors import FleetsightError

COLUMNS: Final = 96
ROWS: Final = 40

KEY_SECONDS: Final = 0.05
"""The time between two characters of the command, which appears as if typed."""

FRAME_SECONDS: Final = 0.1
"""The shortest time between two frames."""

MAX_PAUSE_SECONDS: Final = 0.8
"""The longest time without a change: a longer one is shortened to it."""

LAST_SECONDS: Final = 6.0
"""How long the last frame stays before the animation begins again."""

FONT_SIZE: Final = 14
CHARACTER_WIDTH: Final = 8.4
LINE_HEIGHT: Final = 17
MARGIN: Final = 16

BACKGROUND: Final = "#161b22"
FOREGROUND: Final = "#e6edf3"
COLORS: Final = {
    "black": "#6e7681",
    "red": "#ff7b72",
    "green": "#3fb950",
    "brown": "#d29922",
    "blue": "#58a6ff",
    "magenta": "#d2a8ff",
    "cyan": "#39c5cf",
    "white": FOREGROUND,
}
"""Colours by pyte's names; brown is yellow. The window has its own background, for light and for dark pages."""


class RecordingError(FleetsightError):
    """Raised when the recorded command fails."""


@dataclass(frozen=True)
class Words:
    """Words of a line in one style, with single blanks between them."""

    column: int
    text: str
    color: str
    is_bold: bool
    is_italic: bool


Line = tuple[Words, ...]


@dataclass(frozen=True)
class Frame:
    """The lines of a terminal from a time on, in seconds since the start."""

    seconds: float
    lines: tuple[Line, ...]


def record(typed: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> list[Frame]:
    """Run `command` in a pseudo-terminal, and return what it shows, after the characters of `typed`.

    Raises:
        RecordingError: the command's exit status is not 0.
    """
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(b"$ ")
    frames = [Frame(0.0, lines_of(screen))]
    for number, key in enumerate(typed, 1):
        stream.feed(key.encode())
        frames.append(Frame(number * KEY_SECONDS, lines_of(screen)))
    stream.feed(b"\r\n")
    started = time.monotonic() - frames[-1].seconds

    # These variables of the caller's terminal would hide the size of this one.
    environment = {name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES"}}
    own, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (ROWS, COLUMNS))
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=folder, env=environment, start_new_session=True
    ) as process:
        os.close(terminal)
        for output in _read(own):
            stream.feed(output)
            now = Frame(time.monotonic() - started, lines_of(screen))
            if now.seconds - frames[-1].seconds < FRAME_SECONDS:
                frames[-1] = replace(now, seconds=frames[-1].seconds)
            else:
                frames.append(now)
    os.close(own)
    if process.returncode:
        text = "\n".join(line.rstrip() for line in screen.display).strip()
        raise RecordingError(f"{typed} ended with status {process.returncode}:\n{text}")
    return frames


def _read(terminal: int) -> Iterator[bytes]:
    """Yield what is written to a terminal, until the last process has closed it."""
    while True:
        try:
            output = os.read(terminal, 65_536)
        except OSError:  # Linux reports EIO at the end, and other systems an empty read
            return
        if not output:
            return
        yield output


def lines_of(screen: pyte.Screen) -> tuple[Line, ...]:
    """Return the lines of a screen, without the empty ones at its end. Backgrounds are left out."""
    lines = [tuple(_words(screen, row)) for row in range(screen.lines)]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)


def _words(screen: pyte.Screen, row: int) -> Iterator[Words]:
    cells = [(column, screen.buffer[row][column]) for column in range(screen.columns)]
    for (color, is_bold, is_italic), run in groupby(cells, lambda cell: (cell[1].fg, cell[1].bold, cell[1].italics)):
        found = list(run)
        text = "".join(cell.data for _, cell in found)
        for words in re.finditer(r"\S+(?: \S+)*", text):
            yield Words(found[0][0] + words.start(), words[0], css_color(color), is_bold, is_italic)


def css_color(name: str) -> str:
    """Return the CSS colour of a pyte colour: a name, or six hexadecimal digits."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return COLORS.get(name.removeprefix("bright"), FOREGROUND)


Shown = tuple[tuple[float, float], ...]
"""The times from and to which a line is shown, in seconds."""


def shortened(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames that change something, with long pauses shortened."""
    changes = [frames[0], *(after for before, after in pairwise(frames) if after.lines != before.lines)]
    found = [replace(changes[0], seconds=0.0)]
    for before, after in pairwise(changes):
        pause = min(after.seconds - before.seconds, MAX_PAUSE_SECONDS)
        found.append(replace(after, seconds=found[-1].seconds + pause))
    return found


def animated_svg(frames: Sequence[Frame], title: str) -> str:
    """Return the animation of frames, which repeats; `title` describes it to a reader who does not see it."""
    ends = [*(frame.seconds for frame in frames[1:]), frames[-1].seconds + LAST_SECONDS]
    shown: dict[tuple[int, Line], list[tuple[float, float]]] = defaultdict(list)
    for frame, end in zip(frames, ends, strict=True):
        for row, line in enumerate(frame.lines):
            times = shown[row, line]
            if times and times[-1][1] == frame.seconds:
                times[-1] = (times[-1][0], end)
            else:
                times.append((frame.seconds, end))
    drawn: dict[Shown, list[str]] = defaultdict(list)
    for (row, line), times in shown.items():
        drawn[tuple(times)] += [_text(row, words) for words in line]

    total = ends[-1]
    styles, groups = [], []
    for number, (times_shown, texts) in enumerate(drawn.items()):
        is_last = times_shown[-1][1] == total
        styles.append(f"@keyframes k{number}{{{_keyframes(times_shown, total)}}}")
        styles.append(f".k{number}{{opacity:{int(is_last)};animation-name:k{number}}}")
        groups.append(f'<g class="k{number}">{"".join(texts)}</g>')
    width = round(COLUMNS * CHARACTER_WIDTH + 2 * MARGIN)
    height = max(len(frame.lines) for frame in frames) * LINE_HEIGHT + 2 * MARGIN
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label={quoteattr(title)}>',
            f"<title>{escape(title)}</title>",
            "<style>",
            f"text{{font-size:{FONT_SIZE}px;"
            "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}",
            f"g{{animation:{total:.2f}s step-end infinite}}",
            *styles,
            "@media (prefers-reduced-motion:reduce){g{animation:none!important}}",
            "</style>",
            f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="{BACKGROUND}" '
            'stroke="#6e7681"/>',
            *groups,
            "</svg>\n",
        )
    )


def _keyframes(times: Shown, total: float) -> str:
    """Return the steps of an animation that shows something at these times."""
    steps = {0.0: 0}
    for start, end in times:
        steps |= {start: 1} if end == total else {start: 1, end: 0}
    return "".join(f"{100 * seconds / total:.3f}%{{opacity:{opacity}}}" for seconds, opacity in steps.items())


def _text(row: int, words: Words) -> str:
    # `textLength` aligns columns in any font.
    x, y = MARGIN + words.column * CHARACTER_WIDTH, MARGIN + row * LINE_HEIGHT + FONT_SIZE
    style = f' fill="{words.color}"' + ' font-weight="700"' * words.is_bold + ' font-style="italic"' * words.is_italic
    length = f"{len(words.text) * CHARACTER_WIDTH:.1f}"
    return f'<text x="{x:.1f}" y="{y}" textLength="{length}"{style}>{escape(words.text)}</text>'
