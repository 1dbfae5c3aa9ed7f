"""Pages fetched from a real server on loopback, and the addresses that are never reached."""

import gzip
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runtime.errors import ToolError, ToolInvalid
from runtime.tools import fetch
from runtime.tools.fetch import fetch_tool, is_public
from runtime.tools.tool import ToolContext, ToolResult

PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700:4700::1111", "2002:808:808::"]
PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.127.255.255", "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.0.0.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1"),
    *("192.0.0.8", "192.0.0.192", "192.88.99.1", "3fff::1", "5f00::1"),
    *("2002:0a00:0001::", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe", "100::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


# -- a server ----------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A web server; `pages` are (status, headers, body) by path, `seen` (path, headers) of what was asked."""

    port: int = 0
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def put(self, path: str, body: bytes | str = b"", kind: str = "text/plain", status: int = 200, **more: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.pages[path] = (status, {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in more.items()}}, data)

    def redirect(self, path: str, to: str) -> None:
        self.put(path, status=302, Location=to)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.seen.append((self.path, dict(self.headers)))
            status, headers, body = site.pages.get(self.path, (404, {"Content-Type": "text/plain"}, b"not here"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # it was cut
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


class Names:
    """A resolver that knows what it is told."""

    def __init__(self, **known: list[str]) -> None:
        self.known, self.asked = known, 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        if host not in self.known:
            raise OSError("no such name")
        return self.known[host]


async def get(ctx: ToolContext, url: str, *hosts: str, names: Names | None = None) -> ToolResult:
    made = fetch_tool(hosts, names or Names())
    return await made.run(ctx, made.check({"url": url}))


async def page(ctx: ToolContext, site: Site, path: str) -> ToolResult:
    return await get(ctx, f"http://127.0.0.1:{site.port}{path}", f"127.0.0.1:{site.port}")


# -- who is reached ----------------------------------------------------------------------------------------------------


async def test_loopback_is_reached_only_when_allowed(ctx: ToolContext, site: Site) -> None:
    site.put("/", "hello")
    url = f"http://127.0.0.1:{site.port}/"
    for hosts in ((), ("127.0.0.1:1",), ("127.0.0.2",), ("localhost",)):
        with pytest.raises(ToolError, match="private network"):
            await get(ctx, url, *hosts)
    assert site.seen == []
    assert await get(ctx, url, "127.0.0.1") == ToolResult("hello")
    assert await get(ctx, url, f"127.0.0.1:{site.port}") == ToolResult("hello")


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1]/", "http://[::ffff:10.0.0.1]/", "http://169.254.169.254/latest", "http://[fe80::1]/"),
        *("http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://0/"),
    ],
)
async def test_no_way_of_writing_a_private_address_reaches_it(url: str, ctx: ToolContext) -> None:
    made = fetch_tool()  # with the system's own resolver, which knows numbers in many forms
    with pytest.raises(ToolError, match=r"private network|no host|no address"):
        await made.run(ctx, {"url": url})


@pytest.mark.parametrize("found", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:192.168.0.1"]])
async def test_a_name_of_a_private_address_is_not_reached(found: list[str], ctx: ToolContext) -> None:
    with pytest.raises(ToolError, match=r"'inner\.example' is in a private network"):
        await get(ctx, "http://inner.example/", names=Names(**{"inner.example": found}))


async def test_a_name_is_looked_up_once_and_kept_in_the_request(ctx: ToolContext, site: Site) -> None:
    site.put("/x", "hello")
    names = Names(**{"inner.example": ["127.0.0.1"]})
    url = f"http://Inner.Example:{site.port}/x"
    assert await get(ctx, url, "INNER.example", names=names) == ToolResult("hello")
    assert names.asked == 1
    assert site.seen[0][1]["Host"] == f"inner.example:{site.port}"


@pytest.mark.parametrize("error", [OSError("x"), UnicodeError("label too long")])
async def test_a_name_that_nobody_knows_is_told(error: Exception, ctx: ToolContext) -> None:
    async def fails(host: str, port: int) -> list[str]:
        raise error

    with pytest.raises(ToolError, match="there is no host"):
        await fetch_tool(resolve=fails).run(ctx, {"url": "http://nowhere.example/"})
    with pytest.raises(ToolError, match="there is no host"):
        await get(ctx, "http://empty.example/", names=Names(**{"empty.example": []}))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://example.org/", "only http"),
        ("file:///etc/passwd", "only http"),
        ("/etc/passwd", "only http"),
        ("", "only http"),
        ("http://", "only http"),
        ("http://me:secret@example.org/", "no password"),
        ("http://me@example.org/", "no password"),
        ("http://example.org:99999/", "no address"),
        ("http://exa\nmple.org/", "no address"),
        ("http://example.org:0/", "no such port"),
        ("http://xn--0.com/", "no address"),
        ("http://xn--a\u0301/", "no address"),
    ],
)
async def test_other_addresses_are_refused(url: str, told: str, ctx: ToolContext) -> None:
    names = Names()
    with pytest.raises(ToolError, match=told) as caught:
        await get(ctx, url, names=names)
    assert "secret" not in str(caught.value)
    assert names.asked == 0


