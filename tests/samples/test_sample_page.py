"""The sample page in a real browser, against a server that says what the test tells it to say."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.samples.scripted_server import PAGE, SOON, Connection, Frame, Server, scripted_server, text

FALLBACK = "/usr/bin/chromium"
CHROMIUM = shutil.which("chromium") or (FALLBACK if os.access(FALLBACK, os.X_OK) else None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

WALLET = "4QggbWjwr778v4mEMCVQ2qHqTHWn7wbWCAhaoNSd3LWU"
OTHER = "87KgTefPaFY9MJtWJq7tAqdnKntUbHhNjtrMSYVAbaUV"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]

expect.set_options(timeout=SOON * 1000)

# Records every text of the status badge, and takes the chance out of the back-off: it waits for no time at all, unless
# the test sets `longest`: then for the longest possible.
INSTRUMENTS = """
    window.longest = 0;
    Math.random = () => window.longest;
    window.statuses = [];
    document.addEventListener("DOMContentLoaded", () => {
      const badge = document.getElementById("status");
      const note = () => window.statuses.push(badge.textContent);
      new MutationObserver(note).observe(badge, { childList: true, characterData: true, subtree: true });
    });
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[Server]:
    async with scripted_server() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser, server: Server) -> AsyncIterator[BrowserContext]:
    """Ends before the server, so that no connection keeps the server from ending."""
    context = await browser.new_context()
    context.set_default_timeout(SOON * 1000)
    await context.add_init_script(INSTRUMENTS)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A page whose clock the test may wind forward; an error in its script fails the test."""
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.clock.install(time=0)
    yield page
    assert errors == []


async def connected(page: Page, server: Server, **more: object) -> Connection:
    """Opens the page, which connects at once, and lets it in."""
    await page.goto(server.page(publicKey=WALLET, connect="1"))
    connection = await server.accept()
    await connection.establish(**more)
    await expect_state(page, "connected")
    return connection


async def expect_state(page: Page, state: str) -> None:
    await expect(page.locator(f'#status[data-state="{state}"]')).to_have_count(1)


async def freeze(page: Page) -> None:
    """From now on time passes only when the test says so, and the waits are the longest possible."""
    await page.clock.pause_at(3600)
    await page.evaluate("window.longest = 1")


async def wait_announced(page: Page) -> str:
    """What the badge said first when the connection was lost."""
    await page.wait_for_function("window.statuses.some((text) => text.startsWith('waiting'))")
    texts = [str(text) for text in await page.evaluate("window.statuses.splice(0)")]
    return next(text for text in texts if text.startswith("waiting"))


async def test_connects_as_the_wallet_and_asks_for_cursors(page: Page, server: Server) -> None:
    """Pressing Connect opens /api/ws with the wallet in the query; the badge follows."""
    await page.goto(server.page())
    await expect_state(page, "disconnected")
    assert await page.input_value("#server") == f"ws://{server.address}"
    await page.fill("#wallet", f" {WALLET} ")
    await page.click("#connect")
    await expect_state(page, "connecting")
    connection = await server.accept()
    await connection.establish()
    await expect_state(page, "connected")
    assert connection.query == {"publicKey": WALLET, "resume": "1"}


async def test_loads_nothing_from_elsewhere(page: Page, server: Server) -> None:
    """The page is one file."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await connected(page, server)
    assert requests == [server.page(publicKey=WALLET, connect="1")]


async def test_works_when_opened_from_disk(page: Page, server: Server) -> None:
    """Opened as a file, the server's address is typed in, with or without a scheme."""
    await page.goto(PAGE.as_uri())
    for address in (server.address, f"http://{server.address}/"):
        await page.fill("#server", address)
        await page.fill("#wallet", WALLET)
        await page.click("#connect")
        await (await server.accept()).establish()
        await expect_state(page, "connected")
        await page.click("#disconnect")


async def test_an_address_that_is_none_is_refused_with_a_reason(page: Page, server: Server) -> None:
    """Nonsense as a server does not leave the page in a state between."""
    await page.goto(server.page(publicKey=WALLET, server="ws://:no-port", connect="1"))
    await expect(page.locator("#notice")).to_contain_text("Cannot connect")
    await expect_state(page, "disconnected")


