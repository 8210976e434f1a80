"""Kernels that read numbers out of text: millions of lines a second, each wrong one named.

A line is scanned once. A number of at most 15 digits and a small power of ten is its digits times
or over an exact power. That rounds once, so the result is the nearest float64 (Clinger, "How to
read floating point numbers accurately", 1990). Up to 18 digits over an exact power are divided in
twice the precision (Dekker, "A floating-point technique for extending the available precision",
1971), which decides nearly all. The others are only marked, and converted by numpy afterwards.

Shapes: B bytes of text, R rows, C numbers of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cops.solver._jit import jit, jit_pass

# What a line may be wrong with; the codes of `read_edges` and `read_costs`.
(GOOD, NO_NODE, LARGE_NODE, LOOP, NO_COST, NAN, TOO_LONG, TOO_SHORT) = range(8)
LARGEST_NODE = 2**30 - 2

_BLANK, _TAB, _RETURN, _NEWLINE = 32, 9, 13, 10
_ZERO, _NINE, _POINT, _PLUS, _MINUS, _HASH, _UNDERSCORE = 48, 57, 46, 43, 45, 35, 95
_LOWER = 32  # sets the bit that tells small letters from capitals
_A, _C, _E, _F, _I, _N, _Z = (ord(letter) for letter in "acefinz")
EXACT_DIGITS = 15  # fewer than 2^53
MOST_DIGITS = 18  # fewer than 2^63
# A quotient in twice the precision is off by less than this part of its lower half.
DOUBT = 2.0**-45
SPLITTER = 2.0**27 + 1.0
# Comments that begin with these words mean something (comments.py). So many are noted: two of a
# kind are one too many.
_WORDS = ("nodes", "partitionable")
MAX_COMMENTS = len(_WORDS) + 1
POWERS: npt.NDArray[np.float64] = np.array([10.0**n for n in range(23)])


class Scan(NamedTuple):
    """The state of a scan; changed in place.

    Attributes:
        place: (1,) int64, the next byte.
        line: (1,) int64, its line, from 1.
        value: (1,) float64, the last number.
        marks: (M, 3) int64, numbers to be converted later: index, first byte, byte behind.
        num_marks: (1,) int64.
        powers: (23,) float64, powers of ten.
        words: (2, 14) uint8, small letters that end in zeros: words that comments begin with.
        comments: (MAX_COMMENTS, 3) int64 of the first comments that do: the word's index, the byte
            behind it, the line.
        num_comments: (1,) int64, how many there are, with those for which there is no room.
    """

    place: npt.NDArray[np.int64]
    line: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    marks: npt.NDArray[np.int64]
    num_marks: npt.NDArray[np.int64]
    powers: npt.NDArray[np.float64]
    words: npt.NDArray[np.uint8]
    comments: npt.NDArray[np.int64]
    num_comments: npt.NDArray[np.int64]


def make_scan(num_numbers: int) -> Scan:
    """Begin at the first byte, with room for marks of so many numbers."""
    words = np.array(_WORDS, "S14").view(np.uint8).reshape(len(_WORDS), 14)
    return Scan(
        np.zeros(1, np.int64),
        np.ones(1, np.int64),
        np.zeros(1, np.float64),
        np.empty((num_numbers, 3), np.int64),
        np.zeros(1, np.int64),
        POWERS,
        words,
        np.empty((MAX_COMMENTS, 3), np.int64),
        np.zeros(1, np.int64),
    )


@jit
def count_lines(text):
    """Count the lines of a text, the last one with or without its end."""
    count = 1
    for i in range(text.size):
        count += text[i] == _NEWLINE
    return count


@jit_pass
def _skip_blanks(text, i):
    while i < text.size and (text[i] == _BLANK or text[i] == _TAB or text[i] == _RETURN):
        i += 1
    return i


@jit_pass
def _end_of_line(text, i):
    while i < text.size and text[i] != _NEWLINE:
        i += 1
    return i


@jit_pass
def _is_digit(text, i):
    return i < text.size and _ZERO <= text[i] <= _NINE


@jit_pass
def _ends_here(text, i):
    """Tell whether no character of a word follows."""
    return i >= text.size or (
        text[i] == _BLANK or text[i] == _TAB or text[i] == _RETURN or text[i] == _NEWLINE
    )


@jit_pass
def _note_comment(text, i, scan):
    """Note a comment that begins with one of the words; its mark is in front of byte i."""
    while i < text.size and (text[i] == _HASH or text[i] == _BLANK or text[i] == _TAB):
        i += 1
    for kind in range(scan.words.shape[0]):
        end = i
        # Each word ends in a zero at least, which no letter is.
        while end < text.size and text[end] | _LOWER == scan.words[kind, end - i]:
            end += 1
        if scan.words[kind, end - i] != 0:
            continue
        behind = text[end] | _LOWER if end < text.size else _BLANK
        if _A <= behind <= _Z or (end < text.size and text[end] == _UNDERSCORE):
            continue  # another word, such as "nodes_per_edge"
        number = scan.num_comments[0]
        if number < scan.comments.shape[0]:
            scan.comments[number, 0] = kind
            scan.comments[number, 1] = end
            scan.comments[number, 2] = scan.line[0]
        scan.num_comments[0] += 1
    return 0


@jit_pass
def find_row(text, scan):
    """Go to the first character of the next line that holds numbers.

    Blank lines and comments, which begin with "#" or "c", are passed over; see `_note_comment`.

    Returns:
        False at the end, and before a line that begins with another letter.
    """
    i = scan.place[0]
    while i < text.size:
        begin = i
        i = _skip_blanks(text, i)
        if i >= text.size:
            break
        first = text[i]
        letter = first | _LOWER
        if first == _NEWLINE:
            i += 1
            scan.line[0] += 1
        elif first in (_HASH, _C):
            _note_comment(text, i + 1, scan)
            i = _end_of_line(text, i) + 1
            scan.line[0] += 1
        elif _A <= letter <= _Z and letter != _I and letter != _N:
            scan.place[0] = begin
            return False
        elif letter == _N and i + 1 < text.size and text[i + 1] | _LOWER != _A:
            scan.place[0] = begin  # "NODE COSTS", not "nan"
            return False
        else:
            scan.place[0] = i
            return True
    scan.place[0] = text.size
    return False


@jit_pass
def _read_node(text, scan):
    """Read a node's number; return it, -1 if there is none, or -2 if it is too large."""
    i = scan.place[0]
    node = np.int64(0)
    begin = i
    while _is_digit(text, i):
        node = min(node * 10 + np.int64(text[i]) - _ZERO, LARGEST_NODE + 1)
        i += 1
    if i == begin or not _ends_here(text, i):
        return -1
    scan.place[0] = _skip_blanks(text, i)
    return -2 if node > LARGEST_NODE else node


