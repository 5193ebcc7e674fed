"""What pictures say, where that is more than drawing: edges, orders, colours."""

from __future__ import annotations

import numpy as np
import pytest

from minires.analysis.pictures.classes import class_records, draw_classes
from minires.analysis.pictures.confusion import draw_confusion, most_confused
from minires.analysis.pictures.filters import in_colour
from minires.analysis.pictures.mistakes import draw_mistakes, surest_mistakes
from minires.analysis.pictures.overlay import overlay
from minires.analysis.pictures.style import THEMES, ink_on, themed
from minires.analysis.predictions import Predictions
from minires.data import Dataset
from minires.errors import UsageError

NAMES = ("cat", "dog", "owl")


def predictions(logits, labels):
    images = np.zeros((len(labels) + 3, 3, 32, 32), dtype=np.uint8)
    all_labels = np.concatenate([[0, 0, 0], labels])
    dataset = Dataset("test", images, all_labels, NAMES)
    return Predictions(dataset, "test", np.arange(3, len(all_labels)), np.array(logits, float))


LOGITS = [[9, 0, 0], [0, 1, 0], [0, 0, 5], [0, 3, 0], [0, 0, 1]]
LABELS = [0, 0, 1, 2, 2]


def test_what_follows_from_logits():
    answers = predictions(LOGITS, LABELS)
    assert answers.answers.tolist() == [0, 1, 2, 1, 2]
    assert answers.correct.tolist() == [True, False, False, False, True]
    assert answers.accuracy == 0.4
    assert answers.confusion.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 1]]
    assert answers.confidence[2] == pytest.approx(np.exp(5) / (np.exp(5) + 2))


def test_the_surest_mistake_comes_first():
    answers = predictions(LOGITS, LABELS)
    assert surest_mistakes(answers, 9).tolist() == [2, 3, 1]
    assert surest_mistakes(answers, 2).tolist() == [2, 3]
    with themed() as theme:
        figure = draw_mistakes(theme, answers, "title", 2)
    assert [a.get_title() for a in figure.axes[:3]] == ["owl 98.7%", "dog 90.9%", ""]
    assert [a.get_xlabel() for a in figure.axes[:3]] == ["dog", "owl", ""]


def test_no_mistake_is_no_picture():
    with themed() as theme, pytest.raises(UsageError, match="--split test: every answer is right"):
        draw_mistakes(theme, predictions(LOGITS[:1], LABELS[:1]), "title")


def test_the_most_frequent_confusions():
    matrix = np.array([[50, 0, 3], [7, 40, 0], [3, 0, 60]])
    expected = [("dog", "cat", 7), ("cat", "owl", 3), ("owl", "cat", 3)]
    assert most_confused(matrix, NAMES) == expected
    assert most_confused(matrix, NAMES, 1) == expected[:1]


def test_a_class_without_images_or_answers():
    matrix = np.array([[4, 0, 1], [0, 0, 0], [0, 0, 5]])
    records = class_records(matrix, NAMES)
    assert [record["accuracy"] for record in records] == [0.8, None, 1.0]
    assert [record["precision"] for record in records] == [1.0, None, 5 / 6]
    with themed("dark") as theme:
        draw_classes(theme, matrix, NAMES, "title")
        figure = draw_confusion(theme, matrix, NAMES, "title")
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1", "4", "5", "title"]


def test_filters_are_grey_at_zero():
    colours = in_colour(np.array([[[-2.0, 0.0, 1.0]]]), 2.0)
    assert colours.ravel().tolist() == [0, 128, 191]


def test_no_heat_leaves_the_image_and_full_heat_hides_most_of_it():
    image = np.full((3, 16, 16), 90, dtype=np.uint8)
    assert (overlay(image, np.zeros((4, 4))) == 90).all()
    hot = overlay(image, np.ones((4, 4)))
    assert hot.shape == (16, 16, 3) and (hot[:, :, 0] > 180).all()
    corner = np.zeros((4, 4))
    corner[0, 3] = 1.0
    changed = np.abs(overlay(image, corner).astype(int) - 90).sum(axis=2)
    assert np.unravel_index(changed.argmax(), changed.shape)[0] < 4
    assert (changed[8:, :8] == 0).all() and (changed[:4, 12:] > 0).all()


def luminance(color):
    channels = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """The ratio of the Web Content Accessibility Guidelines."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", THEMES)
def test_words_and_lines_stand_out_from_the_background(name):
    theme = THEMES[name]
    assert contrast(theme.ink, theme.paper) > 7 and contrast(theme.muted, theme.paper) > 4.5
    for color in (theme.right, theme.wrong):
        assert contrast(color, theme.paper) > 3
    assert len(set(theme.series)) == len(theme.series) >= 6


@pytest.mark.parametrize("color", ["#000000", "#0072b2", "#d55e00", "#f0e442", "#808080"])
def test_ink_can_be_read_on_any_colour(color):
    assert contrast(ink_on(color), color) > 4
