"""The HTML pages in Chromium: sorting, filters, tooltips, images, phones, dark mode and print."""

import base64
import importlib.util
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from reports.dataset import summarize
from reports.html.dataset import write_page as data_page
from reports.html.leaderboard import OPEN, write_page
from reports.results import gather

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: install it, or set CHROMIUM=/its/path"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright: pip install playwright"),
]
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def image_url(rng) -> str:
    """Return the `data:` URL of a random WebP image of 16 px."""
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(stream, "WEBP")
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of 1 and of 14 runs, with three seeds per setting and names that contain markup."""
    rng = np.random.default_rng(0)
    written = {}
    for count in (1, 14):
        root = tmp_path_factory.mktemp("sweep")
        for number in range(count):
            folder = root / f"{number:02} it's \"<b>"
            folder.mkdir()
            f1 = [0.5, 0.9, 0.7, 0.6, 0.8][number // 3] + number % 3 / 100
            row = {
                "status": "completed", "model": f"net{number // 3}<b>", "seed": number % 3,
                "overrides": [f"model=net{number // 3}", f"seed={number % 3}"], "classes": ["<i>can", "cup"],
                "test/f1_macro": f1, "score": 2 - f1, "latency_ms": 2.0 + 9 * (number // 3), "origin": "scratch",
                "test/f1/<i>can": f1, "test/f1/cup": f1,
            }  # fmt: skip
            (folder / "metrics.json").write_text(json.dumps(row))
            (folder / "config.yaml").write_text(f"size: {64 + number // 3}\nname: '<script>alert(1)</script>'\n")
            (folder / "history.csv").write_text(
                f"epoch,train/loss,val/loss,val/f1_macro\n0,2,1.7224,0.1\n1,1,1.7216,{f1}\n"
            )
            lines = "".join(f"{i},<i>can,{'cup' if i % 3 else '<i>can'},0.4,0.6\n" for i in range(9))
            (folder / "predictions.csv").write_text("file,label,prediction,p_<i>can,p_cup\n" + lines)
            mistake = {"file": "a'\"<b>.jpg", "label": "cup", "prediction": "<i>can", "confidence": 0.9}
            found = [{**mistake, "image": image_url(rng), "map": image_url(rng)} for _ in range(3)]
            (folder / "mistakes.json").write_text(json.dumps({"mistakes": found}))
        written[count] = write_page(gather(root), root / "leaderboard.html")
    return written


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open a page. The test fails if the page logs to the console, raises, opens a dialog or requests a URL."""
    events, contexts = [], []

    def open_page(path, **options):
        contexts.append(chromium.new_context(**options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: events.append(message.text))
        tab.on("pageerror", lambda error: events.append(str(error)))
        tab.on("dialog", lambda dialog: events.append(dialog.message))
        tab.on(
            "request", lambda request: events.append(request.url) if request.url[:5] not in ("file:", "data:") else None
        )
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert events == []


def column(tab, title, table=0):
    """Return the texts of a column of a sortable table, from top to bottom."""
    return tab.evaluate(
        """([title, position]) => { const table = document.querySelectorAll("table.sortable")[position];
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === title);
        return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent); }""",
        [title, table],
    )


def test_click_on_a_heading_sorts_in_both_directions(pages, visit):
    tab = visit(pages[14])
    first = column(tab, "ms")
    heading = tab.locator("table.sortable").first.get_by_role("button", name=re.compile("^ms"))
    heading.click()
    rising = column(tab, "ms")
    heading.click()
    assert [float(text) for text in rising] == sorted(float(text) for text in first)
    assert column(tab, "ms") == rising[::-1] != first
    tab.locator("table.sortable").first.get_by_role("button", name="F1 test").click()
    assert column(tab, "F1 test")[0].startswith("0.91")  # highest F1 first


def test_tabs_show_the_seeds_or_every_run(pages, visit):
    tab = visit(pages[14])
    tables = tab.locator(".tab")
    assert [tables.nth(i).is_visible() for i in range(2)] == [True, False]
    tab.get_by_role("button", name="Every run").click()
    assert [tables.nth(i).is_visible() for i in range(2)] == [False, True]
    assert tables.nth(1).locator("tbody tr").count() == 14


def test_point_has_a_tooltip_and_a_click_opens_its_run(pages, visit):
    tab = visit(pages[14])
    assert tab.locator("#pareto .point").count() == 5
    assert tab.locator("#pareto .point.best").count() == 2
    point = tab.locator("#pareto .point.best[data-tip^=net1] .hit")
    point.hover()
    tip = tab.locator("#tip")
    assert tip.is_visible()
    assert tip.inner_text().splitlines()[0] == "net1<b>"
    assert "latency 11.00 ms" in tip.inner_text()
    point.click()
    tab.wait_for_selector("#runs details[open]")
    assert "net1<b>" in tab.locator("#runs details[open] summary").inner_text()


def test_nearest_curve_is_highlighted(pages, visit):
    tab = visit(pages[14])
    chart = tab.locator("#curves svg.curves").first
    box = chart.bounding_box()
    position = {"x": box["width"] * 0.97, "y": box["height"] * 0.1}  # the best run at its last epoch
    chart.hover(position=position)  # waits until the layout is stable
    tab.wait_for_selector(".curve.near")
    assert tab.locator(".curve.near").count() == 1
    assert tab.locator("#tip").inner_text().startswith("net1<b>")


def test_filter_shows_matching_runs_and_points(pages, visit):
    tab = visit(pages[14])
    tab.get_by_role("searchbox").fill("NET2")
    assert tab.locator("#runs details:visible").count() == 3
    assert tab.locator("#pareto .point:visible").count() == 1
    tab.get_by_role("searchbox").fill("")
    assert tab.locator("#runs details:visible").count() == 14


def test_wrong_images_are_filtered_by_a_pair_of_classes(pages, visit):
    tab = visit(pages[1])
    run = tab.locator("#run-1")
    assert run.locator(".mistakes figure:visible").count() == 3  # cups that were predicted as cans
    run.locator("select.pairs").select_option("0-1")
    assert run.locator(".mistakes figure:visible").count() == 0
    run.locator("select.pairs").select_option("")
    assert run.locator(".mistakes figure:visible").count() == 3
    run.locator(".confusion button").click()
    assert run.locator("select.pairs").input_value() == "0-1"


def test_two_runs_are_compared_image_by_image(pages, visit):
    tab = visit(pages[14])
    part = tab.locator("#compare")
    part.scroll_into_view_if_needed()
    tab.wait_for_function("() => document.querySelector('#compare output').textContent !== ''")
    assert part.locator("output").inner_text().startswith("9 images in common: both right 3, only A right 0")
    part.locator("[name=kind]").select_option("both")
    assert part.locator("figure").count() == 6
    assert part.locator("figcaption").first.inner_text().splitlines()[:3] == [
        "label <i>can", "A ✗ cup 60%", "B ✗ cup 60%"
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 14])
def test_every_image_is_shown(pages, visit, count):
    tab = visit(pages[count])
    assert tab.locator("#runs details[open]").count() == (1 if count == 1 else 0)
    tab.evaluate("() => document.querySelectorAll('#runs details').forEach((run) => { run.open = true; })")
    drawn = "#runs .pictures img:not([data-image])"  # per mistake: the image, the image below the map, the map
    tab.wait_for_function("([at, n]) => document.querySelectorAll(at).length === n", arg=[drawn, 9 * count])
    sizes = tab.locator(drawn).evaluate_all(
        "all => Promise.all(all.map((image) => image.decode().then(() => image.naturalWidth)))"
    )
    assert sizes == [16] * (9 * count)
    assert tab.locator(".confusion").count() == count
    assert count <= OPEN or tab.locator("[data-packed]").count() == 0


