"""Drive the page of `microgpt play` in a real Chromium: drag, type, cancel, pin; look at labels, sizes and errors; measure.

    python tools/browser.py [--screenshots FOLDER] [--latency N]

Needs selenium, Chromium and its chromedriver (`python -m nox -s browser` brings the first). The last line says what was seen. Times are
printed, and decide nothing.
"""
import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).resolve().parents[1]
TEXT = "emma\nolivia\nava\nisabella\nsophia\ncharlotte\nmia\namelia\nharper\nevelyn\nluna\nella\n"
SECONDS = 60  # that something may take before it counts as missing


def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(SECONDS)
    return driver


class Page:
    """The page, by what a user sees and does."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def js(self, script, *arguments):
        return self.driver.execute_script(f"const [a, b] = arguments; {script}", *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self.js("return document.querySelector(a).textContent", selector)

    def until(self, condition, what):
        """Wait until a JavaScript condition holds."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if found := self.js(f"return {condition}"):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{what}: not within {SECONDS} seconds; the page says {self.text('#status')!r}, {self.text('#error')!r}")

    def idle(self):
        self.until("shown && !running && !wanted && document.getElementById('status').textContent.includes('picture')", "the run ends")

    def size(self, width, height, dark=False):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        time.sleep(0.3)

    def open(self, url=None):
        self.driver.get("about:blank")
        self.driver.get(url or self.url)
        self.until("typeof shown !== 'undefined' && shown", "the page draws its first run")
        self.idle()

    def put(self, name, value):
        """Type a value into a field, as a user does."""
        field = self.find(f"#{name}")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def no_errors(self):
        found = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert not found, found


# ---- what is checked, each on a page that was just opened ----