@jit_pass
def _read_number(text, scan, index):
    """Read a number into `scan.value`, or mark it as that of this index.

    Returns:
        GOOD, NO_COST or NAN.
    """
    begin = i = scan.place[0]
    sign = 1.0
    if i < text.size and (text[i] == _PLUS or text[i] == _MINUS):
        sign = -1.0 if text[i] == _MINUS else 1.0
        i += 1
    if i + 2 < text.size and not _is_digit(text, i) and text[i] != _POINT:
        a, b, c = text[i] | _LOWER, text[i + 1] | _LOWER, text[i + 2] | _LOWER
        if not _ends_here(text, i + 3):
            return NO_COST
        if a == _N and b == _A and c == _N:
            return NAN
        if a == _I and b == _N and c == _F:
            scan.value[0] = sign * np.inf
            scan.place[0] = _skip_blanks(text, i + 3)
            return GOOD
        return NO_COST
    digits = np.int64(0)
    count = 0  # digits from the first one that is no zero on
    seen = 0
    behind = 0  # digits behind the point
    after = False
    while i < text.size and (_is_digit(text, i) or (text[i] == _POINT and not after)):
        if text[i] == _POINT:
            after = True
        else:
            seen += 1
            behind += 1 if after else 0
            if count > 0 or text[i] != _ZERO:
                count += 1
            if count <= MOST_DIGITS:
                digits = digits * 10 + np.int64(text[i]) - _ZERO
        i += 1
    if seen == 0:
        return NO_COST
    exponent = np.int64(0)
    if i < text.size and text[i] | _LOWER == _E:
        i += 1
        negative = i < text.size and text[i] == _MINUS
        if i < text.size and (text[i] == _PLUS or text[i] == _MINUS):
            i += 1
        if not _is_digit(text, i):
            return NO_COST
        while _is_digit(text, i):
            exponent = min(exponent * 10 + np.int64(text[i]) - _ZERO, 10000)
            i += 1
        exponent = -exponent if negative else exponent
    if not _ends_here(text, i):
        return NO_COST
    exponent -= behind
    known = True
    value = np.float64(0.0)
    if count <= EXACT_DIGITS and -22 <= exponent <= 22:
        power = scan.powers[abs(exponent)]
        value = digits / power if exponent < 0 else digits * power
    elif count <= MOST_DIGITS and -22 <= exponent <= 0:
        value, known = _divide(digits, scan.powers[-exponent])
    else:
        known = False
    if known:
        scan.value[0] = sign * value
    else:
        mark = scan.num_marks[0]
        scan.marks[mark, 0] = index
        scan.marks[mark, 1] = begin
        scan.marks[mark, 2] = i
        scan.num_marks[0] += 1
    scan.place[0] = _skip_blanks(text, i)
    return GOOD