async def test_a_server_that_is_away_is_told(ctx: ToolContext) -> None:
    with pytest.raises(ToolError, match="cannot be reached"):
        await get(ctx, "http://127.0.0.1:1/", "127.0.0.1")


# -- redirects ---------------------------------------------------------------------------------------------------------


async def test_three_redirects_are_followed_and_a_fourth_is_not(ctx: ToolContext, site: Site) -> None:
    for number in range(4):
        site.redirect(f"/{number}", f"/{number + 1}")
    site.put("/4", "there")
    assert await page(ctx, site, "/1") == ToolResult("there")
    site.seen.clear()
    with pytest.raises(ToolError, match="more than 3 times"):
        await page(ctx, site, "/0")
    assert [path for path, _ in site.seen] == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("http://10.0.0.1/", "private network"),
        ("//169.254.169.254/latest", "private network"),
        ("http://localhost/", "no host"),
        ("file:///etc/passwd", "only http"),
        ("http://me:pw@127.0.0.1/", "no password"),
        ("http://127.0.0.1:99999/", "no address"),
        ("http://xn--0.com/", "no address"),
    ],
)
async def test_a_redirect_is_looked_at_like_any_address(to: str, told: str, ctx: ToolContext, site: Site) -> None:
    site.redirect("/", to)
    with pytest.raises(ToolError, match=told):
        await page(ctx, site, "/")


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_a_failure_of_the_server_is_one_of_the_call(ctx: ToolContext, site: Site) -> None:
    site.put("/broken", "oh", status=500)
    assert await page(ctx, site, "/none") == ToolResult("[status 404]\nnot here", failed=True)
    assert await page(ctx, site, "/broken") == ToolResult("[status 500]\noh", failed=True)


async def test_a_page_is_read_so_far(ctx: ToolContext, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1000)
    site.put("/plain", b"x" * 5000)
    site.put("/packed", gzip.compress(b"x" * 500_000), Content_Encoding="gzip")
    site.put("/exact", b"x" * 1000)
    for path in ("/plain", "/packed"):
        assert await page(ctx, site, path) == ToolResult("x" * 1000 + "\n[cut]")
    assert await page(ctx, site, "/exact") == ToolResult("x" * 1000)


async def test_what_is_packed_takes_no_more_room_than_it_may(ctx: ToolContext, site: Site) -> None:
    site.put("/bomb", gzip.compress(b"x" * 200_000_000, 1), Content_Encoding="gzip")
    tracemalloc.start()
    try:
        found = await page(ctx, site, "/bomb")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == ToolResult("x" * fetch.MAX_BYTES + "\n[cut]")
    assert most < 30_000_000


