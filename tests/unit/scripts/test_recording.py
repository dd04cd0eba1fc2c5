"""The animated SVG of a terminal: what it shows at each moment, and what it must not contain."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pyte
from hypothesis import given
from hypothesis import strategies as st

from scripts.recording import (
    COLORS,
    FONT_SIZE,
    LINE_HEIGHT,
    MARGIN,
    MAX_PAUSE_SECONDS,
    Frame,
    Line,
    Words,
    animated_svg,
    lines_of,
    shortened,
)

SVG = "{http://www.w3.org/2000/svg}"


def line(text: str) -> Line:
    return (Words(0, text, "#ffffff", is_bold=False, is_italic=False),) if text else ()


LINES = st.lists(st.sampled_from(["", "one", "two", "<b>&'\"", "uploaded 3"]).map(line), max_size=4).map(tuple)
FRAMES = st.lists(st.tuples(st.floats(0.1, 3), LINES), min_size=1, max_size=8).map(
    lambda steps: [Frame(sum(step[0] for step in steps[:number]), lines) for number, (_, lines) in enumerate(steps)]
)


def texts(svg: ElementTree.Element, seconds: float | None) -> dict[int, str]:
    """Return the visible texts by row, `seconds` after the start, or without the animation."""
    style = svg.findtext(f"{SVG}style") or ""
    total = float(re.findall(r"animation:([\d.]+)s", style)[0])
    found = {}
    for group in svg.iter(f"{SVG}g"):
        name = group.attrib["class"]
        [opacity] = re.findall(rf"\.{name}{{opacity:(\d)", style)
        if seconds is not None:
            [frames] = re.findall(rf"@keyframes {name}{{((?:[^{{}}]+{{[^}}]+}})+)}}", style)
            steps = [(float(at), value) for at, value in re.findall(r"([\d.]+)%{opacity:(\d)}", frames)]
            opacity = [value for at, value in steps if at <= 100 * seconds / total][-1]
        if opacity == "1":
            for text in group.iter(f"{SVG}text"):
                row = (int(text.attrib["y"]) - MARGIN - FONT_SIZE) // LINE_HEIGHT
                assert row not in found
                found[row] = text.text or ""
    return found


def expected(frame: Frame) -> dict[int, str]:
    return {row: words[0].text for row, words in enumerate(frame.lines) if words}


@given(FRAMES)
def test_at_each_moment_the_lines_of_its_frame_are_shown(frames: list[Frame]) -> None:
    svg = ElementTree.fromstring(animated_svg(frames, "a title"))  # noqa: S314 - our own
    for frame in frames:
        assert texts(svg, frame.seconds + 0.05) == expected(frame)
    assert texts(svg, frames[-1].seconds + 4) == texts(svg, None) == expected(frames[-1])


@given(FRAMES)
def test_the_picture_needs_no_script_and_no_other_file(frames: list[Frame]) -> None:
    text = animated_svg(frames, 'an "important" <title>')
    svg = ElementTree.fromstring(text)  # noqa: S314 - our own
    assert {each.tag.removeprefix(SVG) for each in svg.iter()} <= {"svg", "title", "style", "rect", "g", "text"}
    attributes = {name for each in svg.iter() for name in each.attrib}
    assert not [name for name in attributes if name.startswith("on") or "href" in name or name == "style"]
    style = svg.findtext(f"{SVG}style") or ""
    assert not re.search(r"url\(|@import|//", style)
    assert svg.attrib["aria-label"] == 'an "important" <title>'


@given(FRAMES)
def test_a_long_pause_is_shortened_and_every_change_stays(frames: list[Frame]) -> None:
    short = shortened(frames)
    changes = [frames[0].lines]
    changes += [after.lines for before, after in pairwise(frames) if after.lines != before.lines]
    assert [frame.lines for frame in short] == changes
    pauses = [after.seconds - before.seconds for before, after in pairwise(short)]
    assert all(0 < pause <= MAX_PAUSE_SECONDS + 1e-9 for pause in pauses)


def test_colours_and_styles_of_the_terminal_are_kept() -> None:
    screen = pyte.Screen(30, 4)
    pyte.Stream(screen).feed("\x1b[1;31mno\x1b[0m  \x1b[3;38;2;1;2;255myes\x1b[0m\r\n  a   b c\r\n")
    assert lines_of(screen) == (
        (
            Words(0, "no", COLORS["red"], is_bold=True, is_italic=False),
            Words(4, "yes", "#0102ff", is_bold=False, is_italic=True),
        ),
        (
            Words(2, "a", COLORS["white"], is_bold=False, is_italic=False),
            Words(6, "b c", COLORS["white"], is_bold=False, is_italic=False),
        ),
    )
