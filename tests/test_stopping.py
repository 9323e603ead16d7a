"""StopStrings: no part of a stop string is ever shown."""

import random

import pytest

from llama_cu.stopping import StopStrings


def shown(stops, pieces):
    checker = StopStrings(stops)
    text = ""
    for piece in pieces:
        text += checker.push(piece)
        if checker.matched is not None:
            return text, checker.matched
    return text + checker.finish(), None


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "matched"),
    [
        ((), ["a", "b"], "ab", None),
        (("\n\n",), ["one\n", "\ntwo"], "one", "\n\n"),
        (("END",), ["the E", "N", "d", " E", "ND more"], "the ENd ", "END"),
        (("aab",), ["a", "a", "a", "b"], "a", "aab"),
        (("xyz", "y"), ["wxyz"], "wx", "y"),
        (("abc", "bc"), ["abc"], "", "abc"),
        (("stop",), ["sto"], "sto", None),
    ],
)
def test_text_ends_where_the_first_stop_string_begins(stops, pieces, text, matched):
    assert shown(stops, pieces) == (text, matched)


def test_however_text_is_cut_into_pieces_the_same_is_shown():
    rng = random.Random(5)
    for _ in range(500):
        text = "".join(rng.choice("ab") for _ in range(12))
        stops = tuple("".join(rng.choice("ab") for _ in range(rng.randint(2, 4))) for _ in range(2))
        cuts = sorted(rng.sample(range(1, 12), 3))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 12], strict=True)]
        assert shown(stops, pieces) == shown(stops, list(text)) == shown(stops, [text])


def test_a_stop_string_that_may_not_end_the_text_yet_is_text_but_what_it_began_may():
    checker = StopStrings(("END",))
    assert checker.push("an END, E", may_end=False) == "an END, "
    assert checker.push("N", may_end=False) == ""
    assert checker.push("D.") == "" and checker.matched == "END"


def test_a_stop_string_within_what_another_began_stays_text():
    checker = StopStrings(("b", "abcd"))
    assert checker.push("abc", may_end=False) == ""
    assert checker.push("e") == "abce" and checker.matched is None
    assert checker.push("ab") == "a" and checker.matched == "b"

    checker = StopStrings(("b", "abcd"))
    assert checker.push("abc", may_end=False) == ""
    assert checker.push("d") == "" and checker.matched == "abcd"
