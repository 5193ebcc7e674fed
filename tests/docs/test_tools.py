"""The tools that keep the documents in step: each notices what it is there to notice."""

from __future__ import annotations

import numpy as np
import pytest
from tools import exercises, figures, includes, links, snippets
from tools.pages import DocumentError, prose

SOURCE = '''\
"""A module."""

SIZE = 3


@decorated
def double(x):
    """Twice x."""
    # plain
    y = 2 * x

    return y


class Box:
    """Holds one thing."""

    thing: int = 0

    def open(self):
        return self.thing
'''


# --- included code --------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(SOURCE)
    return tmp_path


def included(marker, root):
    return includes.refresh(f"<!-- code: {marker} -->\n<!-- end code -->\n", "docs/01.md", root)


def test_a_function_comes_with_its_decorator_and_a_link(project):
    text = included("package.module:double", project)
    assert "[`package/module.py`](../package/module.py):\n\n```python\n@decorated\n" in text
    assert text.endswith("    return y\n```\n<!-- end code -->\n")
    assert includes.refresh(text, "docs/01.md", project) == text


def test_docstrings_can_be_left_out(project):
    text = included("package.module:double no docstring", project)
    assert "Twice" not in text and "def double(x):\n    # plain\n" in text
    assert "class Box:\n    thing: int = 0\n" in included(
        "package.module:Box no docstring", project
    )


def test_constants_methods_and_several_names(project):
    text = included("package.module:SIZE, Box.open", project)
    assert "SIZE = 3\n\n\ndef open(self):\n    return self.thing\n" in text


def test_a_part_of_a_function(project):
    text = included('package.module:double from "# plain" to "y = 2"', project)
    assert "```python\n# plain\ny = 2 * x\n```" in text


def test_a_planted_change_is_seen_until_the_page_is_made_anew(project):
    before = included("package.module:double", project)
    path = project / "package" / "module.py"
    path.write_text(SOURCE.replace("2 * x", "3 * x"))
    after = includes.refresh(before, "docs/01.md", project)
    assert after != before and "3 * x" in after
    assert includes.refresh(after, "docs/01.md", project) == after


@pytest.mark.parametrize(
    "marker, complaint",
    [
        ("package.module:triple", "no triple"),
        ("package.nothing:double", "there is no package/nothing.py"),
        ('package.module:double from "absent" to "y"', "no line with 'absent'"),
    ],
)
def test_what_cannot_be_included_is_named(project, marker, complaint):
    with pytest.raises(DocumentError, match=f"docs/01.md:1: .*{complaint}"):
        included(marker, project)


KERNEL = "int before;\n  // first\n  int here;\n  // last\nint after;\n"


def test_lines_of_a_file_in_another_language(project):
    path = project / "package" / "kernel.cu"
    path.write_text(KERNEL)
    marker = '<!-- lines: package/kernel.cu from "// first" to "// last" -->\n'
    text = includes.refresh(marker + "<!-- end lines -->\n", "docs/01.md", project)
    assert "[`package/kernel.cu`](../package/kernel.cu):" in text
    assert "```cuda\n// first\nint here;\n// last\n```\n<!-- end lines -->" in text
    assert includes.refresh(text, "docs/01.md", project) == text
    path.write_text(KERNEL.replace("here", "there"))
    assert "int there;" in includes.refresh(text, "docs/01.md", project)
    path.unlink()
    with pytest.raises(DocumentError, match=r"docs/01.md:1: there is no package/kernel.cu"):
        includes.refresh(text, "docs/01.md", project)
    with pytest.raises(DocumentError, match="misspelt"):
        includes.refresh(marker, "docs/01.md", project)


def test_a_misspelt_marker_is_seen(project):
    with pytest.raises(DocumentError, match="misspelt"):
        includes.refresh("<!-- code: package.module.double -->\n", "docs/01.md", project)


# --- snippets -------------------------------------------------------------------------------

PYTHON = "```python\na = 2\n```\n\nThen:\n\n```python\nprint(a + 1)\n```\n\n```text\n{}\n```\n"


def test_python_runs_in_one_namespace_and_its_output_is_compared():
    right = PYTHON.format(3)
    assert snippets.refresh(right, "page") == right
    assert snippets.refresh(PYTHON.format(4), "page") == right


