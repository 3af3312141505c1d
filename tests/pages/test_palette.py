"""One palette for pages and pictures: text can be read on each background, and no page has a colour of its own."""

import re
from itertools import product

import pytest

from ift.apps.arena import PAGE as ARENA
from ift.apps.review import PAGE as REVIEW
from ift.pages.data_report import PAGE as DATA_REPORT
from ift.pages.page import HERE, Page
from ift.pages.palette import DARK, LIGHT, TEXT_ON, palette_css
from ift.pages.report import PAGE as REPORT

PAGES = [REPORT, DATA_REPORT, Page("compare"), REVIEW, ARENA]


def brightness(colour):
    """The relative luminance of WCAG 2: 0 for black, 1 for white."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_a_contrast_of_4_5_on_each_background_it_stands_on(colours):
    pairs = [pair for text, backs in TEXT_ON.items() for pair in product([text], backs)]
    weak = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    assert {pair: value for pair, value in weak.items() if value < 4.5} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_colours_stand_in_the_palette_alone_and_all_that_are_used_are_there(page):
    own = page.style.removeprefix(palette_css())
    assert not re.findall(r"#[0-9a-f]{3,8}\b(?=[^{]*})|rgba?\(|hsl", own)
    used = set(re.findall(r"var\(--([\w-]+)", own)) - {"run", "tint", "far"}  # set on the page itself
    assert used <= LIGHT.keys()


def test_every_template_of_a_page_extends_the_one_base_and_has_no_style_of_its_own():
    templates = [file for folder in {page.folder for page in PAGES} for file in folder.glob("*.html.j2")]
    for file in templates:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|\son\w+=", text), file
        if file.name not in ("page.html.j2", "parts.html.j2", "served.html.j2"):
            assert text.startswith('{% extends "page.html.j2" %}'), file
            assert "<style" not in text, file
    assert (HERE / "page.html.j2") in templates


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_policy_of_every_page_names_its_one_style_and_its_one_script(page):
    assert "unsafe" not in page.policy
    assert page.policy.count("'sha256-") == (2 if page.script else 1)
    assert bool(page.script) == ("script-src" in page.policy)
    assert ("connect-src 'self'" in page.policy) == page.served
