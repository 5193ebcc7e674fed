"""Mixup and cutmix against a loop over images and pixels, the draws, and the soft loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minires.functional.loss import cross_entropy_backward, soft_cross_entropy_forward
from minires.functional.mixing import (
    Mixing,
    beta_table,
    cutmix,
    draw_mixing,
    mixed_targets,
    mixup,
)

SIZE = (6, 9)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(50, 3, *SIZE)).astype(np.float32)
INDICES = RNG.permutation(1000)[:50]


def drawn(up, cut, taken=1.0, indices=INDICES, epoch=2, size=SIZE):
    tables = [None if alpha is None else beta_table(alpha) for alpha in (up, cut)]
    return draw_mixing(7, epoch, indices, *tables, size, taken)


def test_mixup_against_a_loop():
    mixing = drawn(1.0, None)
    y = mixup(IMAGES, IMAGES[mixing.partner], mixing.blend)
    assert y.dtype == np.float32
    for b in range(50):
        share = float(mixing.blend[b])
        expected = share * IMAGES[b] + (1 - share) * IMAGES[mixing.partner[b]]
        np.testing.assert_allclose(y[b], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mixing.share, mixing.blend)
    assert not mixing.boxes.any()


def test_cutmix_against_a_loop_over_pixels():
    mixing = drawn(None, 1.0)
    y = cutmix(IMAGES, IMAGES[mixing.partner], mixing.boxes)
    assert (mixing.blend == 1).all()
    for b in range(50):
        top, bottom, left, right = mixing.boxes[b]
        pasted = 0
        for i in range(SIZE[0]):
            for j in range(SIZE[1]):
                inside = top <= i < bottom and left <= j < right
                source = IMAGES[mixing.partner[b]] if inside else IMAGES[b]
                np.testing.assert_array_equal(y[b, :, i, j], source[:, i, j])
                pasted += inside
        assert mixing.share[b] == pytest.approx(1 - pasted / (SIZE[0] * SIZE[1]), abs=1e-6)
    assert (mixing.boxes[:, 1] > mixing.boxes[:, 0]).any()


def test_boxes_have_the_area_that_was_drawn_where_they_fit():
    mixing = drawn(None, 1.0, indices=np.arange(20_000), size=(32, 32))
    heights, widths = (mixing.boxes[:, i + 1] - mixing.boxes[:, i] for i in (0, 2))
    assert (mixing.boxes >= 0).all() and (mixing.boxes <= 32).all()
    free = (mixing.boxes[:, 0] > 0) & (mixing.boxes[:, 1] < 32) & (mixing.boxes[:, 2] > 0)
    free &= mixing.boxes[:, 3] < 32
    np.testing.assert_array_equal(heights[free], widths[free])
    assert heights.max() == 32 or heights.max() == 30
    assert 0.6 < mixing.share.mean() < 0.75  # half, and what the borders cut off


def test_boxes_are_centred_on_every_pixel_alike_and_cut_off_at_the_border():
    quarter = np.full(4096, 0.75, np.float32)  # the side of a box is half of the image's
    mixing = draw_mixing(1, 2, np.arange(8_000), None, quarter, (8, 8))
    for start in (0, 2):
        boxes, counts = np.unique(mixing.boxes[:, start : start + 2], axis=0, return_counts=True)
        expected = [[max(center - 2, 0), min(center + 2, 8)] for center in range(8)]
        np.testing.assert_array_equal(boxes, sorted(expected))
        assert (abs(counts - 1_000) < 5 * 30).all()  # five standard deviations


def test_every_image_has_another_one_as_partner_and_each_serves_once():
    for count in (2, 3, 50):
        partner = drawn(1.0, None, indices=INDICES[:count]).partner
        assert sorted(partner) == list(range(count))
        assert (partner != np.arange(count)).all()
    assert drawn(1.0, None, indices=INDICES[:1]).partner.tolist() == [0]


def test_draws_depend_on_seed_epoch_and_image_alone():
    mixing = drawn(0.4, 1.0)
    order = np.random.default_rng(1).permutation(50)
    again = drawn(0.4, 1.0, indices=INDICES[order])
    for ours, theirs in zip(again[1:], mixing[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs[order])
    np.testing.assert_array_equal(INDICES[order][again.partner], INDICES[mixing.partner][order])
    assert (drawn(0.4, 1.0, epoch=3).share == mixing.share).mean() < 0.2


def test_both_at_once_take_half_each_and_some_are_left_alone():
    mixing = drawn(1.0, 1.0, taken=0.6, indices=np.arange(10_000), size=(32, 32))
    blended = mixing.blend < 1
    pasted = (mixing.boxes[:, 1] > mixing.boxes[:, 0]) & (mixing.boxes[:, 3] > mixing.boxes[:, 2])
    assert not (blended & pasted).any()
    assert abs(blended.mean() - 0.3) < 0.02
    assert 0.24 < pasted.mean() < 0.32  # the smallest boxes are empty
    assert (drawn(1.0, 1.0, taken=0.0).share == 1).all()


def test_targets_name_both_labels():
    mixing = Mixing(np.array([1, 2, 0]), None, None, np.array([0.75, 0.25, 1], np.float32))
    targets = mixed_targets(np.array([2, 0, 0]), mixing, 4)
    assert targets.dtype == np.float32
    assert targets.tolist() == [[0.25, 0, 0.75, 0], [1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 100.0])
def test_the_table_has_the_moments_of_the_beta_distribution(alpha):
    table = beta_table(alpha).astype(np.float64)
    assert table.shape == (4096,) and (np.diff(table) >= 0).all()
    assert table[0] >= 0 and table[-1] <= 1
    assert table.mean() == pytest.approx(0.5, abs=1e-6)
    assert table.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=2e-3)


def test_the_table_has_quantiles_known_in_closed_form():
    p = (np.arange(4096) + 0.5) / 4096
    np.testing.assert_allclose(beta_table(1.0), p, atol=1e-6)
    np.testing.assert_allclose(beta_table(0.5), np.sin(math.pi * p / 2) ** 2, atol=1e-6)
    x = beta_table(2.0).astype(np.float64)
    np.testing.assert_allclose(3 * x**2 - 2 * x**3, p, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_soft_loss_is_torch_s(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    logits = 3 * rng.normal(size=(7, 5))
    shares = rng.dirichlet(np.ones(5), 7)
    twin = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        twin, torch.tensor(shares), label_smoothing=smoothing
    )
    expected.backward()
    loss, cache = soft_cross_entropy_forward(logits, shares, smoothing)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(cross_entropy_backward(cache), twin.grad.numpy(), rtol=1e-10)
    half, _ = soft_cross_entropy_forward(logits.astype(np.float16), shares.astype(np.float32))
    assert half.dtype == np.float32


def test_the_gradient_of_the_soft_loss_is_that_of_central_differences():
    rng = np.random.default_rng(5)
    logits, shares = rng.normal(size=(3, 4)), rng.dirichlet(np.ones(4), 3)
    gradient = cross_entropy_backward(soft_cross_entropy_forward(logits, shares, 0.1)[1])
    for index in np.ndindex(3, 4):
        step = np.zeros((3, 4))
        step[index] = 1e-5
        losses = [
            float(soft_cross_entropy_forward(logits + sign * step, shares, 0.1)[0])
            for sign in (1, -1)
        ]
        difference = (losses[0] - losses[1]) / 2e-5
        assert gradient[index] == pytest.approx(difference, rel=1e-5, abs=1e-8)
