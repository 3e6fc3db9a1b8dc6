"""The lessons in JupyterLab, in a real browser: `make browser`.

Each lesson is opened from a server started as `make lab` starts it, run to its end, its explorers
are worked by keyboard and mouse, one exercise is answered wrong and right. Screenshots of the whole
lesson, light and dark, 1280 pixels wide, go to the folder that `COURSE_BROWSER` names. Nothing is
saved: autosave is off.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FOLDER = os.environ.get("COURSE_BROWSER")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="make browser runs it: it takes minutes"),
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here"),
]
WIDTH, HEIGHT = 1280, 1400
# Lesson 01 ends by stopping its server: these run again before its explorer is tried.
AGAIN = {"01": ("server", "client")}
MINUTES = 15  # for a lesson to run: the machine may be busy with others
# As root Chromium needs the first; the others keep it from asking the network for anything.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SETTINGS = {
    "docmanager-extension/plugin": {"autosave": False},
    # all cells in the page, also those out of sight, so that the test can look at them
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a running JupyterLab, as the learner reads it in the terminal."""
    home = tmp_path_factory.mktemp("learner")
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    env = {k: v for k, v in os.environ.items() if k not in (*executing.STATIC, "JUPYTER_TOKEN")}
    env["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    env["COURSE_PROGRESS"] = str(home / "progress.json")
    command = [sys.executable, "-u", "-m", "course_utils", "lab", "--port", "0", "--no-browser"]
    with subprocess.Popen(
        command, env=env, cwd=notebooks.ROOT, stdout=subprocess.PIPE, text=True
    ) as lab:
        try:
            said = ""
            while lab.poll() is None and "Ctrl+C" not in said:
                said += lab.stdout.readline()
            yield re.search(r"http://\S+", said)[0]
        finally:
            lab.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """An empty browser's page."""
    sync_api = pytest.importorskip("playwright.sync_api", reason='pip install -e ".[browser]"')
    with sync_api.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=list(FLAGS),
            viewport={"width": WIDTH, "height": HEIGHT},
        )
        yield context.new_page()
        context.close()


def wait(what: str, ready, seconds: float) -> None:
    """Ask `ready()` until it says yes."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.5)


def menu(page, *path: str) -> None:
    """Choose from JupyterLab's menus."""
    page.get_by_role("menubar").get_by_text(path[0], exact=True).click()
    for name in path[1:]:
        page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).last.click()


def prompts(page) -> list[str]:
    """What stands before the code cells: "[3]:", "[*]:" while one runs, "[ ]:" before."""
    found = page.locator(".jp-CodeCell .jp-InputArea-prompt").all_inner_texts()
    return [text.strip() for text in found]


def open_and_run(page, address: str, path: Path) -> None:
    """Open a lesson in a fresh workspace and run all its cells."""
    name = path.relative_to(notebooks.ROOT).as_posix()
    url = address.replace("/lab/tree/", f"/lab/workspaces/{path.stem}/tree/")
    page.goto(re.sub(r"tree/.*\?", f"tree/{name}?", url))
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=120_000)
    idle = page.locator('.jp-NotebookPanel-toolbar [data-status="idle"]')
    idle.wait_for(state="attached", timeout=180_000)
    code = sum(cell.cell_type == "code" for cell in notebooks.read(path).cells)
    # The setup cell is stored folded, and a folded cell has no prompt; answers are stored hidden.
    menu(page, "View", "Expand All Code")
    menu(page, "View", "Expand All Outputs")
    wait("all cells shown", lambda: len(prompts(page)) == code, 60)
    menu(page, "Edit", "Clear Outputs of All Cells")
    wait("outputs cleared", lambda: set(prompts(page)) == {"[ ]:"}, 30)
    menu(page, "Run", "Run All Cells")
    done = re.compile(r"\[\d+\]:")
    wait("run to its end", lambda: all(map(done.fullmatch, prompts(page))), 60 * MINUTES)


def cells(page, path: Path) -> dict[str, object]:
    """The code cells of the open lesson, by id."""
    ids = [cell.id for cell in notebooks.read(path).cells if cell.cell_type == "code"]
    return dict(zip(ids, page.locator(".jp-CodeCell").all(), strict=True))


def errors(cell) -> str:
    """The error a cell shows; empty where it shows none."""
    shown = cell.locator('[data-mime-type="application/vnd.jupyter.error"]')
    return shown.first.inner_text() if shown.count() else ""


def result(cell) -> str:
    """What a widget shows beside its controls."""
    return "".join(cell.locator(".widget-html-content, .jupyter-widgets img").evaluate_all(
        "found => found.map(one => one.outerHTML)"
    ))  # fmt: skip


def work(page, control) -> None:
    """Use one control as a learner without a mouse does."""
    kind = control.evaluate("one => one.type || one.className")
    control.focus()
    if kind == "text":
        control.fill("The coffee was cold and the waiter was rude.")
        page.keyboard.press("Enter")
    elif kind in ("checkbox", "submit", "button"):
        page.keyboard.press("Space")
    else:  # a slider's handle: one step back, or on where it is the first
        before = control.get_attribute("aria-valuetext")
        page.keyboard.press("ArrowLeft")
        if control.get_attribute("aria-valuetext") == before:
            page.keyboard.press("ArrowRight")