def draws(page):
    """a run is drawn: curves, samples, heat maps, embeddings, bars"""
    assert len(page.js("return [...document.querySelectorAll('#samples li')].map(item => item.textContent)")) == 20
    assert page.js("return document.querySelectorAll('#loss .plot path').length") == 4  # three curves, and dots of validation
    assert page.js("return document.querySelectorAll('#embeddings .point').length") == 27
    assert page.js("return document.querySelectorAll('#next button').length") == 12
    width, height = page.js("const c = document.querySelector('#attention canvas'); return [c.width, c.height]")
    drawn = page.js("const c = document.querySelector('#attention canvas');"
                    "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                    "return new Set(Array.from({length: d.length / 4}, (_, i) => d[4 * i] << 8 | d[4 * i + 3])).size")  # fmt: skip
    assert width > 100 and height > 100 and drawn > 10, (width, height, drawn)
    assert {"step", "loss (nats per token)"} <= set(page.js("return [...document.querySelectorAll('#loss .axis')].map(n => n.textContent)"))


def drags(page):
    """a slider that is dragged trains again: now and then while it moves, and at last with the value where it ends"""
    slider, before = page.find("#seed ~ input[type=range]"), page.text("#samples")
    page.js("window.seeds = []; const known = showResult;"
            "showResult = (result, at) => { seeds.push(result.settings.seed); known(result, at); }")  # fmt: skip
    chain = ActionChains(page.driver, duration=30).move_to_element_with_offset(slider, -60, 0).click_and_hold()
    for _ in range(8):
        chain = chain.move_by_offset(6, 0).move_by_offset(6, 0).pause(0.25)
    chain.release().perform()
    page.idle()
    seeds = page.js("return seeds")
    assert len(set(seeds)) >= 2 and sorted(seeds) == seeds and page.text("#samples") != before, seeds
    assert seeds[-1] == page.js("return +document.getElementById('seed').value") and f"--seed {seeds[-1]}" in page.text("#command")


def types(page):
    """a word that is typed has its attention; what the model cannot read is said; a bar continues the word"""
    page.put("word", "olivia")
    page.until("shown.word.text === 'olivia' && shown.word.labels.join('') === '·olivia'", "attention of the word")
    assert page.text("#prefix") == "after “olivia”"
    page.find("#word").send_keys("ñ")
    page.until("!document.getElementById('word-error').hidden", "the unknown character is said")
    assert "'ñ'" in page.text("#word-error") and page.js("return document.querySelectorAll('#samples li').length") == 20
    page.find("#word").send_keys(Keys.BACKSPACE)
    page.until("document.getElementById('word-error').hidden", "the word is right again")
    page.js("document.getElementById('position').value = 1; document.getElementById('position').dispatchEvent(new Event('input'))")
    assert page.text("#prefix") == "after “o”" and page.text("#next button.actual span") == "l"
    page.find("#next button").click()
    page.until("shown.word.text.length === 2", "the word is continued")
    assert page.js("return document.getElementById('word').value[0]") == "o"


def pastes(page):
    """text that is pasted is trained on, as lines and as running text"""
    page.js("document.getElementById('text').value = 'lines'; document.getElementById('text').dispatchEvent(new Event('change'))")
    page.until("document.getElementById('error').textContent.includes('paste some')", "no text is said")
    page.find("#lines").send_keys("hello\nworld\n")
    page.until("shown.settings.lines === 'hello\\nworld\\n' && !running", "the lines are trained on")
    assert page.js("return [shown.docs, shown.vocab_size]") == [2, 8] and page.js("return document.getElementById('error').hidden")
    page.js("document.getElementById('split').value = 'chunks'; document.getElementById('split').dispatchEvent(new Event('change'))")
    page.until("shown.settings.split === 'chunks' && shown.command[0].includes('--split chunks')", "chunks of the text")
    assert page.js("return [shown.docs, shown.vocab_size]") == [1, 9]
    page.until("document.getElementById('save-lines').href.startsWith('blob:')", "the lines can be saved")


def cancels(page):
    """a long run shows its progress, a change cancels it, and so does Stop"""
    page.put("n_embd", "128")
    page.put("steps", "20000")
    page.until("!document.getElementById('progress').hidden && document.getElementById('progress').value > 0", "progress")
    assert "a change cancels this run" in page.text("#status")
    start = time.monotonic()
    page.put("steps", "30")
    page.until("shown.settings.steps === 30", "the next run")
    page.idle()
    took = time.monotonic() - start
    assert page.js("return document.getElementById('progress').hidden") and len(page.js("return shown.losses")) == 30
    page.put("steps", "20000")
    page.until("!document.getElementById('stop').hidden", "progress again")
    page.find("#stop").click()
    page.until("!running", "the run is stopped")
    assert page.text("#status").startswith("stopped: step") and page.js("return document.getElementById('stop').hidden")
    assert page.js("return shown.settings.steps") != 20000  # but 30, or what was typed of the 20000 when a run ended
    return f"cancelled and drawn in {took:.1f} s"


def pins(page):
    """two runs side by side: where they first differ, and that they are the same"""
    page.find("#pin-a").click()
    page.put("seed", "7")
    page.until("shown.settings.seed === 7", "another seed")
    assert page.text("#verdict").startswith("They first differ at step 1, in the loss")
    page.find("#pin-b").click()
    page.put("seed", "8")
    page.until("shown.settings.seed === 8", "a third seed")
    assert page.js("return [pins.a.settings.seed, pins.b.settings.seed]") == [42, 7]
    assert page.js("return [...document.querySelectorAll('#samples-b li')].map(n => n.textContent).join() === pins.b.samples.join()")
    page.put("seed", "42")
    page.until("shown.settings.seed === 42", "the first seed again")
    page.find("#pin-b").click()
    assert page.text("#verdict") == "Same bits: all 1,000 losses and all 9 tensors, and all 20 samples.", page.text("#verdict")
    page.put("temperature", "0.9")
    page.until("shown.settings.temperature === 0.9", "another temperature")
    page.find("#pin-b").click()
    assert "The samples first differ in number" in page.text("#verdict") and page.text("#differing tbody th") == "temperature"
    page.find("#unpin").click()
    assert page.js("return document.getElementById('comparison').hidden")


def restores(page):
    """a link restores the settings, and the commands print what is shown"""
    assert page.js("return document.getElementById('optimizer').open") is False
    page.find("#optimizer summary").click()
    page.js("document.getElementById('schedule').value = 'cosine'; document.getElementById('schedule').dispatchEvent(new Event('change'))")
    numbers = {"seed": 5, "n_embd": 24, "learning_rate": 0.02, "warmup": 9, "weight_decay": 0.3, "clip": 0.8, "top_k": 4, "steps": 120}
    for name, value in numbers.items():
        page.put(name, str(value))
    page.until("shown.settings.steps === 120 && shown.settings.top_k === 4 && shown.settings.warmup === 9", "the settings")
    page.idle()
    link = page.url.partition("#")[0] + "#" + page.js("return fragment()")
    shown = page.js("return [shown.losses, shown.samples, shown.command]")
    page.open(link)
    assert page.js("return [shown.losses, shown.samples, shown.command]") == shown
    assert page.js("return a.map(name => +document.getElementById(name).value)", [*numbers]) == [*numbers.values()]
    assert page.js("return [schedule.value, optimizer.open]") == ["cosine", True]
    assert all(f"{cli} {numbers[name]}" in shown[2][0] for name in numbers if name != "top_k" and (cli := "--" + name.replace("_", "-")))
    with tempfile.TemporaryDirectory() as folder:
        printed = ""
        for command in shown[2]:
            words = [sys.executable, "-m", *shlex.split(command)]
            printed += subprocess.run(words, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    assert [line.split(": ", 1)[1] for line in printed.splitlines() if line.startswith("sample ")] == shown[1]
    assert [line.split("loss ")[1] for line in printed.splitlines() if line.startswith("step")] == [f"{loss:.4f}" for loss in shown[0]]


def keeps_heads_dividing(page):
    """no setting of the sliders is refused because n_head does not divide n_embd"""
    for name, value in (("n_head", "16"), ("n_embd", "20"), ("n_head", "8"), ("n_embd", "6")):
        page.put(name, value)
        page.idle()
        divides = "shown.settings.n_embd % shown.settings.n_head === 0"
        assert page.js(f"return document.getElementById('error').hidden && {divides}"), (name, value)


def answers_keys(page):
    """by keyboard: every control is reached with Tab, sliders and charts are read with arrow keys"""
    reached = set()
    page.js("document.body.focus()")
    for _ in range(80):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.add(page.js("const e = document.activeElement; return e.id || e.getAttribute('aria-label')"))
    wanted = {"steps", "steps, slider", "seed", "n_embd", "text", "validation", "reset", "word", "position", "command", "copy-command"}
    wanted |= {"copy-link", "pin-a", "pin-b", "loss by step, in nats per token", "attention over “emma”", "token embeddings in the plane"}
    assert wanted <= reached, wanted - reached
    page.js("document.querySelector('#loss .plot').focus()")
    ActionChains(page.driver).send_keys(Keys.HOME, Keys.ARROW_RIGHT).perform()
    said = page.js("return document.querySelector('#loss .plot').getAttribute('aria-valuetext')")
    assert said.startswith("at step 11: loss of each step"), said
    page.js("document.querySelector('#attention canvas').focus()")
    ActionChains(page.driver).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.PAGE_DOWN).perform()
    assert page.text("#attention .readout").startswith("layer 0, head 1: reading “m”, it attends to “·”"), page.text("#attention .readout")
    page.find("#seed ~ input[type=range]").send_keys(Keys.ARROW_RIGHT)
    page.until("shown.settings.seed === 43", "the slider moved by a key")


def is_labelled(page):
    """to a screen reader, whatever can be used has a name"""
    page.find("#pin-a").click()
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "slider", "spinbutton", "textbox", "combobox", "link", "image", "figure", "form", "region", "list"}
    used = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(used) > 40, len(used)
    unnamed = [(node["role"]["value"], node.get("nodeId")) for node in used
               if node["role"]["value"] not in ("figure", "list") and not node.get("name", {}).get("value")]  # fmt: skip
    assert not unnamed, unnamed
    ids = page.js("return [...document.querySelectorAll('[id]')].map(n => n.id)")
    assert len(ids) == len(set(ids))


