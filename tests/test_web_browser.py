"""The explorer in a real browser: the system's Chromium, with and without script, by mouse and by keys."""

import re
import shutil
import subprocess
import sys
from urllib.parse import unquote, unquote_plus

import pytest
from web_stores import EVIL, IMAGES, OTHER, TOKENS, dense, make_store

import saestore
from saestore.web.folder import write_folder

pytestmark = pytest.mark.once

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="the tests in a browser need playwright")
if CHROMIUM is None:
    pytest.skip("no Chromium on this system", allow_module_level=True)

X, T = f"/{IMAGES}", f"/{TOKENS}"
PAGES = [
    "/", X, f"{X}/features", f"{X}/features/2?concept=middle", f"{T}/features/1", f"{X}/items", f"{X}/concepts",
    f"{X}/items/3?feature=2", f"{T}/items/0?feature=1", f"{X}/concepts/color::red", f"{X}/compare?other={OTHER}",
    "/search?q=five",
]  # fmt: skip
WCAG = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def served(path):
    command = [sys.executable, "-m", "saestore", "serve", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip().rstrip("/")
    process.terminate()
    process.communicate(timeout=20)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # All pages in one process, without one for graphics: starting these takes longer than showing the pages.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--process-per-site", "--renderer-process-limit=1", "--in-process-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, served, request):
    """A page whose console must stay silent."""
    options = getattr(request, "param", {})
    context = browser.new_context(base_url=served, **options)
    page = context.new_page()
    told = page.told = []
    page.set_default_timeout(20_000)
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    yield page
    context.close()
    assert told == []


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": 360, "height": 700}, "color_scheme": "dark"},
        {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light", "bypass_csp": True},
    ],
    ids=["narrow-dark", "wide-light"],
    indirect=True,
)
def test_every_page_fits_and_has_no_barrier(page, data_dir):
    axe = (data_dir / "axe-core" / "axe.min.js").read_text("utf-8")
    for address in PAGES:
        assert page.goto(address).status == 200
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        if page.viewport_size["width"] < 500 and address not in PAGES[3:8]:
            continue  # what differs there are the colours
        page.evaluate(axe)
        found = page.evaluate(WCAG)["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == [], address


def test_features_are_sorted_filtered_and_paged(page):
    page.goto(f"{X}/features?limit=4")
    page.get_by_role("link", name="max", exact=True).click()
    assert "sort=-max" in page.url
    values = [float(text) for text in page.locator("tbody tr td:last-child").all_inner_texts()]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    page.get_by_role("link", name="Next").first.click()
    assert "offset=4" in page.url
    page.get_by_label("where", exact=True).fill('name == "five"')
    page.get_by_role("button", name="Filter").click()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name="5", exact=True).click()
    assert page.locator("h1").inner_text().startswith("five")


def test_keys_lead_to_neighbours_and_to_the_search(page):
    page.goto(f"{X}/features/2")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**{X}/features/3?*")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**{X}/features/2?*")
    page.keyboard.press("/")
    page.keyboard.type("five")
    page.keyboard.press("ArrowLeft")  # in a field it moves the cursor
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=five")
    assert page.get_by_role("link", name="5", exact=True).count() == 1


@pytest.mark.parametrize("page", [{}, {"java_script_enabled": False}], ids=["script", "without-script"], indirect=True)
def test_a_bar_of_the_histogram_leads_to_its_samples(page, request):
    page.goto(f"{X}/features/2?level=sample")
    without = "without-script" in request.node.name
    assert page.get_by_text("The script did not run").is_visible() == without
    bar = page.locator(".chart a").last
    count = int(bar.get_attribute("aria-label").rsplit(": ", 1)[1])
    bar.click()
    assert "from=range" in page.url
    assert f"of {count} samples in the chosen range" in page.locator("main").inner_text()
    page.get_by_label("where", exact=True).fill("split == 'test'")
    page.get_by_role("button", name="Show").click()
    assert "split" in page.url
    assert set(page.locator(".examples .tag").all_inner_texts()) == {"test"}


def drag(page, first, last):
    box = page.locator(".chart").bounding_box()
    page.mouse.move(box["x"] + box["width"] * first, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * last, box["y"] + 30, steps=4)
    page.mouse.up()


def test_a_range_is_dragged(page):
    page.goto(f"{X}/features/2?level=sample")
    drag(page, 0.5, 0.98)
    page.wait_for_url("**from=range*")
    low, high = map(float, re.search(r"range:([\d.-]+),([\d.-]+)", unquote(page.url)).groups())
    assert low < high
    assert page.locator(".bar.off").count() > 0


def test_a_range_of_firing_rates_is_dragged(page):
    for address in (X, f"{X}/features?sort=max"):
        page.goto(address)
        drag(page, 0.3, 1.0)
        page.wait_for_url("**where=*frac_nonzero*")
        low = float(re.search(r"frac_nonzero >= ([\d.e-]+)", unquote_plus(page.url))[1])
        expected = ((dense(0) != 0).mean(axis=0) >= low).sum()
        assert page.locator("tbody tr").count() == expected < 9