async def test_a_server_that_does_not_answer_is_reported(page: Page, server: Server, unused_tcp_port: int) -> None:
    """The page says why there is no connection, goes on trying, and forgets the complaint once there is one."""
    await page.goto(server.page(publicKey=WALLET, server=f"127.0.0.1:{unused_tcp_port}", connect="1"))
    await expect(page.locator("#notice")).to_contain_text("Could not connect: 1006")
    await page.click("#disconnect")
    await page.fill("#server", server.address)
    await page.click("#connect")
    await (await server.accept()).close(1012)
    await expect(page.locator("#notice")).to_contain_text("Could not connect: 1012")
    await (await server.accept()).establish()
    await expect(page.locator("#notice")).to_be_hidden()


async def test_shows_messages_by_conversation(page: Page, server: Server) -> None:
    """Messages of the conversation not looked at are counted as unread; other parts than text are shown as JSON."""
    connection = await connected(page, server)
    await connection.message("m1", text("What is in my wallet?"), role="user")
    await connection.message("m2", text("Here it is."), {"type": "data", "data": {"SOL": 3}})
    await expect(page.locator('.message[data-id="m2"]')).to_contain_text('{"data":{"SOL":3}}')
    await page.click('.conversation[data-id="c1"]')
    await expect(page.locator('.conversation[data-id="c1"]')).to_contain_text("What is in my wallet?")
    await connection.message("m3", text("Elsewhere"), conversation="c2")
    await expect(page.locator('.conversation[data-id="c2"] .unread')).to_have_text("1")
    await expect(page.locator('.message[data-id="m3"]')).to_be_hidden()
    await page.click("#all-conversations")
    await expect(page.locator(".message:visible")).to_have_count(3)
    await expect(page.locator('.conversation[data-id="c2"] .unread')).to_be_hidden()


async def test_a_task_keeps_its_card(page: Page, server: Server) -> None:
    """An update changes the card of its task in place, and an unfolded list stays unfolded."""
    connection = await connected(page, server)
    await connection.task("t1", "submitted", "Waiting")
    await connection.task("t2", "working", "Reading")
    await page.click('.task[data-id="t1"] .history summary')
    await connection.task("t1", "completed", "All done", steps=4)
    card = page.locator('.task[data-id="t1"][data-state="completed"]')
    await expect(card).to_contain_text("All done")
    await expect(card.locator(".history li:visible")).to_have_count(4)
    await expect(card.locator(".artifacts summary")).to_have_text("Artifacts (1)")
    await expect(page.locator(".task")).to_have_count(2)


async def test_data_is_never_taken_for_html(page: Page, server: Server) -> None:
    """Markup in any field is shown as the text it is."""
    connection = await connected(page, server)
    attack = '<img src=x onerror="window.hacked = true">'
    file: Frame = {"type": attack, "file": {"name": attack}}
    await connection.message(attack, text(attack), file, role=attack, conversation=attack)
    await connection.task(attack, attack, attack, conversation=attack)
    await connection.send(type="error", code=attack, message=attack)
    await connection.message("marker", text("marker"))
    await expect(page.locator('.message[data-id="marker"]')).to_be_visible()
    await expect(page.locator(".message .part").first).to_have_text(attack)
    assert await page.evaluate("[document.images.length, window.hacked]") == [0, None]


async def test_ping_shows_the_round_trip(page: Page, server: Server) -> None:
    """The timestamp comes back as it was sent; one that we did not send is no answer."""
    connection = await connected(page, server)
    await page.click("#ping")
    ping = await connection.next_frame()
    assert ping == {"type": "ping", "timestamp": ping["timestamp"]}
    await connection.send(type="pong", timestamp="another")
    await connection.message("marker", text("marker"))
    await expect(page.locator(".message")).to_have_count(1)
    await expect(page.locator("#rtt")).to_have_text("–")
    await connection.send(type="pong", timestamp=ping["timestamp"])
    await expect(page.locator("#rtt")).to_contain_text("ms")


