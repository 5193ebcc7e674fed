from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from minires.cli import main

VOID = {"meta", "img", "source", "link", "br", "hr"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PROBE = """<script>
addEventListener("load", () => document.title = JSON.stringify({
  broken: [...document.images].filter(image => !image.naturalWidth).length,
  images: document.images.length,
  sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  fetched: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
  scheme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
  paper: getComputedStyle(document.body).backgroundColor,
}));
</script>"""


def exit_code(*args):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, args)))
    return stopped.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose folder has a name that HTML must escape."""
    folder = tmp_path_factory.mktemp("runs") / "a<b>&c"
    small = ["--dataset", "shapes", "--limit", "96", "--epochs", "2", "--batch-size", "16"]
    assert exit_code("train", *small, "--width", "0.25", "--run-dir", folder) == 0
    return folder


@pytest.fixture(scope="module")
def page(run):
    assert exit_code("report", run) == 0
    return (run / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Checks that tags are closed in order; collects addresses and headings."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.headings, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "srcset", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def test_the_page_is_whole_and_fetches_nothing(page):
    outline = Outline(page)
    assert outline.headings[0] == "a<b>&c"
    assert {"Curves", "Confusion matrix", "Classes", "Calibration", "Config"} <= {*outline.headings}
    assert outline.addresses
    for address in outline.addresses:
        kind, _, data = address.partition("base64,")
        assert kind == "data:image/png;"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "<script" not in page and "http" not in re.sub(r"base64,[\w+/=]+", "", page)


def test_the_numbers_are_those_of_evaluate(run, page, capsys):
    assert exit_code("evaluate", run, "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    text = " ".join(Outline(page).text)
    assert f"{measured['accuracy']:.2%}" in text
    rows = re.findall(
        r'<tr><td>(\w+)</td><td class="n">([\d,]+)</td><td class="n">([\d.]+)%</td>', page
    )
    classes = measured["per_class"]
    expected = [(c["name"], f"{c['images']}", f"{c['accuracy']:.1%}") for c in classes]
    assert [(html.unescape(n), i, f"{a}%") for n, i, a in rows] == expected


def test_what_differs_from_the_defaults_is_shown(page):
    chosen = page.partition("<h2>Config</h2>")[2].partition("<details>")[0]
    assert "--width" in chosen and "0.25" in chosen and "--momentum" not in chosen
    assert "--momentum" in page


def test_an_unfinished_run_has_a_page_too(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "result.json").unlink()
    (copy / "history.jsonl").unlink()
    assert exit_code("report", copy, "-o", tmp_path / "page.html") == 0
    outline = Outline((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "not finished" in outline.text and "Curves" not in outline.headings


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["{run}", "-o", "page.txt"], 2, "error: --output page.txt: must end in .html"),
        (["{run}", "-o", "no/page.html"], 2, "its folder does not exist"),
        (["nowhere"], 4, "error: nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(run, args, code, message, capsys):
    assert exit_code("report", *(a.replace("{run}", str(run)) for a in args)) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_real_browser_nothing_breaks_on_a_narrow_screen(page, tmp_path, dark):
    probed = tmp_path / "probed.html"
    probed.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--window-size=500,900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    ]
    shown = subprocess.run(
        [BROWSER, *flags, probed.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    title = re.search(r"<title>(.*?)</title>", shown)
    found = json.loads(html.unescape(title[1]))
    assert found["images"] >= 5 and not found["broken"]
    assert found["sideways"] == 0 and found["fetched"] == 0
    assert found["scheme"] == ("dark" if dark else "light")
    assert found["paper"] == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")


def test_the_template_is_installed():
    from importlib import resources

    assert (resources.files("minires.analysis") / "report.html").is_file()
    assert "*.html" in (Path(__file__).parents[2] / "setup.cfg").read_text(encoding="utf-8")
