"""Eight bytes a digest: what it answers is what a set of Python's would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keeptune.data import digest_set
from keeptune.data.digest_set import DigestSet

DIGESTS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


@given(digests=st.lists(DIGESTS, max_size=40), recent=st.integers(1, 5))
def test_a_digest_is_new_once(digests, recent):
    held, seen = DigestSet(), set()
    old, digest_set.RECENT = digest_set.RECENT, recent
    try:
        for digest in digests:
            assert held.add(digest) == (digest not in seen)
            seen.add(digest)
        assert len(held._sorted) + len(held._recent) == len(seen)
        assert len(held._recent) < recent
    finally:
        digest_set.RECENT = old
