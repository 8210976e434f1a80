"""tools/app.py: what it refuses, its examples and server; the page itself in a headless browser.

The page is tried where Gradio, playwright and Chromium are installed; `docs/howto/app.md` says how.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import run_program
from project import ROOT

from panoptic_common.engine.training_run import with_packages
from panoptic_common.inference.media import MediaError
from panoptic_common.scenes.composition import CLASSES
from panoptic_tools import app, app_server
from panoptic_tools.app_examples import draw_nuclei, example_images, images_of_folder

NUCLEI = [{"name": "background", "isthing": 0}, {"name": "nucleus", "isthing": 1}]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in modules)


def with_gradio(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None):
        if name == "gradio":
            return object() if there else None
        return find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


# ---- without the page ----------------------------------------------------------------------------


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        status = app.main(words)
    except SystemExit as end:
        status = end.code
    assert status == 2
    told = capsys.readouterr().err
    assert told.startswith("app.py: ") or told.startswith(Path(sys.argv[0]).name)
    assert told.count("\n") == 1
    return told


def test_without_gradio_one_sentence_names_the_extra(monkeypatch, capsys):
    with_gradio(monkeypatch, False)
    assert "pip install gradio, or this project's extra [app]" in refusal(["nuclei"], capsys)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give --checkpoint FILE, or --model NAME"),
        (["nuclei", "--model", "nuclei"], "name the weights once"),
        (["--model", "nothing"], "there is no model nothing"),
        (["nowhere.pth", "--port", "0"], "nowhere.pth"),
        (["nuclei", "--port", "70000"], "--port is at most 65535"),
        (["nuclei", "--port", "-1"], "--port must be at least 0"),
        (["nuclei", "--port", "0", "--host", "no.such.host.invalid"], "no address of this machine"),
        (["nuclei", "--examples", "nowhere"], "there is no folder nowhere"),
        (["nuclei", "--opts", "A"], "pairs of key and value"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(monkeypatch, capsys, words, sentence):
    with_gradio(monkeypatch, True)
    assert sentence in refusal(words, capsys)


def test_a_port_in_use_is_refused_before_the_model_is_loaded(monkeypatch, capsys):
    with_gradio(monkeypatch, True)
    with app_server.bind("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        port = listener.getsockname()[1]
        # A file that is no checkpoint: it is not looked at.
        told = refusal([str(ROOT / "README.md"), "--port", str(port)], capsys)
    assert f"127.0.0.1:{port} cannot be listened at" in told and "another --port" in told


def test_examples_suit_the_model(tmp_path):
    assert [name for name, _ in example_images(CLASSES)] == ["scene_11", "scene_12", "scene_13"]
    drawn = example_images(NUCLEI)
    assert [name for name, _ in drawn] == [f"drawn_nuclei_{k}" for k in (1, 2, 3)]
    for name, image in (*drawn, *example_images(CLASSES)):
        assert image.dtype == np.uint8 and image.shape[2] == 3
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    found = images_of_folder(tmp_path, 200)
    assert len(found) == 6 and max(max(image.shape) for _, image in found) == 200
    with pytest.raises(MediaError, match="no image in this folder"):
        images_of_folder(ROOT / "tools", 0)


def test_drawn_nuclei_are_the_same_each_time_and_lighter_or_darker_than_the_ground():
    np.testing.assert_array_equal(draw_nuclei(1), draw_nuclei(1))
    grey, pink = draw_nuclei(1).mean(axis=2), draw_nuclei(1, stained=True).mean(axis=2)
    assert np.median(grey) < 40 < grey.max() - 40
    assert np.median(pink) > 180 > pink.min() + 40


def test_every_answer_tells_the_browser_to_stay_here():
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body"})

    async def keep(message):
        sent.append(message)

    asyncio.run(app_server.OwnSourcesOnly(application)({}, None, keep))
    assert sent[0]["headers"][0] == (b"a", b"b") and sent[1] == {"type": "http.response.body"}
    name, policy = sent[0]["headers"][1]
    assert name == b"content-security-policy" and b"http" not in policy


def test_help_needs_no_gradio():
    done = run_program("tools/app.py", "--help")
    assert done.returncode == 0 and "WEIGHTS" in done.stdout


# ---- the page ------------------------------------------------------------------------------------

MISSING = None
if not has("gradio"):
    MISSING = "Gradio is not installed (the extra [app])"
elif not has("playwright") or CHROMIUM is None:
    MISSING = "playwright or Chromium is not installed"
needs_browser = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module", params=["nuclei", "cops-nuclei"])
def server(request, tmp_path_factory):
    """The address of a running program; its end is looked at, too."""
    folder = tmp_path_factory.mktemp("app")
    environment = {**os.environ, **with_packages(ROOT), "TMPDIR": str(folder)}
    command = [sys.executable, str(ROOT / "tools/app.py"), request.param, "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        match = re.search(r"Open (http://127\.0\.0\.1:(\d+)) ", line)
        if match is None:
            process.kill()
            pytest.fail(line + process.stderr.read())
        yield request.param, match.group(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        told = process.stderr.read()
        assert "Traceback" not in told and "ended by SIGTERM" in told
    assert list(folder.glob("panoptic_app_*")) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(match.group(2)))) != 0


@pytest.fixture
def page(server):
    """The open page; at the end all that it asked for lies on this server."""
    from playwright.sync_api import sync_playwright

    asked = set()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.add(request.url))
        page.goto(server[1])
        yield page
        browser.close()
    others = [url for url in asked if not url.startswith((server[1], "data:", "blob:"))]
    assert others == [] and len(asked) > 5


def wait_for(page, text: str, other_than: str = "") -> str:
    """Wait until the message has a text and is another one, and nothing is in progress.

    Returns:
        Its last line, as it was at that moment.
    """
    handle = page.wait_for_function(
        "([text, old]) => { const all = document.querySelector('#message').innerText.trim();"
        " const now = all.split('\\n').pop(); const busy = /processing|queue/.test(all);"
        " return !busy && now.includes(text) && now !== old && now; }",
        arg=[text, other_than],
    )
    return handle.json_value()


@pytest.mark.slow
@needs_browser
def test_the_page_shows_an_example_a_pixel_and_what_the_slider_does(server, page, tmp_path):
    page.locator("#examples img").first.click()
    told = wait_for(page, "256 x 256 pixels")
    things = int(told.split(" thing")[0])
    assert things > 5
    page.locator("#panoptic img").click(position={"x": 100, "y": 120})
    told = wait_for(page, "Pixel (")
    page.locator("#pixel img").wait_for()
    title = {"nuclei": "affinity of the marked pixel", "cops-nuclei": "edges of the marked pixel"}
    assert title[server[0]] in page.locator("#pixel").inner_text()
    column = {"nuclei": "mean affinity", "cops-nuclei": "edge cost"}[server[0]]
    assert column in page.locator("#pixel_table").inner_text()
    assert "nucleus" in page.locator("#segments").inner_text()

    bar = page.locator("#slider input[type=range]")
    box = bar.bounding_box()
    bar.click(position={"x": box["width"] * 0.98, "y": box["height"] / 2})
    # The highest score leaves out things; the highest offset joins them.
    assert int(wait_for(page, "Pixel (", other_than=told).split(" thing")[0]) < things

    with page.expect_download() as download:
        page.get_by_role("button", name="COCO JSON").click()
    download.value.save_as(tmp_path / "panoptic.json")
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["images"][0]["file_name"] == "drawn_nuclei_1"
    assert [entry["name"] for entry in content["categories"]] == ["background", "nucleus"]


@pytest.mark.slow
@needs_browser
def test_the_page_takes_files_and_says_which_are_broken(page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nthis is no image")
    page.locator("#file input[type=file]").set_input_files(broken)
    told = wait_for(page, "broken: ")
    assert "cannot be read as an image" in told and str(tmp_path) not in told
    assert page.locator("#panoptic img").count() == 0

    # What browsers do not show, but microscopes write: 16 bits, of which the image uses few.
    deep = tmp_path / "deep.tiff"
    Image.fromarray(draw_nuclei(1)[:, :200, 0].astype(np.uint16) * 20).save(deep)
    page.locator("#file button[aria-label*='lear'], #file [aria-label*='emove']").first.click()
    wait_for(page, "Drop an image")
    page.locator("#file input[type=file]").set_input_files(deep)
    told = wait_for(page, "200 x 256 pixels")
    assert int(told.split(" thing")[0]) > 5
