"""Pages of runs in a real browser, light and dark, wide and narrow: all can be read, and nothing stands where it is cut off or covered."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from runoff.reporting.compared import compare
from runoff.reporting.page import write
from tests.chromium import Chromium
from tests.runoff.stored import Made, store

Scheme = Literal["light", "dark"]

# Every piece of text that shows, with its place, its colour, and the colours that lie under it from the page up.
_TEXTS = r"""(() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const text = node.textContent.trim(), element = node.parentElement;
    if (!text || element.closest('style, title, .said') || !element.checkVisibility({visibilityProperty: true})) continue;
    const range = document.createRange(); range.selectNodeContents(node);
    const box = range.getBoundingClientRect(), style = getComputedStyle(element);
    if (!box.width) continue;
    const under = [];
    for (let at = element; at; at = at.parentElement) under.push(getComputedStyle(at).backgroundColor);
    const svg = element.closest('svg');
    const clip = element.closest('.scroll');
    found.push({text, svg: svg ? [...document.querySelectorAll('svg')].indexOf(svg) : -1, scrolls: !!clip,
      box: [box.left, box.top, box.right, box.bottom], size: parseFloat(style.fontSize), weight: +style.fontWeight,
      colour: svg ? style.fill : style.color, under: under.reverse()});
  }
  return found;
})()"""
# Tables that do not fit their place, so that part of them hides behind a scroll bar.
_CUT = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 60))"
# Shapes that carry data, and the colours that tell them from the page.
_SHAPES = r"""[...document.querySelectorAll('svg .mark, svg .line, svg .whisker, svg .thin, svg .hollow, .fall rect, .bar rect')]
  .filter(e => e.checkVisibility()).map(e => {
    const s = getComputedStyle(e), solid = e.matches('.mark, .resolved, .bar rect');
    const page = getComputedStyle(document.body).backgroundColor;
    return {what: e.getAttribute('class') || e.tagName, colour: solid ? s.fill : s.stroke, page};
  })"""


class Seen(NamedTuple):
    texts: list[dict[str, Any]]
    cut: list[str]
    shapes: list[dict[str, str]]
    width: int


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, with something of everything in them."""
    folder = tmp_path_factory.mktemp("runs")
    truth = {f"project{n % 3}__project{n % 3}-{1000 + 7 * n}": n for n in range(9)}

    def made(seed: int, members: int) -> dict[str, Made]:
        return {
            name: Made(
                [None if (n + k) % 7 == 6 else (n * seed + k) % 3 == 0 and n != 4 for k in range(members)],
                sees=n != 4,
                failed="the engine gave no answer within 60 seconds" if n == 7 and seed == 2 else "",
                alone=n % 2 == 0,
            )
            for name, n in truth.items()
        }

    runs = [
        store(folder / name, made(seed, members), seed=seed, price=price)
        for name, seed, members, price in (
            ("codemonkeys", 1, 6, 3.0),
            ("r2e-hybrid", 2, 6, 1.0),
            ("best-of-3", 3, 3, 5.0),
        )
    ]
    write(folder / "report", compare(runs, None))
    return folder / "report" / "report.html"


def look(chromium: Chromium, file: Path, width: int, scheme: Scheme, keep: Path) -> Seen:
    chromium.open(file, width=width, scheme=scheme)
    chromium.run("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    seen = Seen(
        chromium.run(_TEXTS),
        chromium.run(_CUT),
        chromium.run(_SHAPES),
        chromium.run("document.documentElement.scrollWidth"),
    )
    keep.write_bytes(chromium.screenshot())
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_readable(report: Path, chromium: Chromium, scheme: Scheme, tmp_path: Path) -> None:
    seen = look(chromium, report, 1280, scheme, tmp_path / f"{scheme}.png")
    whole = " ".join(one["text"] for one in seen.texts)
    for words in (
        "3 runs compared",
        "Where instances are lost",
        "no right candidate",
        "coverage",
        "McNemar",
        "$",
        "run-off",
    ):
        assert words in whole
    assert seen.width <= 1280, "nothing makes the page wider than the window"
    assert seen.cut == [], "on a usual screen no table hides a column"
    assert {one["text"]: round(contrast(one), 2) for one in seen.texts if contrast(one) < 4.5} == {}
    told = {one["what"]: ratio(channels(one["colour"]), channels(one["page"])) for one in seen.shapes}
    assert len(told) >= 7
    assert {what: round(value, 2) for what, value in told.items() if value < 3} == {}
    assert covered(seen.texts) == []
    page = channels(seen.shapes[0]["page"])
    assert (luminance(page) > 0.8) == (scheme == "light")
    assert (tmp_path / f"{scheme}.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_fits_a_narrow_window(report: Path, chromium: Chromium, tmp_path: Path) -> None:
    seen = look(chromium, report, 400, "light", tmp_path / "narrow.png")
    assert seen.width <= 400, "wide tables scroll, the page does not"
    outside = [one["text"] for one in seen.texts if one["box"][2] > 400.5 and not one["scrolls"]]
    assert outside == []


def test_without_colour_runs_are_told_apart(report: Path, chromium: Chromium) -> None:
    """By letters beside their marks, and by the marks' shapes."""
    chromium.open(report, width=1280, scheme="light")
    keys = chromium.run("[...document.querySelectorAll('#runs ~ .scroll .key path')].map(e => e.getAttribute('d'))")
    assert len(set(keys)) == len(keys) == 3
    labels = chromium.run("[...document.querySelectorAll('.plot .label')].map(e => e.textContent.trim()[0])")
    assert {"A", "B", "C"} <= set(labels)


def test_the_page_loads_and_runs_nothing(report: Path, chromium: Chromium) -> None:
    chromium.open(report, width=1280, scheme="light")
    assert chromium.run("performance.getEntriesByType('resource').map(e => e.name)") == []
    assert chromium.run("document.scripts.length") == 0


def contrast(text: dict[str, Any]) -> float:
    """WCAG 2.2's contrast of a text with what lies under it."""
    ground = (255.0, 255.0, 255.0)
    for colour in text["under"]:
        *rgb, alpha = channels(colour)
        ground = tuple(alpha * new + (1 - alpha) * old for new, old in zip(rgb, ground, strict=True))  # type: ignore[assignment]
    return ratio(channels(text["colour"]), (*ground, 1.0))


def channels(colour: str) -> tuple[float, ...]:
    """Red, green, blue of 255 and alpha of 1."""
    numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].replace("/", ",").split(",")]
    return (*numbers[:3], numbers[3] if len(numbers) > 3 else 1.0)


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ratio(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def covered(texts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Texts of one drawing that lie on each other."""
    drawn = sorted((one for one in texts if one["svg"] >= 0), key=lambda one: one["svg"])
    return [
        (a["text"], b["text"])
        for _, group in itertools.groupby(drawn, key=lambda one: one["svg"])
        for a, b in itertools.combinations(group, 2)
        if min(a["box"][2], b["box"][2]) - max(a["box"][0], b["box"][0]) > 1
        and min(a["box"][3], b["box"][3]) - max(a["box"][1], b["box"][1]) > 3
    ]
