from __future__ import annotations

import pytest
import torch

from tuneledger.learn.packed.dropout import Masks, add_dropped, dropped, masked, survival

MANY = (1000, 1000)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


class TestMasks:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1 / 32768])
    def test_a_share_of_p_is_dropped_at_each_place_of_a_word(self, p):
        keep = Masks().draw(MANY, p)
        assert keep.shape == MANY and set(keep.unique().tolist()) <= {0, -1}
        lanes = (keep == 0).view(-1, 4).double()
        share = 1 - survival(p)
        assert share == pytest.approx(p, abs=1 / 65536)
        spread = (share * (1 - share) / len(lanes)) ** 0.5
        assert (lanes.mean(dim=0) - share).abs().max() < 4.5 * spread

    def test_neighbours_and_following_masks_are_independent(self):
        masks = Masks()
        one, two = ((masks.draw(MANY, 0.5) == 0).double().flatten() - 0.5 for _ in range(2))
        bound = 4.5 * 0.25 / len(one) ** 0.5
        assert (one * two).mean().abs() < bound
        for distance in (1, 2, 3, 4, 8, 1000):
            assert (one[distance:] * one[:-distance]).mean().abs() < bound

    def test_they_follow_from_torchs_seed(self):
        def draw() -> list[torch.Tensor]:
            masks = Masks()
            return [masks.draw((9, 7), 0.5) for _ in range(3)]

        first, second = draw(), draw()
        torch.manual_seed(7)
        again = draw()
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0], first[1])

    def test_none_and_nearly_all(self):
        assert (Masks().draw((5, 3), 0.0) == -1).all()
        assert (Masks().draw((5, 3), 0.999999) == 0).all()
        assert survival(0.999999) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
class TestDropped:
    def test_masked_is_the_value_or_zero(self, dtype):
        values = torch.randn(50, 7).to(dtype)
        keep = Masks().draw((50, 7), 0.5)
        assert torch.equal(masked(values, keep), torch.where(keep.bool(), values, 0))

    def test_values_are_scaled_so_that_the_mean_stays(self, dtype):
        values = torch.ones(MANY, dtype=dtype)
        result = dropped(values, 0.1, Masks())
        assert result.dtype == dtype
        assert set(result.unique().tolist()) == {0.0, (torch.tensor(1 / survival(0.1)).to(dtype)).item()}
        assert result.double().mean() == pytest.approx(1, abs=0.004)

    def test_without_probability_it_is_a_sum_and_draws_nothing(self, dtype):
        values, residual = torch.randn(2, 50, 7).to(dtype)
        assert torch.equal(add_dropped(residual, values, 0.0, None), residual + values)

    def test_the_gradient_goes_where_the_value_came_from(self, dtype):
        residual = torch.randn(50, 7, requires_grad=True)
        values = torch.randn(50, 7).to(dtype).requires_grad_()
        result = add_dropped(residual, values, 0.5, Masks())
        assert result.dtype == torch.float32
        weights = torch.randn(50, 7)
        (result * weights).sum().backward()
        kept = (result != residual).detach()
        assert 0.3 < kept.double().mean() < 0.7
        assert torch.equal(residual.grad, weights)
        assert values.grad.dtype == dtype
        torch.testing.assert_close(values.grad, torch.where(kept, 2 * weights, 0).to(dtype))
