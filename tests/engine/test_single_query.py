"""One new token over a cache: against attention in float64, and no farther from it than SDPA."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from keeptune.engine import single_query
from keeptune.engine.single_query import attend_one, suits

ROWS, HEADS, GROUPS, KEYS, WIDTH = 5, 6, 3, 41, 16


def drawn(dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(3)
    shapes = ((ROWS, HEADS, 1, WIDTH), (ROWS, GROUPS, KEYS, WIDTH), (ROWS, GROUPS, KEYS, WIDTH))
    return [2 * torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def seen():
    """Row r does not see its first 3 r keys."""
    return (torch.arange(KEYS) >= 3 * torch.arange(ROWS)[:, None])[:, None, None]


def masks():
    return {
        "none": None,
        "boolean": seen(),
        "one for all": seen()[2:3],
        "added": torch.zeros(ROWS, 1, 1, KEYS, dtype=torch.bfloat16).masked_fill(~seen(), -3.38e38),
    }


def exact(query, key, value, mask, scale=None):
    """By definition, in float64: (B, 1, H, K)."""
    query, key, value = (x.double() for x in (query, key, value))
    found = torch.empty(ROWS, 1, HEADS, WIDTH, dtype=torch.float64)
    for row in range(ROWS):
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            scores = key[row, group] @ query[row, head, 0] * (WIDTH**-0.5 if scale is None else scale)
            if mask is not None:
                own = mask.expand(ROWS, -1, -1, -1)[row, 0, 0]
                scores = scores.masked_fill(~own, -torch.inf) if own.dtype == torch.bool else scores + own.double()
            found[row, 0, head] = torch.softmax(scores, 0) @ value[row, group]
    return found


@pytest.mark.parametrize("at_a_time", [1, 2 * GROUPS * KEYS * WIDTH, 2**18])
@pytest.mark.parametrize("kind", masks())
def test_it_is_attention_whatever_the_mask_and_the_rows_at_a_time(kind, at_a_time, monkeypatch):
    monkeypatch.setattr(single_query, "WIDENED", at_a_time)
    query, key, value = drawn()
    mask = masks()[kind]
    found = attend_one(query, key, value, mask, 0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact(query, key, value, mask, 0.3), rtol=2**-8, atol=1e-6)


def test_it_is_no_farther_from_the_exact_value_than_sdpa():
    query, key, value = drawn()
    expected = exact(query, key, value, seen())
    own = attend_one(query, key, value, seen(), None).double() - expected
    kernel = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen(), enable_gqa=True)
    assert own.norm() <= 1.05 * (kernel.transpose(1, 2).double() - expected).norm()


def test_views_of_a_longer_buffer_are_read_as_they_are():
    query, key, value = drawn()
    longer = [functional.pad(x, (0, 0, 0, 9), value=torch.nan)[:, :, :KEYS] for x in (key, value)]
    assert torch.equal(attend_one(query, *longer, None, None), attend_one(query, key, value, None, None))


def test_only_a_single_query_in_16_bits_without_a_gradient_suits():
    query = drawn()[0]
    with torch.no_grad():
        assert suits(query, 0.0)
        assert not suits(query.expand(-1, -1, 2, -1), 0.0)
        assert not suits(query.float(), 0.0)
        assert not suits(query, 0.1)
    assert not suits(query, 0.0)
