r"""Softmax cross-entropy with label smoothing.

With logits $z$, probabilities $p = \mathrm{softmax}(z)$ and targets $t$ (for a smoothing $\alpha$
and $K$ classes, $1 - \alpha + \alpha/K$ at the label and $\alpha/K$ elsewhere),

$$ L = -\frac1N \sum_n \sum_k t_{nk} \log p_{nk}, \qquad
   \frac{\partial L}{\partial z_{nk}} = \frac{p_{nk} - t_{nk}}{N} $$

Source: Szegedy et al. 2015, "Rethinking the Inception architecture", section 7.
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, accumulation_dtype, array_module, operation


class CrossEntropyCache(NamedTuple):
    """The probabilities and the targets, both (N, K), and the dtype that the logits came in."""

    probabilities: Array
    targets: Array
    like: Array


@operation
def cross_entropy_forward(
    logits: Array, labels: Array, label_smoothing: float = 0.0
) -> tuple[Array, CrossEntropyCache]:
    """The mean loss over the batch, a 0-d array on the device, and the cache.

    logits: (N, K) float; labels: (N,) int, each from 0 to K - 1. The largest logit of each row is
    subtracted first: the probabilities stay the same and no exponential overflows.
    """
    xp = array_module(logits)
    n, k = logits.shape
    dtype = accumulation_dtype(logits.dtype)
    targets = xp.full((n, k), label_smoothing / k, dtype=dtype)
    targets[xp.arange(n), labels] += 1.0 - label_smoothing
    return _loss_of(logits, targets)


@operation
def soft_cross_entropy_forward(
    logits: Array, shares: Array, label_smoothing: float = 0.0
) -> tuple[Array, CrossEntropyCache]:
    """`cross_entropy_forward` for images that belong to several classes, as mixup makes them.

    logits: (N, K) float; shares: (N, K) float, each row sums to 1. The targets are
    (1 - alpha) * shares + alpha / K. `cross_entropy_backward` takes the cache.
    """
    dtype = accumulation_dtype(logits.dtype)
    targets = shares.astype(dtype) * (1.0 - label_smoothing)
    targets += label_smoothing / logits.shape[1]
    return _loss_of(logits, targets)


def _loss_of(logits: Array, targets: Array) -> tuple[Array, CrossEntropyCache]:
    """The mean cross-entropy of `logits` against `targets`, both (N, K)."""
    xp = array_module(logits)
    z = logits.astype(targets.dtype, copy=False)
    z = z - z.max(axis=1, keepdims=True)
    exponentials = xp.exp(z)
    total = exponentials.sum(axis=1, keepdims=True)
    loss = -(targets * (z - xp.log(total))).sum() / len(logits)
    return xp.asarray(loss), CrossEntropyCache(exponentials / total, targets, logits)


@operation
def count_batch(logits: Array, labels: Array, loss: Array, totals: Array) -> None:
    """totals[0] += N * loss, totals[1] += the number of images whose largest logit is the label's.

    logits: (N, K); labels: (N,), or shares of the classes (N, K), of which the largest counts;
    loss: 0-d, the mean; totals: float64 (2,), changed in place.
    """
    main = labels if labels.ndim == 1 else labels.argmax(axis=1)
    totals[0] += loss.astype(totals.dtype) * len(labels)
    totals[1] += (logits.argmax(axis=1) == main).sum()


@operation
def cross_entropy_backward(cache: CrossEntropyCache) -> Array:
    """grad_logits (N, K) = (probabilities - targets) / N."""
    grad = (cache.probabilities - cache.targets) / cache.targets.shape[0]
    return grad.astype(cache.like.dtype, copy=False)