async def test_what_follows_something_packed_is_not_read(ctx: ToolContext, site: Site) -> None:
    site.put("/", gzip.compress(b"short") + b"x" * 20_000_000, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        assert await page(ctx, site, "/") == ToolResult("short")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 10_000_000


async def test_something_packed_that_becomes_nothing_is_read_so_far(
    ctx: ToolContext, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1000)
    pack = zlib.compressobj(wbits=31)
    nothing = pack.compress(b"x") + b"".join(pack.flush(zlib.Z_FULL_FLUSH) for _ in range(1000))
    many = nothing + b"".join(b"\x00\x00\x00\xff\xff" for _ in range(10_000))
    site.put("/", many, Content_Encoding="gzip")
    assert await page(ctx, site, "/") == ToolResult("x\n[cut]")


@pytest.mark.parametrize("packed", ["gzip, gzip", "br", "zstd", "no-such"])
async def test_other_ways_of_packing_are_refused(packed: str, ctx: ToolContext, site: Site) -> None:
    site.put("/", gzip.compress(gzip.compress(b"x")), Content_Encoding=packed)
    with pytest.raises(ToolError, match=f"packed in a way that is not read: {packed}"):
        await page(ctx, site, "/")


async def test_what_is_not_packed_as_it_says_is_told(ctx: ToolContext, site: Site) -> None:
    site.put("/wrong", b"plain", Content_Encoding="gzip")
    site.put("/deflate", zlib.compress(b"deflated"), Content_Encoding="deflate")
    site.put("/as-it-is", b"as it is", Content_Encoding="identity")
    with pytest.raises(ToolError, match="said to be gzip, and is not"):
        await page(ctx, site, "/wrong")
    assert await page(ctx, site, "/deflate") == ToolResult("deflated")
    assert await page(ctx, site, "/as-it-is") == ToolResult("as it is")
    assert {headers["Accept-Encoding"] for _, headers in site.seen} == {"gzip"}


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/pdf", "video/mp4"])
async def test_what_is_no_text_is_refused(kind: str, ctx: ToolContext, site: Site) -> None:
    site.put("/", b"\x89PNG", kind)
    with pytest.raises(ToolError, match=f"it is {kind}, no text"):
        await page(ctx, site, "/")


@pytest.mark.parametrize("kind", ["text/csv", "application/json", "application/ld+json", "application/atom+xml"])
async def test_text_is_handed_on_as_it_is(kind: str, ctx: ToolContext, site: Site) -> None:
    site.put("/", "<a> {}", kind)
    assert await page(ctx, site, "/") == ToolResult("<a> {}")


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("iso-8859-1", b"gr\xfc\xdfe", "grüße"),
        ("utf-8", b"\xff", "\ufffd"),
        ("no-such", "grüße".encode(), "grüße"),
        ("base64", "grüße".encode(), "grüße"),
        ("unicode_escape", b"\\u0041", "\\u0041"),
        ("punycode", b"a-b", "a-b"),
        ('"iso-8859-1"', b"\xfc", "ü"),
        ("utf-16", "grüße".encode("utf-16"), "grüße"),
        ("utf-16-le", ("grüße" * 30_000).encode("utf-16-le"), "grüße" * 30_000),
        ("utf-8", ("€" * 50_000).encode(), "€" * 50_000),
        ("utf-16", b"\x00", "\ufffd"),
        ("'ISO-8859-1' ; x=y", b"\xfc", "ü"),
        ("", b"\xfc", "\ufffd"),
        ("x" * 600 + "; charset=iso-8859-1", b"\xfc", "\ufffd"),
    ],
)
async def test_the_encoding_is_what_the_page_says_if_it_is_one(
    charset: str, body: bytes, text: str, ctx: ToolContext, site: Site
) -> None:
    site.put("/", body, f"text/plain; charset={charset}")
    assert await page(ctx, site, "/") == ToolResult(text)


async def test_a_page_is_made_readable(ctx: ToolContext, site: Site) -> None:
    site.put("/", "<html><head><title>T</title></head><body><h1>Hi</h1><p>a &amp; <b>b</b></body>", "text/html")
    assert await page(ctx, site, "/") == ToolResult("Hi\n\na & b")


@pytest.mark.parametrize("arguments", [{}, {"url": 3}, {"url": "x" * 4001}, {"url": "http://a/", "more": 1}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolInvalid):
        fetch_tool().check(arguments)