def test_an_output_without_its_block_is_added():
    text = snippets.refresh("```python\nprint(1)\n```\n", "page")
    assert text == "```python\nprint(1)\n```\n\n```text\n1\n```\n"


def test_a_snippet_that_fails_is_named():
    with pytest.raises(DocumentError, match=r"page:3: the snippet fails(.|\n)*ZeroDivisionError"):
        snippets.refresh("\n\n```python\n1 / 0\n```\n", "page")


def test_what_varies_is_masked():
    text = "<!-- varies: seconds -->\n```python\nprint('{} s, 5 images')\n```\n\n```text\n{}\n```\n"
    page = text.format("0.21", "9.80 s, 5 images")
    assert snippets.refresh(page, "page") == page
    assert snippets.refresh(page.replace("80 s, 5", "80 s, 6"), "page") != page


def test_console_snippets_run_through_the_command_line():
    made = snippets.refresh("```console\n$ python cli.py --version\n```\n", "page")
    assert made.startswith("```console\n$ python cli.py --version\nminires, version ")
    assert snippets.refresh(made, "page") == made
    assert snippets.refresh(made.replace("version ", "version 9"), "page") == made


def test_pipes_and_exit_codes():
    block = "```console\n$ python cli.py --help | grep gradcheck | head -1\n```\n"
    (line,) = snippets.refresh(block, "page").splitlines()[2:-1]
    assert line.strip().startswith("gradcheck")
    block = "<!-- exits: 2 -->\n```console\n$ python cli.py frobnicate\n```\n"
    assert "error: no command 'frobnicate'" in snippets.refresh(block, "page")
    with pytest.raises(DocumentError, match="exit code 2"):
        snippets.refresh(block.partition("\n")[2], "page")
    with pytest.raises(DocumentError, match="only `python cli.py`"):
        snippets.refresh("```console\n$ pip install x\n```\n", "page")


def test_included_code_is_not_run(project):
    text = included("package.module:double", project)
    assert snippets.refresh(text, "page") == text


def test_print_options_of_a_snippet_end_with_its_page():
    snippets.refresh("```python\nimport numpy as np\nnp.set_printoptions(precision=1)\n```\n", "")
    assert np.get_printoptions()["precision"] == 8


# --- links and formulas ---------------------------------------------------------------------


def test_links_to_files_and_headings(tmp_path):
    page = tmp_path / "a.md"
    (tmp_path / "b.md").write_text("# The *first* thing\n\n## Twice\n\n## Twice\n")
    good = (
        "[a](b.md) [b](b.md#the-first-thing) [c](b.md#twice-1) [d](#own) [e](https://x.y)\n# Own\n"
    )
    page.write_text(good)
    assert links.link_problems(good, page, tmp_path) == []
    bad = "[a](c.md)\n[b](b.md#second)\n[c](#nothing)\n[d](../outside.md)\n"
    found = links.link_problems(bad, page, tmp_path)
    assert [line.split(": ")[0] for line in found] == ["a.md:1", "a.md:2", "a.md:3", "a.md:4"]
    assert links.link_problems("```text\n[a](c.md)\n```\n`[a](c.md)`", page, tmp_path) == []


@pytest.mark.parametrize(
    "formula",
    [r"$a\,b$", r"$\{1\}$", r"$x_{1}_k$", "$a * b$", "$a<b$", "$ a$", "$a", r"$$a \\ b$$"],
)
def test_formulas_that_markdown_damages_are_seen(formula):
    assert links.math_problems(f"Text {formula} text", "page")


def test_formulas_that_survive():
    text = r"With $x_{nc}$, $\frac{a}{b}$ and `$x*y` in (N, C)." + "\n\n$$\nL = \\sum_n L_n\n$$\n"
    assert links.math_problems(text, "page") == []


@pytest.mark.parametrize(
    "text", ["the factor is\n1. If it grows", "$$\na = b\n- c\n$$\n", "a sum, a\n+ b", "a\n* b"]
)
def test_a_line_that_would_begin_a_list_is_seen(text):
    (problem,) = links.list_problems(f"Text.\n\n{text}\n", "page")
    assert problem.startswith(f"page:{5 if '$$' in text else 4}: ")


