"""A model's endpoint over httpx, in any dialect: how a call is sent, refused, read, timed and hung up on."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Final

import anyio
import httpx

from runtime.clock import Clock, SystemClock
from runtime.errors import ConfigError, LlmError, LlmProtocol, LlmTimeout, LlmUnreachable
from runtime.llm.answer import Answer, Decoder, Reader, raw_body, timed_out
from runtime.llm.faults import quote, refused, retry_after, sign
from runtime.llm.inflate import Inflater
from runtime.llm.network import transport
from runtime.llm.provider import Deadlines

MIB: Final = 1024 * 1024

ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_BODY_SECONDS: Final = 5.0
"""How much of a refusal is read, and how long we wait for it, before the status alone must do."""

# Below WARNING they log every request, and every header of an answer: more than a log should know.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class HttpProvider:
    """What every provider behind HTTP is; a dialect says what goes over the wire.

    base_url
        http or https, without user, query or fragment. The key is sent there and nowhere else: redirects are refused,
        proxies and netrc of the environment are not looked at.
    max_bytes, max_line
        caps on the whole answer and on one line of it, after decompression; beyond them `LlmTooLarge`.
    trust
        whose certificates are good, instead of those that httpx trusts.

    Every call has its own connection: llama.cpp promises to keep one and then drops it after a stream, so reusing it
    would fail the next call, and a handshake is little beside an answer. Cancelling a call closes its connection.
    Raises `ConfigError` for a base_url or key that cannot be used.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str | None,
        *,
        deadlines: Deadlines | None = None,
        max_bytes: int = 8 * MIB,
        max_line: int = 1 * MIB,
        trust: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._base = usable_url(name, base_url)
        self._key = usable_key(name, api_key)
        self._deadlines = deadlines or Deadlines()
        self._max_bytes = max_bytes
        self._max_line = max_line
        self._clock = clock or SystemClock()
        self._trust = trust
        self._client: httpx.AsyncClient | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self._base}>"

    def _identity(self) -> dict[str, str]:
        """Return the headers by which the dialect says who asks."""
        raise NotImplementedError

    @asynccontextmanager
    async def _exchange(
        self, path: str, write: Callable[[], bytes], reader: Reader, *, whole: bool = False
    ) -> AsyncIterator[Answer]:
        """POST what *write* returns to *path* and hand out what *reader* makes of the answer.

        Leaving closes the connection at once. *whole*: the answer is one JSON document, whatever its head says. Raises,
        on entering or while iterating, the `LlmError` of what went wrong; its `data` names the provider.
        """
        started = self._clock.monotonic()
        with self._signed():
            response = await self._send(path, write())
        try:
            with self._signed():
                answer = await self._answer(response, reader, started, whole=whole)
            async with aclosing(answer):
                yield answer
        finally:
            # Shielded: a cancelled call must hang up too, which is what stops the provider. Closing waits for nobody.
            with anyio.move_on_after(1.0, shield=True):
                await response.aclose()

    @contextmanager
    def _signed(self) -> Iterator[None]:
        try:
            yield
        except LlmError as error:
            sign(error, self.name)
            raise

    async def close(self) -> None:
        """Close every connection; streams that still run are cut, later calls are `LlmUnreachable`."""
        self._closed = True
        if self._client is not None:
            await self._client.aclose()

    async def _answer(self, response: httpx.Response, reader: Reader, started: float, *, whole: bool) -> Answer:
        """Return the answer whose head *response* is; raise what its status or kind stands for."""
        if response.status_code != 200:
            raise await self._refusal(response)
        decoder = self._decoder(response, reader, whole=whole)
        deadlines, clock = self._deadlines, self._clock
        return Answer(response, decoder, provider=self.name, deadlines=deadlines, clock=clock, started=started)

    async def _send(self, path: str, body: bytes) -> httpx.Response:
        """Return the response once its head is here."""
        http = self._http()
        timeout = httpx.Timeout(None, connect=self._deadlines.connect)
        url = f"{self._base}{path}"
        outgoing = http.build_request("POST", url, content=body, headers=self._headers(), timeout=timeout)
        first, total = self._deadlines.first_byte, self._deadlines.total
        with anyio.move_on_after(min(first, total)):
            try:
                return await http.send(outgoing, stream=True, auth=None, follow_redirects=False)
            except httpx.HTTPError as error:
                raise self._unsent(error) from error
            except (httpx.InvalidURL, UnicodeError) as error:  # looked at by the library, though not followed
                raise LlmProtocol(f"it redirects to what is no address: {error}") from error
        raise timed_out("total" if total < first else "first_byte", self._deadlines)

    def _http(self) -> httpx.AsyncClient:
        if self._closed:
            raise LlmUnreachable("it is closed")
        if self._client is None:
            network = transport(self._trust or _usual_trust(self._base))
            self._client = httpx.AsyncClient(transport=network, trust_env=False, follow_redirects=False)
        return self._client

    def _headers(self) -> dict[str, str]:
        return {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": "application/json",
            "User-Agent": "understudy",
            **self._identity(),
        }

    def _decoder(self, response: httpx.Response, reader: Reader, *, whole: bool) -> Decoder:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise LlmProtocol("it answered with an HTML page")
        return Decoder(
            reader,
            encoding=response.headers.get("content-encoding", ""),
            whole=whole or kind == "application/json",
            max_bytes=self._max_bytes,
            max_line=self._max_line,
        )

    async def _refusal(self, response: httpx.Response) -> LlmError:
        if response.is_redirect:
            target = quote(response.headers.get("location", "").partition("?")[0], self._key)
            return LlmProtocol(f"it redirects to {target!r}, which is not followed", status=response.status_code)
        wait = retry_after(response.headers, self._clock.now())
        return refused(response.status_code, await _error_body(response), secret=self._key, retry_after=wait)

    def _unsent(self, error: httpx.HTTPError) -> LlmError:
        """Translate what broke before a response's head was here."""
        said = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectTimeout):
            return timed_out("connect", self._deadlines)
        if isinstance(error, httpx.TimeoutException):
            return LlmTimeout(f"no answer: {said}", which="first_byte")
        # httpcore has one class for a server that hangs up and for one that talks nonsense; only its words differ.
        hung_up = said.startswith("Server disconnected")
        if isinstance(error, httpx.ProtocolError) and not hung_up:
            return LlmProtocol(f"it does not speak HTTP: {said}")
        return LlmUnreachable(f"no connection to {self._base}: {said}")


