"""The chat page in a real browser, against a live server with the embedded chat model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("playwright", reason="needs the test-page extra")

from playwright.sync_api import expect, sync_playwright

from live_server import LiveServer, load_embedded, post, slowly, until

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}

# A server in a process of its own, slow enough to be killed in the middle of an answer.
_SLOW_SERVER = """
import sys
from live_server import slowly
from llama_cu.server.run import run_server
from llama_cu.server.settings import Settings
run_server(Settings(model_name="chat"), slowly(0.02, "chat"), host="127.0.0.1",
           port=int(sys.argv[1]), on_listen=print)
"""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(_BROWSERS)}")
    with sync_playwright() as running:
        started = running.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def server():
    with LiveServer(slowly(0.01, "chat"), model_name="chat") as live:
        yield live


class Tab:
    """A page of the browser, and what a person finds and does on it."""

    def __init__(self, context, url):
        self.page = context.new_page()
        self.problems = []
        self.hosts = set()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console",
            lambda said: said.type in ("error", "warning") and self.problems.append(said.text),
        )
        self.page.on("request", lambda request: self.hosts.add(_host(request.url)))
        self.page.goto(url)
        expect(self.page.locator("#model")).to_contain_text("tokens")

    @property
    def prompt(self):
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def answers(self):
        return self.page.locator(".answer")

    def say(self, text):
        self.prompt.fill(text)
        self.prompt.press("Enter")

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def wait_for_text(self, num_chars=30):
        self.page.wait_for_function(
            "n => [...document.querySelectorAll('.answer')].at(-1)?.textContent.length > n",
            arg=num_chars,
        )

    def wait_for_end(self, timeout_s=60):
        expect(self.page.locator("article").last.get_by_label("Answer again")).to_be_visible(
            timeout=timeout_s * 1000
        )

    def chat(self):
        """The open conversation as the browser keeps it."""
        text = self.page.evaluate("localStorage.getItem('llama-cu:chat:' + location.hash.slice(1))")
        return json.loads(text)

    def last(self):
        return self.chat()["messages"][-1]


def _host(url):
    return re.sub(r"^(https?://[^/]*|data:|blob:).*", r"\1", url, flags=re.DOTALL)


@pytest.fixture
def tabs(browser):
    """open(url, **options) opens a tab; tabs without options share one profile."""
    contexts, opened = {}, []

    def open_tab(url, **options):
        key = json.dumps(options)
        if key not in contexts:
            contexts[key] = browser.new_context(**options)
            contexts[key].set_default_timeout(30_000)
        opened.append((Tab(contexts[key], url), url))
        return opened[-1][0]

    yield open_tab
    for context in contexts.values():
        context.close()
    for tab, url in opened:
        assert tab.problems == []
        assert tab.hosts <= {_host(url), "data:", "blob:"}


@pytest.fixture
def tab(tabs, server):
    return tabs(server.url)


def undisturbed(server, chat):
    """What the server answers to the last question of a conversation, asked in one piece."""
    *asked, answer = chat["messages"]
    messages = [{"role": said["role"], "content": said["content"]} for said in asked]
    body = {"model": "chat", "messages": messages, "seed": answer["seed"]}
    return post(server, "/v1/chat/completions", body)[1]["choices"][0]["message"]["content"]


def answer_with(page, text, size=7):
    """Let the next answers be this text, in pieces."""
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    chunks = [json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in pieces]
    body = "".join(f"data: {data}\n\n" for data in [*chunks, "[DONE]"])
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=body, content_type="text/event-stream"),
    )


def test_the_page_is_one_small_file_without_outside_resources():
    text = (files("llama_cu.server") / "page.html").read_text(encoding="utf-8")

    assert len(text.encode()) < 60_000
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?(https?:)?//", text)


def test_an_answer_streams_in_and_ends_with_its_figures(tab, server):
    tab.say("Tell me a story about a red boat.")

    expect(tab.button("Stop")).to_be_visible()
    tab.wait_for_end()

    assert tab.last()["content"] == undisturbed(server, tab.chat())
    expect(tab.page.locator(".facts")).to_have_text(
        re.compile(r"^[\d.,]+ tokens/s · \d+ tokens · \d+ of \d+ prompt tokens reused")
    )
    expect(tab.button("Send")).to_be_visible()
    assert tab.page.locator("#announcer").text_content()


def test_stop_keeps_the_partial_answer_frees_the_server_and_can_be_continued(tab, server):
    tab.say("Tell me a story about a red boat.")
    tab.wait_for_text()

    tab.prompt.press("Escape")

    until(lambda: not server.scheduler.running)
    partial = tab.last()
    assert partial["state"] == "stopped" and partial["content"]
    tab.button("Continue").click()
    expect(tab.button("Continue")).to_have_count(0)
    tab.wait_for_end()
    whole = tab.last()["content"]
    assert len(whole) > len(partial["content"]) and whole.startswith(partial["content"])
    assert whole == undisturbed(server, tab.chat())


def test_an_edited_message_is_sent_again_and_undo_brings_the_old_turns_back(tab, server):
    for text in ("My name is Tom.", "What is my name?"):
        tab.say(text)
        tab.wait_for_end()
    before = tab.chat()["messages"]

    tab.button("Edit message").first.click()
    editor = tab.page.get_by_label("Edit your message")
    expect(editor).to_be_focused()
    editor.fill("My name is Ann.")
    editor.press("Enter")
    expect(tab.answers).to_have_count(1)
    tab.wait_for_end()

    assert tab.chat()["messages"][0]["content"] == "My name is Ann."
    assert tab.last()["content"] == undisturbed(server, tab.chat())
    tab.button("Undo").click()
    expect(tab.answers).to_have_count(2)
    assert tab.chat()["messages"] == before


def test_answering_again_draws_another_seed(tab):
    tab.say("Tell me a story about a cat.")
    tab.wait_for_end()
    first = tab.last()

    tab.button("Answer again").click()
    expect(tab.button("Stop")).to_be_visible()
    tab.wait_for_end()

    assert len(tab.chat()["messages"]) == 2
    assert tab.last()["seed"] != first["seed"]
    assert tab.last()["content"] != first["content"]


def test_two_tabs_answer_two_conversations_at_once(tabs, server):
    first, second = tabs(server.url), tabs(server.url)

    first.say("Tell me a story about a red boat.")
    second.say("Tell me a story about a blue bird.")
    first.wait_for_end()
    second.wait_for_end()

    for tab in (first, second):
        assert tab.last()["content"] == undisturbed(server, tab.chat())
        expect(tab.page.locator("#chats li")).to_have_count(2)
    assert first.chat()["id"] != second.chat()["id"]


def test_a_second_tab_watches_an_answer_and_deleting_it_there_ends_it_here(tabs, server):
    first = tabs(server.url)
    first.say("Tell me a story about a red boat.")
    first.wait_for_text()
    second = tabs(first.page.url)

    second.wait_for_text()
    expect(second.page.locator("#notice")).to_contain_text("another tab")
    second.page.get_by_label(re.compile("^Delete Tell me")).click()

    until(lambda: not server.scheduler.running)
    expect(first.page.locator("#hello")).to_be_visible()
    expect(first.page.locator("#chats li")).to_have_count(0)


def test_a_reload_in_the_middle_of_an_answer_loses_nothing(tab, server):
    tab.say("Tell me a story about a red boat.")
    tab.wait_for_text()
    tab.prompt.fill("a draft")

    tab.page.reload()

    expect(tab.prompt).to_have_value("a draft")
    tab.wait_for_text(1)
    tab.wait_for_end()
    assert tab.last()["content"] == undisturbed(server, tab.chat())


class SlowServer:
    """The slow server on one port, through several lives."""

    def __init__(self, environment):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        tests = str(Path(__file__).parent)
        path = os.pathsep.join([environment["PYTHONPATH"], tests])
        self._environment = {**environment, "PYTHONPATH": path}
        self.start()

    def start(self):
        command = [sys.executable, "-c", _SLOW_SERVER, str(self.port)]
        self._process = subprocess.Popen(
            command,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._is_ready, 60)

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _is_ready(self):
        try:
            return urllib.request.urlopen(self.url + "/health", timeout=5).close() is None
        except OSError:
            return False


@pytest.fixture
def slow_server(program_environment):
    server = SlowServer(program_environment)
    yield server
    server.kill()


def test_a_server_that_is_killed_and_comes_back_goes_on_with_the_same_answer(tabs, slow_server):
    tab = tabs(slow_server.url)
    tab.say("Tell me a story about a red boat.")
    tab.wait_for_text()

    slow_server.kill()

    notice = tab.page.locator("#notice")
    expect(notice).to_contain_text("The connection broke off")
    shown = tab.answers.text_content()
    assert len(shown) > 30
    tab.button("Try now").click()
    expect(notice).to_contain_text("The connection broke off")
    slow_server.start()
    expect(notice).to_be_empty()
    assert tab.answers.text_content().startswith(shown)
    tab.wait_for_end()
    assert tab.last()["content"] == undisturbed(slow_server, tab.chat())
    # The browser itself reports connections that were refused, and a server that still loads.
    tab.problems = [said for said in tab.problems if "Failed to load resource" not in said]


HOSTILE = """<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2">

