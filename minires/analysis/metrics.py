"""What can be counted in a table of answers: confusion, calibration, the best k.

Everything here takes and gives host arrays: scores or probabilities (N, K), labels int64 (N,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z_k) / sum_j exp(z_j), float64 (N, K)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=1, keepdims=True)


def confusion_matrix(labels: np.ndarray, answers: np.ndarray, num_classes: int) -> np.ndarray:
    """How many images of class i (row) were taken for class j (column), int64 (K, K)."""
    pairs = labels * num_classes + answers
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of images whose class is among the k best; of equal scores the first counts more.

    So k = 1 is the accuracy of `argmax`.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    better = (scores > own) | ((scores == own) & earlier)
    return float((better.sum(axis=1) < k).mean())


@dataclass(frozen=True)
class Calibration:
    """How confidence and accuracy agree, in bins of equal width from 0 to 1.

    `edges` float64 (B + 1,); `counts` int64 (B,); `confidence` and `accuracy` float64 (B,), the
    means over a bin's images, NaN where it has none. `ece` is the expected calibration error.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Calibration:
    """ECE = sum_b n_b / N |accuracy_b - confidence_b|, over the bins (e_b, e_(b+1)].

    confidence: the probability of each answer, (N,); correct: bool (N,). Source: Guo, Pleiss, Sun
    and Weinberger 2017, "On calibration of modern neural networks", section 2.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    sums = np.bincount(bin_of, weights=confidence, minlength=bins)
    hits = np.bincount(bin_of, weights=correct.astype(np.float64), minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = sums / counts, hits / counts
    ece = float(np.abs(hits - sums).sum() / len(confidence))
    return Calibration(edges, counts, mean_confidence, accuracy, ece)


def wilson_interval(hits: np.ndarray, trials: np.ndarray, z: float = 1.96) -> tuple:
    """Where a share lies with 95% confidence (for z = 1.96), two float64 arrays; 0 to 1 for none.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    n = np.maximum(trials, 1)
    share = hits / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    known = trials > 0
    low = np.where(known, np.maximum(center - half, 0), 0.0)
    return low, np.where(known, np.minimum(center + half, 1), 1.0)