def fits(page, folder):
    """no part is wider than the screen, at 1,400 and at 390 pixels, light and dark"""
    page.find("#pin-a").click()
    for width, height in ((1400, 1000), (390, 844)):
        for dark in (False, True):
            page.size(width, height, dark)
            found = page.js("return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
            assert found[0] <= width, (width, found)
            wide = page.js("return [...document.querySelectorAll('body *')].filter(n => n.getBoundingClientRect().right > innerWidth + 1 "
                           "&& !n.closest('.hidden') && !n.closest('svg svg')).map(n => n.id || n.className).slice(0, 5)")  # fmt: skip
            assert not wide, wide
            page.js("scrollTo(0, 0)")
            if folder:
                page.driver.save_screenshot(str(folder / f"play-{width}-{'dark' if dark else 'light'}.png"))
    page.size(1400, 1000)


def asks_nobody_else(page):
    """every request goes to the server itself"""
    names = page.js("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(names) >= 5 and all(name.startswith(page.url.partition("#")[0]) for name in names), names


#: Changes the seed as typing does; answers with [milliseconds to the picture, of them in the server] when it is drawn.
CHANGE = """
const [seed, done] = arguments, field = document.getElementById("seed");
performance.clearMeasures();
new PerformanceObserver((found, observer) => {
  observer.disconnect();
  done([found.getEntries()[0].duration, 1000 * shown.seconds]);
}).observe({ type: "measure" });
field.value = seed;
field.dispatchEvent(new Event("input"));
"""


def latency(page, count):
    """the time from an input event to the picture, of single changes at the default size; nothing else is asked meanwhile"""
    found = []
    for i in range(count):
        found.append(page.driver.execute_async_script(CHANGE, 100 + i))
        time.sleep(0.05)
    total, server = (sorted(values) for values in zip(*found))
    late = round(0.95 * (count - 1))
    return (f"from the change to the picture: median {statistics.median(total):.0f} ms, 95th percentile {total[late]:.0f} ms; "
            f"of it in the server {statistics.median(server):.0f} and {server[late]:.0f} ms")  # fmt: skip


CHECKS = (draws, drags, types, pastes, cancels, pins, restores, keeps_heads_dividing, answers_keys, is_labelled, asks_nobody_else)


def main():
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write pictures of the page")
    p.add_argument("--latency", type=int, default=40, metavar="N", help="number of changes that are timed")
    given = p.parse_args()
    if given.screenshots:
        given.screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "my.txt").write_text(TEXT, encoding="utf-8")
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))}
        os.environ["PYTHONPATH"] = env["PYTHONPATH"]
        server = subprocess.Popen([sys.executable, "-m", "microgpt", "play", "--no-browser"], cwd=folder, env=env,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        driver = None
        try:
            url = server.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), url
            driver = browser()
            page = Page(driver, url)
            page.size(1400, 1000)
            for check in CHECKS:
                page.open()
                said = check(page)
                page.no_errors() if check is not pastes else page.driver.get_log("browser")  # where it asks for lines, 400 is right
                print(f"ok  {check.__doc__}{f' ({said})' if said else ''}", flush=True)
            page.open()
            fits(page, given.screenshots)
            print(f"ok  {fits.__doc__}", flush=True)
            page.open()
            print(f"{len(CHECKS) + 1} checks of the page; {latency(page, given.latency)}")
        finally:
            if driver:
                driver.quit()
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main()