# <svg onload=window.hacked=3>

- [run](javascript:window.hacked=4) and [data](data:text/html,x) ![p](https://evil.test/a.png)
- `<b>`

| <i>a</i> | b |
| --- | --- |
| <iframe src="https://evil.test"></iframe> | <style>*{display:none}</style> |

```html
</code></pre><script>window.hacked = 5</script>
"""


def test_html_in_an_answer_is_text_and_only_web_links_are_links(tab):
    answer_with(tab.page, HOSTILE)
    tab.say("</article><img src=x onerror=window.hacked=6>")
    tab.wait_for_end()

    answer = tab.answers.last
    expect(answer).to_contain_text("<script>window.hacked = 1</script>")
    expect(answer).to_contain_text("run (javascript:window.hacked=4)")
    expect(answer.locator("pre")).to_contain_text("window.hacked = 5")
    for link in answer.locator("a").all():
        assert link.get_attribute("href").startswith("https://")
        assert "noopener" in link.get_attribute("rel")
    expect(tab.page.locator("#messages :is(script, img, iframe, style, b, i)")).to_have_count(0)
    assert tab.page.evaluate("window.hacked") is None


MARKDOWN = """## Head

A **bold *nested*** word, `a < b`, ~~gone~~, snake_case_name, 2 * 3 * 4, https://example.org/a_b.

1. one
   - inner
2. two

> quoted

| left | right |
| ---- | ----: |
| 1 | `x` |

```python
def f():
\treturn "**"
```
after
"""


def test_markdown_becomes_headings_lists_tables_and_code(tab):
    answer_with(tab.page, MARKDOWN)
    tab.say("Show all.")
    tab.wait_for_end()

    answer = tab.answers.last
    expect(answer.get_by_role("heading", name="Head")).to_be_visible()
    expect(answer.locator("strong")).to_have_text("bold nested")
    expect(answer.locator("strong em")).to_have_text("nested")
    expect(answer.locator("p").first).to_contain_text("snake_case_name, 2 * 3 * 4,")
    expect(answer.locator("a")).to_have_attribute("href", "https://example.org/a_b")
    expect(answer.locator("ol > li")).to_have_count(2)
    expect(answer.locator("ol > li > ul > li")).to_have_text("inner")
    expect(answer.locator("blockquote")).to_have_text("quoted")
    expect(answer.locator("th")).to_have_text(["left", "right"])
    expect(answer.locator("td")).to_have_text(["1", "x"])
    expect(answer.locator("pre")).to_have_text('def f():\n\treturn "**"')
    expect(answer.locator("p").last).to_have_text("after")


@pytest.mark.parametrize("piece", ["**a", "*a ", "[", "`a ``", "> ", "- ", "| a ", "_", "# ", "\\"])
def test_a_long_answer_of_marks_is_drawn_in_time(tab, piece):
    text = piece * (20_000 // len(piece))
    answer_with(tab.page, text, size=5000)
    began = time.monotonic()
    tab.say("Go.")
    tab.wait_for_end()

    assert time.monotonic() - began < 10
    assert tab.last()["content"] == text


def test_settings_travel_with_the_request_and_stay_with_the_conversation(tab):
    tab.button("Settings of this conversation").click()
    tab.page.get_by_label("System prompt").fill("You are kind.")
    tab.page.get_by_label("Temperature").fill("0")
    tab.page.get_by_label("Most tokens").fill("5")
    tab.button("Save").click()
    with tab.page.expect_request("**/v1/chat/completions") as sent:
        tab.say("Hi")
    tab.wait_for_end()

    body = sent.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "You are kind."}
    assert (body["temperature"], body["max_tokens"]) == (0, 5)
    assert "top_p" not in body and "top_k" not in body
    expect(tab.page.locator(".facts")).to_contain_text("5 tokens")
    expect(tab.page.locator(".facts")).to_contain_text("cut at the limit")
    tab.page.reload()
    tab.button("Settings of this conversation").click()
    expect(tab.page.get_by_label("Temperature")).to_have_value("0")


def test_a_full_context_is_named_and_the_oldest_turns_can_be_left_out(tabs):
    with LiveServer(load_embedded("chat", max_model_len=128), model_name="chat") as small:
        tab = tabs(small.url)
        tab.say("Hi. " * 20)
        tab.wait_for_end()
        tab.say("Hello. " * 15)
        expect(tab.page.locator("#notice")).to_contain_text("tokens, but at most")
        tab.problems.clear()  # the browser reports the 400

        tab.button("Leave out the oldest turns").click()

        expect(tab.page.locator(".edge")).to_be_visible()
        tab.wait_for_end()
        assert tab.last()["content"]
        assert len(tab.chat()["messages"]) == 4


def test_a_busy_server_is_asked_again(tab):
    refusals = []
    refusal = {
        "status": 429,
        "headers": {"Retry-After": "1"},
        "json": {"error": {"message": "the queue is full"}},
    }

    def refuse_once(route):
        if refusals:
            route.continue_()
        else:
            refusals.append(route)
            route.fulfill(**refusal)

    tab.page.route("**/v1/chat/completions", refuse_once)
    tab.say("Hi")

    expect(tab.page.locator("#notice")).to_contain_text("the queue is full")
    tab.wait_for_end()
    assert tab.last()["state"] == "done" and refusals
    tab.problems.clear()


def test_an_error_is_told_in_words_and_can_be_tried_again(tab):
    error = {"error": {"message": "the computation failed: boom"}}
    tab.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=500, json=error))
    tab.say("Hi")

    expect(tab.page.locator("#notice")).to_contain_text("the computation failed: boom")
    tab.page.unroute("**/v1/chat/completions")
    tab.button("Try again").click()
    expect(tab.page.locator("#notice")).to_be_empty()
    tab.wait_for_end()
    assert tab.last()["state"] == "done"
    tab.problems.clear()