@jit_pass
def _divide(digits, power):
    """Return the float64 that is nearest to the quotient, and False if that is too close a call."""
    high = np.float64(digits)
    low = np.float64(digits - np.int64(high))
    first = high / power
    # What the quotient leaves, exactly: first * power as a sum of two float64.
    product = first * power
    a = SPLITTER * first
    a = a - (a - first)
    b = SPLITTER * power
    b = b - (b - power)
    c, d = first - a, power - b
    error = ((a * b - product) + a * d + c * b) + c * d
    second = ((high - product) - error + low) / power
    lower = first + second * (1.0 - DOUBT)
    upper = first + second * (1.0 + DOUBT)
    return lower, lower == upper


@jit_pass
def _next_line(text, scan):
    """Go behind the end of the line; return whether nothing but that was left of it."""
    i = scan.place[0]
    if i < text.size and text[i] != _NEWLINE:
        return False
    scan.place[0] = i + 1
    scan.line[0] += 1
    return True


@jit_pass
def read_edges(text, scan, edges, costs):
    """Read lines of two nodes and a cost, up to a line that begins with a letter.

    Args:
        text: (B,) uint8.
        scan: at the beginning of a line; in front of what is wrong or comes next when this returns.
        edges: (R, 2) int32 with a row for each line that is left, filled from the front.
        costs: (R,) float64.

    Returns:
        What is wrong with the line, GOOD if nothing is; and the number of edges.
    """
    count = 0
    while find_row(text, scan):
        for side in range(2):
            node = _read_node(text, scan)
            if node < 0:
                return (NO_NODE if node == -1 else LARGE_NODE), count
            edges[count, side] = node
        if edges[count, 0] == edges[count, 1]:
            return LOOP, count
        fault = _read_number(text, scan, count)
        if fault != GOOD:
            return fault, count
        costs[count] = scan.value[0]
        if not _next_line(text, scan):
            return TOO_LONG, count
        count += 1
    return GOOD, count


@jit_pass
def count_numbers(text, scan):
    """Count the words of the line that the scan is in front of."""
    i = scan.place[0]
    count = 0
    while i < text.size and text[i] != _NEWLINE:
        count += 1
        while not _ends_here(text, i):
            i += 1
        i = _skip_blanks(text, i)
    return count


@jit_pass
def read_costs(text, scan, costs):
    """Read lines of C costs.

    Args:
        text: (B,) uint8.
        scan: as for `read_edges`.
        costs: (R, C) float64, R as large as there can be rows, filled from the front.

    Returns:
        What is wrong with the line, GOOD if nothing is; and the number of rows.
    """
    num_costs = costs.shape[1]
    count = 0
    while find_row(text, scan):
        for k in range(num_costs):
            if scan.place[0] >= text.size or text[scan.place[0]] == _NEWLINE:
                return TOO_SHORT, count
            fault = _read_number(text, scan, count * num_costs + k)
            if fault != GOOD:
                return fault, count
            costs[count, k] = scan.value[0]
        if not _next_line(text, scan):
            return TOO_LONG, count
        count += 1
    return GOOD, count


@jit_pass
def copy_words(text, marks, words):
    """Copy marked words into rows (M, W) of zeros; longer ones are left out."""
    for m in range(marks.shape[0]):
        length = marks[m, 2] - marks[m, 1]
        if length <= words.shape[1]:
            for i in range(length):
                words[m, i] = text[marks[m, 1] + i]
    return 0
