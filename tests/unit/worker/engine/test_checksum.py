"""Checksums of tensors: every bit counts, and storage does not."""

from __future__ import annotations

import pytest
import torch

from apbmm_worker.engine.checksum import checksum

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3,), (7, 5), (64, 300), (1021, 16), (2050, 129)])
def test_every_bit_counts(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    source = torch.Generator().manual_seed(1)
    tensor = torch.randn(*shape, generator=source).to(dtype)
    before = checksum(tensor)
    assert checksum(tensor.clone()) == before
    for place in {0, tensor.numel() // 2, tensor.numel() - 1}:
        for bit in (1, 128):
            other = tensor.clone()
            other.view(-1).view(torch.uint8)[place * tensor.element_size()] ^= bit
            assert checksum(other) != before


def test_the_order_counts() -> None:
    tensor = torch.arange(3000 * 64, dtype=torch.float32).view(3000, 64)
    sums = {checksum(tensor)}
    for other in (tensor.roll(1, 0), tensor.roll(1, 1), tensor.roll(1000, 0), tensor.flip(0)):
        sums.add(checksum(other))
    assert len(sums) == 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_storage_does_not_count(dtype: torch.dtype) -> None:
    """Rows of a larger tensor, wherever they begin, and a transposed copy."""
    whole = torch.randn(50, 33, generator=torch.Generator().manual_seed(2)).to(dtype)
    for first in range(5):
        rows = whole[first : first + 20]
        assert checksum(rows) == checksum(rows.clone())
    assert checksum(whole.T) == checksum(whole.T.contiguous())