async def test_keeps_the_connection_alive_and_notices_when_it_is_not(page: Page, server: Server) -> None:
    """A ping goes out every 25 s; when nothing at all came after one, the connection is given up."""
    connection = await connected(page, server)
    await page.clock.fast_forward(25_000)
    await connection.send(type="pong", timestamp=(await connection.next_frame())["timestamp"])
    await expect(page.locator("#rtt")).to_contain_text("ms")
    await page.clock.fast_forward(25_000)
    assert (await connection.next_frame())["type"] == "ping"
    await page.clock.fast_forward(25_000)
    await server.accept()


async def test_resumes_from_the_last_cursor(page: Page, server: Server) -> None:
    """Events and pongs move the cursor, and a reconnect asks for what came after it."""
    connection = await connected(page, server, cursor="e:5")
    await connection.message("m1", text("one"), cursor="e:6")
    await connection.close(1012)
    second = await server.accept()
    assert second.query == {"publicKey": WALLET, "since": "e:6"}
    await second.establish(recovered=True, replayed=0, cursor="e:8")
    await second.close(1012)
    third = await server.accept()
    assert third.query["since"] == "e:8"
    await third.establish(recovered=True, replayed=0, cursor="e:8")
    await expect(page.locator("#count-reconnects")).to_have_text("2")


async def test_a_replay_cut_short_is_taken_up_where_it_ended(page: Page, server: Server) -> None:
    """What connection_established promises to replay is not counted as seen before it has come."""
    connection = await connected(page, server, cursor="e:5")
    await connection.close(1012)
    second = await server.accept()
    await second.establish(recovered=True, replayed=3, cursor="e:8")
    await second.close(1012)
    third = await server.accept()
    assert third.query["since"] == "e:5"
    await third.establish(recovered=True, replayed=3, cursor="e:8")
    await third.message("m1", text("one of three"), cursor="e:6")
    await third.close(1012)
    assert (await server.accept()).query["since"] == "e:6"


async def test_says_that_history_must_be_fetched_again(page: Page, server: Server) -> None:
    """Without recovery the reason is shown, and the new cursor replaces the useless one."""
    connection = await connected(page, server, cursor="old:5")
    await connection.close(1012)
    second = await server.accept()
    await second.establish(recovered=False, reason="epoch_changed", cursor="new:1", refetch="/api/conversations")
    await expect(page.locator("#notice")).to_contain_text("epoch_changed")
    await expect(page.locator("#notice")).to_contain_text("Refetch the history from /api/conversations")
    await second.close(1012)
    assert (await server.accept()).query["since"] == "new:1"


async def test_asks_for_no_extension_unless_told_to(page: Page, server: Server) -> None:
    """With the box unchecked the page speaks the plain protocol, also when it reconnects."""
    await page.goto(server.page(publicKey=WALLET))
    await page.uncheck("#resume")
    await page.click("#connect")
    connection = await server.accept()
    await connection.establish()
    await connection.close(1012)
    assert (await server.accept()).query == connection.query == {"publicKey": WALLET}


async def test_a_cursor_left_behind_is_not_used_again(page: Page, server: Server) -> None:
    """After a connection without cursors the old one would replay what has been shown already."""
    connection = await connected(page, server, cursor="e:5")
    await page.uncheck("#resume")
    await connection.close(1012)
    second = await server.accept()
    assert second.query == {"publicKey": WALLET}
    await page.check("#resume")
    await second.close(1012)
    assert (await server.accept()).query == {"publicKey": WALLET, "resume": "1"}


@pytest.mark.parametrize(
    ("codes", "seconds"),
    [
        pytest.param([1012, 1001, *[4100] * 6], [1, 1, 2, 4, 8, 16, 30, 30], id="doubling-to-30-s"),
        pytest.param([4100, 4100, *[4200] * 5], [1, 1, 1, 1, 1, 2, 4], id="42xx-at-once-but-three-times-only"),
    ],
)
async def test_waits_as_the_close_code_asks(page: Page, server: Server, codes: list[int], seconds: list[int]) -> None:
    """That a connection was accepted does not end the back-off: a stable one does."""
    connection = await connected(page, server)
    await freeze(page)
    for code, wait in zip(codes, seconds, strict=True):
        await connection.close(code)
        assert await wait_announced(page) == f"waiting to reconnect in {wait} s"
        await page.clock.fast_forward(30_000)
        connection = await server.accept()
        await connection.establish()
        await expect_state(page, "connected")
    await page.clock.fast_forward(5_000)
    await connection.close(4100)
    assert await wait_announced(page) == "waiting to reconnect in 1 s"


