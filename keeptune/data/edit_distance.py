"""Levenshtein distance: the fewest letters to put in, take out or replace."""

from __future__ import annotations


def edit_distance(a: str, b: str) -> int:
    """The distance of two texts, a row of the table at a time: O(len(a)) steps on vectors of len(b).

    d[i, j] = min(d[i-1, j] + 1, d[i, j-1] + 1, d[i-1, j-1] + (a_i != b_j)); the middle term runs along the row, and
    becomes a running minimum of d[i, j] - j.

    >>> edit_distance("kitten", "sitting"), edit_distance("", "abc")
    (3, 3)
    """
    import numpy as np

    letters = np.frombuffer(b.encode("utf-32-le"), dtype=np.uint32)
    places = np.arange(len(letters) + 1)
    row = places.copy()
    for i, letter in enumerate(a, start=1):
        replaced = row[:-1] + (letters != ord(letter))
        row = np.concatenate([[i], np.minimum(row[1:] + 1, replaced)])
        row = np.minimum.accumulate(row - places) + places
    return int(row[-1])
