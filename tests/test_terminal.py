"""Word wrapping and progress bars, without a terminal."""

from __future__ import annotations

import random

import pytest

from llama_cu.cli.progress import progress_line
from llama_cu.cli.terminal import WordWrap, display_width

STORY = (
    "Once upon a time, there was a little turtle. She wanted to see the sea!\n\n"
    "  \u201cIt is far,\u201d said the owl, "
    "\u201cand an-unreasonably-long-winding-road-leads-there-forever-and-ever.\u201d\n"
    "So she went. "
)


def wrapped(text: str, width: int, *, seed: int = 0) -> str:
    rng, wrap, shown = random.Random(seed), WordWrap(width), ""
    while text:
        cut = rng.randint(1, 7)
        shown += wrap.push(text[:cut])
        text = text[cut:]
    return shown + wrap.finish()


@pytest.mark.parametrize("width", [24, 40, 80])
def test_lines_break_between_words_and_fit(width):
    shown = wrapped(STORY, width)
    long_word = max(STORY.split(), key=len)
    assert shown.split() == STORY.split()
    for line in shown.split("\n"):
        assert display_width(line) <= width or any(part in long_word for part in line.split())


@pytest.mark.parametrize("width", [24, 40, 80])
def test_pieces_do_not_change_what_is_shown(width):
    assert len({wrapped(STORY, width, seed=seed) for seed in range(20)}) == 1


def test_the_text_keeps_its_own_line_breaks_and_indents():
    assert wrapped("a\n\n  b c\n", 40) == "a\n\n  b c\n"


def test_a_line_as_wide_as_the_terminal_stays_whole():
    assert wrapped("aaaa bbbb cccc", 9) == "aaaa bbbb\ncccc"


def test_wide_characters_count_twice():
    assert display_width("\u6f22\u5b57") == 4
    assert display_width("e\u0301") == 1
    assert display_width("\u0e01\u0e31\u0e1a") == 2  # Thai: its vowel stands above
    assert display_width("\u2764\ufe0f\u200d") == 1  # neither is seen: a variant, a joiner
    assert wrapped("\u6f22\u5b57 \u6f22\u5b57", 8) == "\u6f22\u5b57\n\u6f22\u5b57"


def test_a_script_without_spaces_is_shown_before_it_ends():
    assert WordWrap(40).push("\u6f22" * 30) != ""


@pytest.mark.parametrize("width", [10, 40, 80])
@pytest.mark.parametrize("done", [0, 7, 20])
def test_a_progress_line_fits(width, done):
    line = progress_line("weights", done, 20, width=width)
    assert len(line) <= width
    assert line.endswith(f"{done / 20:4.0%}")


def test_a_progress_line_without_a_total_is_its_name():
    assert progress_line("compiling rope", 0, 0, width=60) == "compiling rope"
    assert progress_line("compiling rope", 0, 0, width=9) == "compiling"
