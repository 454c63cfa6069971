"""kexue_lib.positions: digits are exact, complete, and those of the number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE

import kexue_lib.positions as P

pytestmark = pytest.mark.filterwarnings("error")


def by_definition(n, radices):
    """⌊n / (β_1⋯β_{m−1})⌋ mod β_m, in Python's integers."""
    return [n // math.prod(radices[:m]) % radices[m] for m in range(len(radices))]


RADICES = st.lists(st.integers(2, 50), min_size=1, max_size=30)


@settings(deadline=None, max_examples=100)
@given(RADICES, st.data())
def test_digits_are_those_of_the_definition_and_give_the_number_back(radices, data):
    n = data.draw(st.integers(0, math.prod(radices) - 1))
    found = P.mixed_radix_digits(n, radices)
    assert found.dtype == torch.int64
    assert found.tolist() == by_definition(n, radices)
    if n < 2**63:
        tensor = torch.tensor([[n, 0]], device=DEVICE)
        each = P.mixed_radix_digits(tensor, radices)
        assert each.shape == (1, 2, len(radices))
        assert each[0].tolist() == [by_definition(n, radices), [0] * len(radices)]
        assert P.number_from_digits(each, radices).tolist() == [[n, 0]]
        assert tensor.tolist() == [[n, 0]]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 10**6), st.integers(1, 12), st.data())
def test_one_base_is_a_mixed_radix_with_equal_radices(base, count, data):
    n = data.draw(st.integers(0, base**count - 1))
    assert P.digits(n, base, count).tolist() == by_definition(n, [base] * count)


def test_the_example_of_the_post():  # D11
    assert P.digits(1749, 10, 4).tolist()[::-1] == [1, 7, 4, 9]
    assert P.digits(1749, 16, 3).tolist()[::-1] == [6, 13, 5]
    with pytest.raises(ValueError, match="n=1749 does not fit into 3 digits"):
        P.digits(1749, 10, 3)
    assert 12**3 < 2000 <= 13**3  # the smallest base with three digits for 2000
    assert P.digits(1999, 13, 3).tolist()[::-1] == [11, 10, 10]
    with pytest.raises(ValueError, match="n=1999 does not fit"):
        P.digits(1999, 12, 3)


def test_largest_integers_are_exact():
    largest = 2**63 - 1  # where float64 has lost 10 bits
    for n in (largest, largest - 1, 2**53 + 1):
        for base in (2, 7, 10, 2**31):
            want = by_definition(n, [base] * 63)
            assert P.digits(n, base, 63).tolist() == want
            assert P.digits(torch.tensor(n, device=DEVICE), base, 63).tolist() == want
            assert P.number_from_digits(P.digits(n, base, 63), base).item() == n
    assert P.digits(10**30 + 7, 10, 31).tolist() == [7, *[0] * 29, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_small_integers_may_be_narrow(dtype):
    assert P.digits(torch.tensor([200], dtype=torch.uint8).to(dtype), 10, 12)[0, :3].tolist() == [0, 0, 2]


def test_mixed_digits_are_the_indices_of_an_array():
    radices = (60, 60, 24, 7)
    n = torch.arange(0, math.prod(radices), 997, device=DEVICE)
    indices = torch.unravel_index(n, radices[::-1])  # the last index runs fastest
    assert torch.equal(P.mixed_radix_digits(n, radices), torch.stack(indices[::-1], dim=-1))


def test_no_number_has_no_digits():
    assert P.digits(torch.zeros(0, 3, dtype=torch.int64), 10, 4).shape == (0, 3, 4)


def test_digits_compile():
    torch._dynamo.reset()
    n = torch.arange(2000, device=DEVICE)
    f = torch.compile(lambda n: P.digits(n, 13, 3), fullgraph=True, backend="eager")
    assert torch.equal(f(n), P.digits(n, 13, 3))
    assert torch.equal(P.number_from_digits(f(n), 13), n)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: P.digits(1749.0, 10, 4), TypeError, r"n=1749\.0"),
        (lambda: P.digits(torch.tensor(1749.0), 10, 4), TypeError, "float32"),
        (lambda: P.digits(torch.tensor(True), 10, 4), TypeError, "bool"),
        (lambda: P.digits(-1, 10, 4), ValueError, "n=-1 is negative"),
        (lambda: P.digits(torch.tensor([5, -1]), 10, 4), ValueError, "n=-1 is negative"),
        (lambda: P.digits(torch.tensor([5, 100]), 10, 2), ValueError, "n=100 does not fit into 2 digits"),
        (lambda: P.digits(5, 1, 4), ValueError, "base=1"),
        (lambda: P.digits(5, 2.5, 4), ValueError, r"base=2\.5"),
        (lambda: P.digits(5, 2**63, 4), ValueError, "base="),
        (lambda: P.digits(5, 10, 0), ValueError, "count=0"),
        (lambda: P.digits(5, 10, True), ValueError, "count=True"),
        (lambda: P.mixed_radix_digits(5, []), ValueError, "radices is empty"),
        (lambda: P.mixed_radix_digits(5, [10, 1]), ValueError, r"radices\[1\]=1"),
        (lambda: P.number_from_digits(torch.ones(3), 10), TypeError, "float32"),
        (lambda: P.number_from_digits([1, 2], 10), TypeError, "list"),
        (lambda: P.number_from_digits(torch.tensor(1), 10), ValueError, "no axis"),
        (lambda: P.number_from_digits(torch.ones(3, dtype=torch.int64), [10, 10]), ValueError, "2 places.*3 digits"),
    ],
)
def test_digits_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()
