"""Text and tables in a terminal: nothing is wider than it may be, and what matters stays in sight."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saestore.cli.table import Column, Marked, clean, clip, clip_start, decimals, pairs, render, size, width

pytestmark = pytest.mark.once

texts = st.text(max_size=40) | st.text(alphabet="ab 日🙂\u0301\u200d\n\t", max_size=40)


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("日本", 4), ("🙂", 2), ("e\u0301", 1), ("", 0), ("naïve", 5), ("a\u200db", 2)]
)
def test_width_is_that_of_a_terminal(text, columns):
    assert width(text) == columns


@given(texts, st.integers(0, 50))
def test_a_cut_text_fits_and_is_a_part_of_it(text, limit):
    head, tail = clip(text, limit), clip_start(text, limit)
    assert max(width(head), width(tail)) <= limit
    if width(text) <= limit:
        assert head == tail == text
    elif limit:
        assert head[-1] == tail[0] == "…"
        assert text.startswith(head[:-1])
        assert text.endswith(tail[1:])


@given(texts)
def test_a_clean_text_is_one_printable_line(text):
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert all(char.isprintable() or char in "\u200c\u200d" for char in cleaned)
    assert cleaned.count(" ") <= max(0, len(text))
    assert "  " not in cleaned


@given(texts, st.data())
def test_a_mark_takes_nothing_away(text, data):
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    marked = Marked.of(text, start, stop)
    token = text[start:stop]
    if clean(token.strip()):
        assert marked.token == clean(token.strip())
        assert marked.token.strip() == marked.token
        assert clean(marked.before + marked.token + marked.after) == clean(text)
    else:
        assert (marked.before, marked.after) == (clean(text[:start]), clean(text[stop:]))


@given(texts, texts, texts, st.integers(8, 120))
def test_a_fitted_mark_shows_the_token_and_as_much_around_it_as_there_is_room_for(before, token, after, limit):
    marked = Marked(clean(before), clean(token), clean(after))
    fitted = marked.fit(limit)
    assert width(fitted) <= limit
    if width(marked.token) + 2 <= limit:
        assert f"[{marked.token}]" in fitted
    if width(str(marked)) <= limit:
        assert fitted == str(marked)
    elif width(marked.token) + 2 <= limit:
        # Wide characters and a lone accent at a cut may leave a few columns empty; never more.
        assert width(fitted) >= limit - 4


cells = st.lists(texts.map(clean), min_size=3, max_size=3)


@given(st.lists(st.tuples(cells, st.sampled_from([None, "start", "end"]), st.booleans()), min_size=1, max_size=5))
def test_a_table_is_aligned_and_never_too_wide(spec):
    columns = [Column("name", values, right=right, cut=cut) for values, cut, right in spec]
    for limit in (20, 60, 1000):
        lines = render(columns, limit)
        assert len(lines) == 4
        assert max(map(width, lines)) <= limit
    # With room for everything each cell ends, or starts, where its column does.
    place = 0
    for column in columns:
        wide = max(map(width, [column.name, *column.cells]))
        for line, cell in zip(lines, [column.name, *column.cells], strict=True):
            part = _between(line, place, place + wide)
            assert part.rstrip() == (" " * (wide - width(cell)) + cell if column.right else cell).rstrip()
        place += wide + 2


def _between(line, start, stop):
    """The characters of a line that lie on these columns of a terminal."""
    found, place = "", 0
    for char in line:
        # A character without width belongs to the one before it.
        here = place - (width(char) == 0 and place > start)
        found += char if start <= here < stop else ""
        place += width(char)
    return found


def test_only_columns_that_may_be_cut_are_cut():
    columns = [Column("id", ["123456789012"]), Column("key", ["a/long/path/to/image.png"], cut="start")]
    columns.append(Column("text", ["word " * 20], cut="end"))
    head, line = render(columns, 50)
    assert head.split() == ["id", "key", "text"]
    assert line.startswith("123456789012  …")
    assert "image.png  word word" in line
    assert line.endswith("…")
    assert len(line) <= 50


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([12.34567, 0.5], ["12.346", " 0.500"]),
        ([7990.26, -1.0], ["7990.3", "  -1.0"]),
        ([float("nan"), 0.25, None], ["-", "0.25000", "-"]),
        ([0.0, 0.0], ["0.0000", "0.0000"]),
        ([1e-9], ["1e-09"]),
        ([3e20, 1.0], ["3e+20", "1"]),
        ([float("inf"), 2.0], ["inf", "2.0000"]),
    ],
)
def test_real_numbers_share_their_decimals(values, shown):
    assert list(decimals("x", values).cells) == [cell.strip() for cell in shown]


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (9_510_000, "9.51 MB"),
        (67.1e9, "67.1 GB"),
    ],
)
def test_sizes_have_three_digits(n_bytes, shown):
    assert size(n_bytes) == shown


def test_a_long_value_goes_on_below_its_own_start():
    lines = pairs([("short", "a"), ("a longer name", "word " * 30)], 60)
    assert max(map(len, lines)) <= 60
    assert lines[0] == "  short          a"
    assert lines[2].startswith(" " * 17 + "word")