def test_the_browser_gives_the_key_and_its_want_is_told(tabs):
    with LiveServer(load_embedded("chat"), model_name="chat", api_key="s3cret") as locked:
        tab = tabs(locked.url, http_credentials={"username": "me", "password": "s3cret"})
        tab.say("Hi")
        tab.wait_for_end()
        assert tab.last()["content"]

        tab.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=401, json={}))
        tab.say("Hi again")
        expect(tab.page.locator("#notice")).to_contain_text("API key")
        tab.problems.clear()


def test_conversations_are_renamed_deleted_and_brought_back(tab):
    for text in ("Hi", "Hello there"):
        tab.button("New conversation").click()
        tab.say(text)
        tab.wait_for_end()

    tab.button("Rename Hi").click(force=True)
    name = tab.page.get_by_label("Name of the conversation")
    name.fill("Greetings")
    name.press("Enter")
    tab.button("Delete Greetings").click(force=True)
    expect(tab.button("Greetings")).to_have_count(0)
    tab.button("Undo").click()

    expect(tab.page.locator("h1")).to_have_text("Greetings")
    expect(tab.page.locator(".said")).to_have_text("Hi")


_FOCUSED = (
    "(({ ariaLabel, textContent }) => ariaLabel ?? textContent.trim())(document.activeElement)"
)


