"""Every page of the documents keeps its promises: code, outputs, links, figures, exercises."""

from __future__ import annotations

import pytest
from tools import exercises, figures, includes, links, snippets, tables
from tools.pages import name_of, pages

PAGES = [name_of(page) for page in pages()]
BREAKS = exercises.breaks()


def read(name):
    (page,) = [page for page in pages() if name_of(page) == name]
    return page, page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_included_code_and_tables_are_current(name):
    _, text = read(name)
    assert includes.refresh(text, name) == text, f"{name}: run python docs/make.py"
    assert tables.refresh(text, name) == text, f"{name}: run python docs/make.py"


@pytest.mark.parametrize("name", PAGES)
def test_snippets_run_and_print_what_the_page_shows(name):
    _, text = read(name)
    assert snippets.refresh(text, name) == text, f"{name}: run python docs/make.py"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere_and_formulas_survive(name):
    page, _ = read(name)
    assert links.problems(page) == []


def test_every_figure_is_shown_and_newer_than_its_code():
    assert figures.problems() == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    exercises.copy_project(folder)
    return folder


def test_a_change_planted_in_the_package_is_seen(copy):
    name = "docs/06-both-gradients-of-a-convolution.md"
    _, text = read(name)
    assert includes.refresh(text, name, copy) == text
    path = copy / "minires" / "functional" / "conv.py"
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace("inner = padded[", "inside = padded["), encoding="utf-8")
    changed = includes.refresh(text, name, copy)
    path.write_text(source, encoding="utf-8")
    assert changed.count("inside = padded[") == text.count("inner = padded[") == 2


@pytest.mark.parametrize("exercise", BREAKS, ids=[one.where for one in BREAKS])
def test_the_tests_that_an_exercise_names_fail(exercise, copy):
    assert exercises.problem(exercise, copy) is None
