"""A page of another site, open in the same browser, can neither change nor read anything."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from melange.server.control import CONSOLE_PREFIX


@pytest.fixture
def other_site():
    """A site on another port with an empty page. ``localhost`` and ``127.0.0.1`` are different sites to a browser."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>another site</title>")

        def log_message(self, *_):
            pass

    site = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=site.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{site.server_port}/"
    site.shutdown()
    site.server_close()
    thread.join()


@pytest.fixture
def other_page(context, other_site):
    page = context.new_page()
    page.goto(other_site)
    return page


def test_a_form_of_another_site_purges_nothing(given, server, context, other_page):
    url = given.queue()
    given.send(url, "order 1")
    address = f"{server.url}{CONSOLE_PREFIX}queues/{given.arn(url)}/purge"
    context.new_page().goto(server.url + CONSOLE_PREFIX)  # the console is open in another tab

    with other_page.expect_navigation():
        other_page.evaluate(
            """address => {
                const form = document.createElement("form");
                form.method = "post";
                form.action = address;
                document.body.append(form);
                form.submit();
            }""",
            address,
        )

    assert "refused" in other_page.content()
    assert [message["Body"] for message in given.receive(url)] == ["order 1"]


@pytest.mark.parametrize(
    "options",
    [
        "{method: 'POST', mode: 'no-cors', body: new URLSearchParams({Action: 'PurgeQueue', QueueUrl: queue})}",
        "{method: 'POST', mode: 'no-cors', headers: {'Content-Type': 'text/plain'}, body: '{}'}",
        "{method: 'POST', headers: {'X-Amz-Target': 'AmazonSQS.PurgeQueue'}, body: '{}'}",
        "{method: 'DELETE'}",
    ],
)
def test_a_script_of_another_site_calls_nothing(given, server, other_page, options):
    url = given.queue()
    given.send(url, "order 1")

    for path in ("/", "/_melange/reset", "/_melange/faults"):
        other_page.evaluate(
            f"([address, queue]) => fetch(address, {options}).catch(() => null)", [server.url + path, url]
        )

    assert [message["Body"] for message in given.receive(url)] == ["order 1"]


def test_a_script_of_another_site_reads_nothing(given, server, other_page):
    given.queue("secret-name")

    for path in (CONSOLE_PREFIX, "/_melange/state", "/?Action=ListQueues"):
        for mode in ("cors", "no-cors"):
            text = other_page.evaluate(
                "([address, mode]) => fetch(address, {mode}).then(answer => answer.text()).catch(() => '')",
                [server.url + path, mode],
            )
            assert "secret-name" not in text


def test_the_console_cannot_be_put_into_a_frame(given, server, other_page):
    given.queue("secret-name")

    other_page.evaluate(
        """address => new Promise(done => {
            const frame = document.createElement("iframe");
            frame.onload = done;
            frame.src = address;
            document.body.append(frame);
        })""",
        server.url + CONSOLE_PREFIX,
    )

    [frame] = [frame for frame in other_page.frames if frame != other_page.main_frame]
    assert "secret-name" not in frame.content()