async def _error_body(response: httpx.Response) -> bytes:
    """Return the first 64 KiB of a refusal's body, or as much of it as came in time."""
    body = bytearray()
    with anyio.move_on_after(ERROR_BODY_SECONDS):
        try:
            inflater = Inflater(response.headers.get("content-encoding", ""))
            async with aclosing(raw_body(response)) as chunks:
                async for raw in chunks:
                    for piece in inflater.feed(raw):
                        body += piece
                        if len(body) > ERROR_BODY_BYTES:
                            return bytes(body[:ERROR_BODY_BYTES])
        except (httpx.HTTPError, LlmProtocol):
            # The status says what matters; what could be read of the body is a courtesy.
            return bytes(body)
    return bytes(body)


def _usual_trust(base_url: str) -> ssl.SSLContext:
    if base_url.startswith("http:"):  # plain HTTP needs no certificates, and loading them takes tens of milliseconds
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.create_ssl_context(trust_env=False)


def usable_url(name: str, base_url: str) -> str:
    """Return *base_url* without a slash at its end. Raises `ConfigError`."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"provider {name!r}: base_url is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"provider {name!r}: base_url must begin with http:// or https:// and name a host")
    if url.userinfo or url.query or url.fragment:
        raise ConfigError(f"provider {name!r}: base_url may hold neither user, query nor fragment; the key is api_key")
    return base_url.rstrip("/")


def usable_key(name: str, key: str | None) -> str | None:
    """Return *key* without the line end of the file it came from; what no header can hold is refused unquoted."""
    key = (key or "").strip()
    if any(not 0x21 <= ord(char) <= 0x7E for char in key):
        raise ConfigError(f"provider {name!r}: the API key holds a character that no key has")
    return key or None