# Of a row to choose one from, the first that is not chosen. No list that drops down, no radio
# buttons: JupyterLab takes the arrow keys that those want.
CONTROLS = (
    ".jupyter-widgets .noUi-handle, .jupyter-widgets input[type=text]:enabled, "
    ".jupyter-widgets input[type=checkbox], .widget-toggle-buttons button:nth-child(1 of "
    ":not(.mod-active)), .widget-button:not(.mod-primary):enabled"
)
UNUSABLE = ".jupyter-widgets select, .jupyter-widgets input[type=radio]"


def work_explorer(page, name: str, cell) -> None:
    """Move each control of a widget and see the result change."""
    for control in cell.locator(CONTROLS).all():
        before = result(cell)
        work(page, control)
        wait(f"{name}: the result changes", lambda before=before: result(cell) != before, 60)


def write_and_run(page, cell, source: str = "") -> str:
    """Replace a cell's code, where there is another, run it, and return what it prints."""
    cell.locator(".cm-content").click()
    if source:
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(source)
    was = cell.locator(".jp-InputArea-prompt").inner_text()
    page.keyboard.press("Control+Enter")
    prompt = cell.locator(".jp-InputArea-prompt")
    wait("answered", lambda: prompt.inner_text() not in (was, "[*]:"), 120)
    return "\n".join(cell.locator(".jp-OutputArea-output").all_inner_texts())


def solved(path: Path, key: str) -> str:
    """The solution's code for an exercise."""
    solution = notebooks.read(path.parent / "solutions" / path.name)
    return next(
        cell.source
        for cell in solution.cells
        if cell.cell_type == "code" and f'check("{key}"' in cell.source
    )


def take_pictures(page, path: Path, theme: str) -> None:
    """Screenshots of the whole lesson, from top to bottom."""
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{path.stem}-{theme}-*.png"):
        old.unlink()
    area = page.locator(".jp-NotebookPanel .jp-WindowedPanel-outer").first
    step = area.evaluate("one => one.clientHeight") - 40
    end = area.evaluate(
        """one => [...one.querySelectorAll('.jp-Cell')].pop().getBoundingClientRect().bottom
                  - one.getBoundingClientRect().top + one.scrollTop"""
    )  # below the last cell is an empty page
    for number, top in enumerate(range(0, int(end), step)):
        area.evaluate("(one, top) => { one.scrollTop = top }", top)
        page.wait_for_timeout(300)
        page.screenshot(path=folder / f"{path.stem}-{theme}-{number:02}.png")


def clipped(page) -> list[str]:
    """Outputs that are wider than their place and cannot be scrolled there."""
    return page.evaluate(
        """() => [...document.querySelectorAll(
             '.jp-OutputArea-output, .jp-RenderedMarkdown')].filter(one =>
             one.scrollWidth > one.clientWidth + 2 &&
             getComputedStyle(one).overflowX == 'hidden').map(one => one.innerText.slice(0, 80))"""
    )


@pytest.mark.parametrize("path", notebooks.lessons(), ids=lambda path: path.stem)
def test_lesson(page, address, path):
    """A learner who works through the lesson in JupyterLab."""
    stored = path.read_bytes()
    open_and_run(page, address, path)
    try:
        found = cells(page, path)
        tags = {cell.id: cell.metadata.get("tags", []) for cell in notebooks.read(path).cells}
        assert page.locator(".Toastify__toast").count() == 0, "JupyterLab asks something"
        for name, cell in found.items():
            assert bool(errors(cell)) == ("raises-exception" in tags[name]), errors(cell)
        for theme in ("Light", "Dark"):
            menu(page, "Settings", "Theme", f"JupyterLab {theme}")
            page.wait_for_timeout(1500)
            take_pictures(page, path, theme.lower())
        menu(page, "Settings", "Theme", "JupyterLab Light")
        assert clipped(page) == []
        assert page.locator(UNUSABLE).count() == 0, "not to be worked by keyboard in JupyterLab"
        for name in AGAIN.get(path.stem[:2], ()):
            write_and_run(page, found[name])
        for name, cell in found.items():
            if cell.locator(CONTROLS).count():
                work_explorer(page, name, cell)
        key = f"{path.stem[:2]}.1"
        name, starter = next(
            (cell.id, cell.source)
            for cell in notebooks.read(path).cells
            if cell.cell_type == "code" and f'check("{key}"' in cell.source
        )
        said = write_and_run(page, found[name], starter.replace("...", '"nonsense"'))
        assert f"Exercise {key}:" in said
        assert "correct" not in said and "not answered" not in said, said
        said = write_and_run(page, found[name], solved(path, key))
        assert f"Exercise {key}: correct." in said
    finally:
        menu(page, "Kernel", "Shut Down All Kernels…")
        page.get_by_role("button", name="Shut Down All").click()
    assert path.read_bytes() == stored, "the lesson was saved over the stored one"