def test_lists_that_are_meant():
    text = "Three:\n\n- one\n- two\n  and a half\n- three\n\n1. a\n2. b\n\n```diff\nx\n- y\n```\n"
    assert links.list_problems(text, "page") == []


def test_prose_keeps_the_lines():
    text = "a\n```text\n$x\n```\n<!-- $ -->`$`b\n"
    assert prose(text).count("\n") == text.count("\n") and "$" not in prose(text)


# --- figures --------------------------------------------------------------------------------

DRAWING = """\
from style import figure
@figure
def small_thing():
    from matplotlib.figure import Figure
    fig = Figure(figsize=(1, 1))
    fig.text(0.5, 0.5, "hello")
    return fig
"""


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "docs" / "figures"
    folder.mkdir(parents=True)
    (folder / "style.py").write_text("def figure(kind):\n    return kind\n")
    (folder / "things.py").write_text(DRAWING)
    (tmp_path / "README.md").write_text("# Top\n")
    (tmp_path / "docs" / "01.md").write_text(
        "<!-- figure: small-thing -->\n![A word](figures/small-thing.svg)\n\n"
        "*Figure 1. Drawn by `python docs/make.py figures\nsmall-thing`.*\n"
    )
    return tmp_path


def test_a_figure_that_is_older_than_its_code_is_seen(gallery):
    assert "older than its code" in " ".join(figures.problems(gallery))
    (drawing,) = figures.drawings(gallery / "docs" / "figures").values()
    figures.draw(drawing)
    assert figures.problems(gallery) == []
    first = drawing.picture.read_bytes()
    figures.draw(drawing)
    assert drawing.picture.read_bytes() == first
    drawing.code.write_text(DRAWING.replace("hello", "goodbye"))
    assert "older than its code" in " ".join(figures.problems(gallery))


def test_a_figure_that_is_older_than_the_numbers_it_shows_is_seen(gallery):
    record = gallery / "docs" / "results" / "speed.json"
    record.parent.mkdir()
    record.write_text("1")
    code = gallery / "docs" / "figures" / "things.py"
    code.write_text(DRAWING + 'RECORD = "results/speed.json"\n')
    figures.draw(figures.drawings(code.parent)["small-thing"])
    assert figures.problems(gallery) == []
    record.write_text("2")
    assert "older than its code" in " ".join(figures.problems(gallery))


def test_figures_without_code_caption_or_page_are_seen(gallery):
    page = gallery / "docs" / "01.md"
    figures.draw(figures.drawings(gallery / "docs" / "figures")["small-thing"])
    text = page.read_text()
    page.write_text(text.replace("make.py figures", "make.py"))
    assert "caption" in " ".join(figures.problems(gallery))
    page.write_text(text.replace("[A word]", "[]"))
    assert "description" in " ".join(figures.problems(gallery))
    page.write_text(text.replace("small-thing -->", "other -->"))
    assert len(figures.problems(gallery)) >= 2


# --- exercises ------------------------------------------------------------------------------

EXERCISE = """\
<!-- breaks: tests/test_one.py::test_double -->
```diff
--- package/module.py
-    return 2 * x
+    return {}
```

The test `test_double` fails.
"""


def test_an_exercise_is_tried_and_leaves_no_trace(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "tests").mkdir()
    module = tmp_path / "package" / "module.py"
    module.write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "tests" / "test_one.py").write_text(
        "from package.module import double\ndef test_double():\n    assert double(2) == 4\n"
    )
    (wrong,) = exercises.breaks_of(EXERCISE.format("3 * x"), "page")
    assert exercises.problem(wrong, tmp_path) is None
    (harmless,) = exercises.breaks_of(EXERCISE.format("x + x"), "page")
    assert "does not fail" in exercises.problem(harmless, tmp_path)
    (drifted,) = exercises.breaks_of(EXERCISE.replace("2 * x", "x * 2").format("x"), "page")
    assert "stand 0 times" in exercises.problem(drifted, tmp_path)
    assert module.read_text() == "def double(x):\n    return 2 * x\n"


def test_the_answer_names_the_test():
    with pytest.raises(DocumentError, match="does not name"):
        exercises.breaks_of(EXERCISE.replace("`test_double` fails", "fails"), "page")