def test_page_on_a_phone_fits_the_width_with_readable_text(pages, visit):
    tab = visit(pages[14], **PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert not tab.locator("#pareto").is_visible()
    assert tab.locator("svg.pareto text:visible").first.bounding_box()["height"] >= 10
    f1 = tab.locator(".ranking:visible th", has_text="F1 test").bounding_box()
    assert f1["x"] + f1["width"] <= 390
    outside = "texts => texts.filter(text => text.getBBox().x < 0).map(text => text.textContent)"
    assert tab.locator("svg.curves text, #pareto-narrow text").evaluate_all(outside) == []
    tab.locator("#pareto-narrow .point.best .hit").first.tap()
    assert tab.locator("#tip").is_visible()


def test_dark_mode_is_dark_and_print_is_white(pages, visit):
    tab = visit(pages[14], color_scheme="dark")
    background = r"() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).map(Number)"
    assert max(tab.evaluate(background)) < 60
    tab.emulate_media(media="print")
    assert tab.evaluate(background) == [255, 255, 255]
    assert not tab.get_by_role("searchbox").is_visible()
    assert len(tab.pdf()) > 10_000


def test_cards_of_a_data_report_link_to_their_sections(tmp_path, visit):
    size = {"broken": None, "issues": [], "width": 20, "height": 10, "bytes": 99, "brightness": 9.0, "colour": 1.0}
    found = {
        "classes": ["can", "cup"],
        "images": [
            {"path": f"{label}/a-file-with-a-long-name-{i}.jpg", "label": label, "split": split, **size}
            for label in ("can", "cup")
            for i, split in enumerate(("train", "val", "test"))
        ],
        "pairs": [{"rows": [0, 2], "equal": True, "similarity": 1.0, "by": "pixels"}],
    }
    results = {"data": "things", **summarize(found), **found}
    page = data_page(tmp_path / "explore.html", results, lambda row: np.full((10, 20, 3), 40 * row, np.uint8))
    tab = visit(page, **PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.locator(".card").first.get_by_role("link").click()
    assert tab.url.endswith("#duplicates")
    assert tab.locator("#duplicates h2").is_visible()
    tab.get_by_role("searchbox").fill("CUP test")
    assert tab.locator(".sheet figure:visible").count() == 1
    assert tab.locator("#shown").inner_text() == "1 of 7 shown"
