"""The tool `http.fetch`: reads a public page. No address of a private network is reached, not by a name, not by a
redirect.
"""

import codecs
import ipaddress
import re
import socket
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx

from runtime.errors import ToolError, ToolInvalid
from runtime.tools.pages import readable
from runtime.tools.schema import mistakes
from runtime.tools.tool import Tool, ToolContext, ToolResult

MAX_BYTES: Final = 2_000_000
"""Of the body, decompressed."""
PIECE: Final = 65_536
"""Bytes that are read, and decoded, at a time."""
MAX_REDIRECTS: Final = 3
TIMEOUT: Final = 30.0
ACCEPT: Final = "text/*, application/json;q=0.9, */*;q=0.1"
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"url": {"type": "string", "maxLength": 4000, "description": "an http or https address"}},
    "required": ["url"],
    "additionalProperties": False,
}
# Addresses that carry another one inside: IPv4 in IPv6 by NAT64, 6to4 and Teredo.
NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
# Not everything that is not public is known as such to every Python.
OTHERS: Final = tuple(
    map(ipaddress.ip_network, ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16"))
)

# Python knows more codecs than pages are written in, and some of those are slow or no text.
ENCODING: Final = re.compile(r"(utf-(8|16|32)|iso8859|cp\d|koi8|mac|ascii|gb|big5|euc|shift|iso2022|tis).*")
CHARSET: Final = re.compile(r";\s*charset\s*=\s*[\"']?([A-Za-z0-9][A-Za-z0-9_.:-]{0,39})", re.IGNORECASE)
MAX_TYPE: Final = 500
"""Letters of a content type that are looked at."""
GLOBAL: Final = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out to the public internet."""

Resolve = Callable[[str, int], Awaitable[list[str]]]


def fetch_tool(hosts: tuple[str, ...] = (), resolve: Resolve | None = None) -> Tool:
    """Return the tool. *hosts* (`name` or `name:port`) may be in a private network; *resolve* finds addresses of
    names.
    """
    fetcher = Fetcher(frozenset(host.lower() for host in hosts), resolve or _resolve)

    async def run(ctx: ToolContext, arguments: dict[str, Any]) -> ToolResult:
        return await fetcher.fetch(arguments["url"])

    return Tool(
        "http.fetch",
        "Read a page of the public web as text.",
        SCHEMA,
        run,
        _check,
        effect="pure",
        traits=frozenset({"untrusted", "outward"}),
        timeout=TIMEOUT * (MAX_REDIRECTS + 1),
    )


def _check(arguments: dict[str, Any]) -> dict[str, Any]:
    if wrong := mistakes(arguments, SCHEMA):
        raise ToolInvalid("; ".join(wrong), errors=wrong)
    return arguments


class Fetcher:
    """Fetches pages; each call has a connection of its own, to the address that was looked at."""

    def __init__(self, hosts: frozenset[str], resolve: Resolve) -> None:
        self._hosts, self._resolve = hosts, resolve

    async def fetch(self, address: str) -> ToolResult:
        """Return what is at *address*. Raises ToolError."""
        url = address
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._once(url)
            if isinstance(found, ToolResult):
                return found
            url = found
        raise ToolError(f"it redirects more than {MAX_REDIRECTS} times")

    async def _once(self, address: str) -> ToolResult | str:
        """Return what is there, or where it redirects to."""
        url = _address(address)
        if url.scheme not in ("http", "https") or not url.host:
            raise ToolError("only http and https addresses can be read")
        if url.port is not None and not 0 < url.port < 65_536:
            raise ToolError("this is no address: there is no such port")
        if url.userinfo:
            raise ToolError("an address may hold no name and no password")
        try:
            with anyio.fail_after(TIMEOUT):
                return await self._read(url, await self._pin(url))
        except TimeoutError:
            raise ToolError(f"nothing came within {TIMEOUT:g} s") from None
        except (httpx.InvalidURL, UnicodeError) as error:  # the library looks at where it leads before we do
            raise ToolError(f"it redirects to what is no address: {error}") from None
        except (httpx.HTTPError, OSError) as error:
            raise ToolError(f"it cannot be reached: {str(error) or type(error).__name__}") from None

    async def _pin(self, url: httpx.URL) -> str:
        """Return the address to connect to, which is looked at once and then used. Raises ToolError."""
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = [str(ipaddress.ip_address(url.host))]
        except ValueError:
            try:
                found = await self._resolve(url.raw_host.decode("ascii"), port)
            except (OSError, UnicodeError):
                raise ToolError(f"there is no host {url.host!r}") from None
        if not found:
            raise ToolError(f"there is no host {url.host!r}")
        if self._hosts.isdisjoint((url.host, f"{url.host}:{port}")):
            for one in found:  # all of them: the next connection might take another
                if not is_public(one):
                    raise ToolError(f"{url.host!r} is in a private network, which is not reached")
        return found[0]

    async def _read(self, url: httpx.URL, pinned: str) -> ToolResult | str:
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": "understudy",
            "Accept": ACCEPT,
            "Accept-Encoding": "gzip",
        }
        request = httpx.Request(
            "GET",
            url.copy_with(host=pinned),
            headers=headers,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=TIMEOUT) as client:
            answer = await client.send(request, stream=True)
            try:
                if answer.is_redirect:
                    return _next(url, answer.headers.get("location", ""))
                return await self._page(answer)
            finally:
                await answer.aclose()

    async def _page(self, answer: httpx.Response) -> ToolResult:
        kind = answer.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
        if not (kind.startswith("text/") or kind.endswith(("json", "xml")) or kind == "application/javascript"):
            raise ToolError(f"it is {kind}, no text")
        body, cut = await _body(answer)
        encoding = _encoding(answer.headers.get("content-type", ""))
        markup = kind in ("text/html", "application/xhtml+xml")
        # In a thread, for a large page takes a while.
        text = await anyio.to_thread.run_sync(_text, body, encoding, markup, abandon_on_cancel=True)
        status = "" if answer.status_code == 200 else f"[status {answer.status_code}]\n"
        return ToolResult(status + text + ("\n[cut]" if cut else ""), failed=answer.status_code >= 400)


async def _body(answer: httpx.Response) -> tuple[bytes, bool]:
    """Return the body so far as it is read, and whether there is more. Raises ToolError.

    It is unpacked here, for a library unpacks what has come before anybody can say that it is too much.
    """
    packed = answer.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if packed not in ("identity", "gzip", "x-gzip", "deflate"):
        raise ToolError(f"it is packed in a way that is not read: {packed[:100]}")
    unpack = None if packed == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    body = bytearray()
    read = 0
    async for piece in answer.aiter_raw(PIECE):
        read += len(piece)
        try:
            body += piece if unpack is None else unpack.decompress(piece, MAX_BYTES + 1 - len(body))
        except zlib.error:
            raise ToolError(f"it is said to be {packed}, and is not") from None
        # What is packed may go on for ever and become nothing, and something else may follow it.
        if len(body) > MAX_BYTES or read > MAX_BYTES:
            return bytes(body[:MAX_BYTES]), True
        if unpack is not None and unpack.eof:
            break
    return bytes(body), False


def _text(body: bytes, encoding: str, markup: bool) -> str:
    text = _decoded(body, encoding)
    return readable(text) if markup else text


def _decoded(body: bytes, encoding: str) -> str:
    """Return *body* as text, a piece at a time: some encodings take a while, and let nothing else run meanwhile."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    try:
        pieces = [decoder.decode(body[at : at + PIECE]) for at in range(0, len(body), PIECE)]
        return "".join(pieces) + decoder.decode(b"", final=True)
    except UnicodeError:  # it lacks the mark at its beginning, or some such; as a whole more is forgiven
        return body.decode(encoding, errors="replace")


def _address(text: str) -> httpx.URL:
    """Return what can be fetched. Raises ToolError."""
    try:
        url = httpx.URL(text)
        url.host  # noqa: B018  # only looked at does a name show that it cannot be read
    except (httpx.InvalidURL, ValueError) as error:
        raise ToolError(f"this is no address: {error}") from None
    return url


def _next(url: httpx.URL, location: str) -> str:
    """Return where a redirect leads. Raises ToolError."""
    try:
        return str(url.join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise ToolError(f"it redirects to what is no address: {error}") from None


def _encoding(content_type: str) -> str:
    """Return the encoding that a page names if it is one of text, else UTF-8.

    It is looked for here, for the library reads headers as those of mail, which takes very long where they are made to.
    """
    named = CHARSET.search(content_type[:MAX_TYPE])
    try:
        known = codecs.lookup(named[1] if named else "utf-8").name
    except (LookupError, ValueError):
        return "utf-8"
    return known if ENCODING.fullmatch(known) else "utf-8"


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public internet, whatever it carries inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and any(ip in network for network in NAT64):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
        return ip.is_global and ip in GLOBAL and not any(ip in network for network in OTHERS)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in network for network in OTHERS))


async def _resolve(host: str, port: int) -> list[str]:
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]