def test_a_mistake_is_marked_and_mended(page):
    page.goto(f"{X}/features/2?n=3")
    where = page.get_by_label("where", exact=True)
    where.press_sequentially("spl")
    assert page.locator("#where-names option").evaluate_all("all => all.map((o) => o.value)") == ["split"]
    where.fill("not color::red and spl")
    where.press_sequentially("i")
    assert page.locator("#where-names option").get_attribute("value") == "not color::red and split"
    where.fill("splt == 'test'")
    with page.expect_response(lambda response: response.status == 400):
        where.press("Enter")
    assert page.locator(".mark").inner_text().splitlines()[-1].strip() == "^" * 4
    page.get_by_label("where", exact=True).fill("split == 'test'")
    page.get_by_role("button", name="Try again").click()
    assert "n=3" in page.url
    assert set(page.locator(".examples .tag").all_inner_texts()) == {"test"}
    page.told.clear()  # the browser's own note about the status


def test_a_name_is_not_a_script(page):
    page.goto(f"{X}/features/2")
    assert EVIL in page.locator("h1").inner_text()


def test_a_patch_shows_what_fires_there(page):
    page.goto(f"{X}/items/3")
    page.locator("svg.picture a").nth(4).click()
    assert "position=4" in page.url
    assert "What fires at position 4" in page.locator("main").inner_text()
    page.goto(f"{T}/items/0")
    page.get_by_role("link", name=" great").click()
    assert "position=1" in page.url


def test_a_name_is_written_and_items_become_a_concept(page, path):
    page.goto(f"{X}/features/7")
    page.get_by_text("Change name, note").click()
    page.get_by_label("name", exact=True).fill("seven")
    page.get_by_role("button", name="Save").click()
    sync_api.expect(page.locator("h1")).to_contain_text("seven", timeout=20_000)
    page.goto(f"{X}/features/2?level=sample&n=3")
    chosen = [box.get_attribute("value") for box in page.locator(".example input").all()]
    page.locator(".example input").nth(1).check()
    page.get_by_label("new concept").fill("strong")
    page.get_by_role("button", name="Make a concept").click()
    page.wait_for_url("**/concepts/strong")
    page.goto(f"{X}/items")
    for item in (1, 4):
        page.get_by_label(f"choose item {item}", exact=True).check()
    page.get_by_label("new concept").fill("chosen")
    page.get_by_role("button", name="Make a concept").click()
    page.wait_for_url("**/concepts/chosen")
    acts = saestore.open(path)[IMAGES]
    assert acts.features["name"][7] == "seven"
    assert acts.concepts.mask("strong", "sample").nonzero()[0].tolist() == [int(chosen[1])]
    assert acts.concepts.mask("chosen").nonzero()[0].tolist() == [1, 4]


def test_lines_are_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{X}/features/2")
    page.get_by_role("button", name="Copy as Python").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert "acts.top_samples(2" in page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize("single", [False, True], ids=["folder", "single-file"])
def test_a_folder_opens_without_a_server(page, path, tmp_path, single):
    first = write_folder(saestore.open(path)[IMAGES], [2, 5], tmp_path / "site", single=single)
    page.goto(first.as_uri())
    page.keyboard.press("/")
    page.keyboard.type("fires on")
    page.locator("#hits a").click()
    page.wait_for_url(re.compile("feature-5|features/5.html"))
    images = page.locator("image").evaluate_all("list => list.map((image) => image.href.baseVal)")
    assert images
    for address in dict.fromkeys(images):
        loaded = page.evaluate("(a) => new Promise((f) => { const i = new Image(); i.onload = () => f(i.width); "
                               "i.onerror = () => f(0); i.src = a; })", address)  # fmt: skip
        assert loaded > 0


def test_the_widget_shows_pages_of_its_kernel(browser, path, tmp_path):
    """The real script and the real widget; between them this test carries the messages, as a notebook does."""
    pytest.importorskip("anywidget", reason="the extra `notebook`")
    widget = saestore.open(path)[IMAGES].explore()
    page, told = browser.new_page(), []
    page.on("pageerror", lambda error: told.append(str(error)))
    sent = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers))

    def kernel(message):
        widget._handle_custom_msg(message, [])
        content, buffers = sent.pop()
        return {"content": content, "bytes": list(buffers[0])}

    page.expose_function("kernel", kernel)
    card = saestore.open(path)[IMAGES].card(5)._repr_html_()
    page.set_content(f"<div>{card}</div><div id='cell'></div>")
    page.evaluate(
        """async ({esm, state}) => {
          const url = URL.createObjectURL(new Blob([esm], {type: "text/javascript"}));
          const {default: widget} = await import(url);
          const listeners = [];
          const model = { get: (name) => state[name], on: (_, f) => listeners.push(f), off: () => {},
            send: (message) => kernel(message).then(({content, bytes}) => {
              const buffer = new DataView(new Uint8Array(bytes).buffer);
              listeners.forEach((f) => f(content, [buffer]));
            }) };
          widget.render({ model, el: document.querySelector("#cell") });
        }""",
        {"esm": widget._esm, "state": {"style_sheet": widget.style_sheet, "start": widget.start}},
    )
    page.locator("#cell h1").wait_for()
    page.locator("#cell").get_by_role("link", name="All features").click()
    page.locator("#cell").get_by_role("link", name="2", exact=True).click()
    page.locator("#cell image[href^='blob:']").first.wait_for()
    assert EVIL in page.locator("#cell h1").inner_text()
    page.locator("a.explore").click()  # of the card
    page.locator("#cell h1", has_text="five").wait_for()
    page.close()
    assert told == []