def test_everything_is_done_by_keyboard_alone(tab):
    keys = tab.page.keyboard
    expect(tab.prompt).to_be_focused()
    keys.type("first line")
    keys.press("Shift+Enter")
    keys.type("second")
    keys.press("Enter")
    tab.wait_for_end()
    assert tab.chat()["messages"][0]["content"] == "first line\nsecond"

    keys.press("ArrowUp")
    expect(tab.page.get_by_label("Edit your message")).to_be_focused()
    keys.press("Escape")
    expect(tab.prompt).to_be_focused()
    names = []
    for _ in range(20):
        keys.press("Tab")
        names.append(tab.page.evaluate(_FOCUSED))
    for name in ("New conversation", "Settings of this conversation", "Answer again",
                 "Copy answer", "Edit message", "Rename first line second",
                 "Switch between light and dark"):  # fmt: skip
        assert name in names


def test_on_a_phone_the_list_is_a_drawer_and_nothing_is_wider_than_the_screen(tabs, server):
    tab = tabs(server.url, **_PHONE)
    answer_with(tab.page, MARKDOWN + "\n```\n" + "wide " * 99 + "\n```\n" + "w" * 300)
    tab.say("Hi")
    tab.wait_for_end()

    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(tab.button("New conversation")).not_to_be_visible()
    tab.button("Conversations").click()
    expect(tab.button("New conversation")).to_be_focused()
    tab.page.keyboard.press("Escape")
    expect(tab.button("New conversation")).not_to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, _PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_to_complain_about(tabs, server, scheme, size):
    package = pytest.importorskip("axe_playwright_python", reason="needs the test-page extra")
    tab = tabs(server.url, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True, **size)
    answer_with(tab.page, MARKDOWN)
    tab.say("Hi")
    tab.wait_for_end()
    tab.page.add_script_tag(path=files(package) / "axe.min.js")

    assert _complaints(tab) == []
    tab.button("Settings of this conversation").click()
    assert _complaints(tab) == []


def _complaints(tab):
    found = tab.page.evaluate("axe.run()")["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