@pytest.mark.parametrize(("code", "why"), [(4001, "authentication failed"), (4003, "not allowed"), (4099, "no reason")])
async def test_does_not_come_back_when_that_is_pointless(page: Page, server: Server, code: int, why: str) -> None:
    """After 40xx the page says why and stays away; the next connection is the one the user asks for."""
    connection = await connected(page, server)
    await connection.close(code)
    await expect_state(page, "disconnected")
    await expect(page.locator("#notice")).to_contain_text(why)
    await page.clock.fast_forward(60_000)
    await page.uncheck("#resume")
    await page.click("#connect")
    assert "resume" not in (await server.accept()).query


async def test_the_user_ends_it(page: Page, server: Server) -> None:
    """Disconnect closes with 1000 and nothing reconnects, neither after it nor out of a wait."""
    connection = await connected(page, server)
    await page.click("#disconnect")
    assert await asyncio.wait_for(connection.closed_with.get(), SOON) == 1000
    await freeze(page)
    await page.click("#connect")
    await (await server.accept()).close(1012)
    await expect_state(page, "waiting")
    await page.click("#disconnect")
    await expect_state(page, "disconnected")
    await page.clock.fast_forward(60_000)
    await page.evaluate("window.dispatchEvent(new Event('online'))")
    await page.uncheck("#resume")
    await page.click("#connect")
    assert "resume" not in (await server.accept()).query


async def test_two_thousand_frames_at_once(page: Page, server: Server) -> None:
    """Lists keep their newest entries, every frame is counted, and the page goes on answering."""
    connection = await connected(page, server)
    for number in range(2000):
        await connection.message(f"m{number}", text(f"number {number}"), conversation=f"c{number % 70}")
    await page.click("#ping")
    await expect(page.locator("#count-messages")).to_have_text("2000")
    await expect(page.locator('.message[data-id="m1999"]')).to_be_visible()
    bounded = (".message", ".frame", ".conversation[data-id]")
    assert [await page.locator(each).count() for each in bounded] == [200, 500, 50]
    assert (await connection.next_frame())["type"] == "ping"


async def test_offers_wallets_and_keeps_them_apart(page: Page, server: Server) -> None:
    """Choosing another known wallet moves the connection over and leaves nothing of the first one on the page."""
    await page.goto(server.page(publicKey=WALLET, wallets=f"{WALLET},{OTHER}", connect="1"))
    connection = await server.accept()
    await connection.establish(cursor="e:1")
    await connection.message("m1", text("for the first"), cursor="e:2")
    await expect(page.locator(".message")).to_have_count(1)
    await page.click(f'[data-wallet="{OTHER}"]')
    second = await server.accept()
    assert second.query == {"publicKey": OTHER, "resume": "1"}
    await second.establish()
    await expect_state(page, "connected")
    assert "for the first" not in await page.inner_text("body")


async def test_the_log_can_be_paused_cleared_and_unfolded(page: Page, server: Server) -> None:
    """While paused nothing moves; afterwards nothing is missing."""
    connection = await connected(page, server)
    await page.click("#log-pause")
    await page.click("#log-clear")
    await connection.message("m1", text("one"))
    await expect(page.locator("#log-pause")).to_have_text("Continue (1 new)")
    await expect(page.locator(".frame")).to_have_count(0)
    await page.click("#log-pause")
    await page.click(".frame summary")
    await expect(page.locator(".frame pre")).to_contain_text('"conversation_id": "c1"')


async def test_fits_a_telephone(page: Page, server: Server) -> None:
    """At 400 pixels nothing sticks out."""
    await page.set_viewport_size({"width": 400, "height": 800})
    connection = await connected(page, server)
    await connection.message("m1", text("a word " * 50 + "a" * 300), {"type": "data", "data": "b" * 300}, role="user")
    await connection.task("t1", "working", "c" * 300)
    await expect(page.locator(".task")).to_have_count(1)
    for box in ("html", "#conversations", "#messages", "#tasks", "#frames"):
        assert await page.locator(box).evaluate("(box) => box.scrollWidth <= box.clientWidth"), box
