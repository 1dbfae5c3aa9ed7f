"""Any OpenAI-compatible Chat Completions endpoint over httpx: OpenAI, DeepSeek, Ollama, vLLM, llama.cpp, proxies."""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import anyio
import httpx

from runtime.clock import Clock, SystemClock
from runtime.errors import ConfigError, LlmError, LlmProtocol, LlmTimeout, LlmUnreachable
from runtime.llm.answer import Answer, Decoder, raw_body, timed_out
from runtime.llm.completions import Reader, encode
from runtime.llm.faults import quote, refused, retry_after, sign
from runtime.llm.inflate import Inflater
from runtime.llm.provider import Deadlines
from schemas.chat import ChatPart, ChatRequest

MIB: Final = 1024 * 1024

ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_BODY_SECONDS: Final = 5.0
"""How much of a refusal is read, and how long we wait for it, before the status alone must do."""

# Below WARNING they log every request, and every header of an answer: more than a log should know.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class OpenAIProvider:
    """One endpoint: `POST {base_url}/chat/completions`, always streamed.

    base_url
        http or https, without user, query or fragment. The key is sent there and nowhere else: redirects are refused,
        proxies and netrc of the environment are not looked at.
    max_bytes, max_line
        caps on the whole answer and on one line of it, after decompression; beyond them `LlmTooLarge`.
    client
        an `httpx.AsyncClient` to use instead of an own one, e.g. with other certificates; its owner closes it.

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
        client: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._url = _endpoint(name, base_url)
        self._key = _usable_key(name, api_key)
        self._deadlines = deadlines or Deadlines()
        self._max_bytes = max_bytes
        self._max_line = max_line
        self._clock = clock or SystemClock()
        self._client = client
        self._owned = client is None
        self._closed = False

    def __repr__(self) -> str:
        return f"<OpenAIProvider {self.name} {self._url}>"

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        """Send *request* and hand out the parts of the answer; leaving closes the connection at once.

        Raises, on entering or while iterating, the `LlmError` of what went wrong; its `data` names the provider.
        """
        started = self._clock.monotonic()
        try:
            response = await self._send(encode(request))
        except LlmError as error:
            sign(error, self.name)
            raise
        try:
            async with aclosing(await self._answer(request, response, started)) as answer:
                yield answer
        finally:
            # Shielded: a cancelled call must hang up too, which is what stops the provider. Closing waits for nobody.
            with anyio.move_on_after(1.0, shield=True):
                await response.aclose()

    async def close(self) -> None:
        """Close the client if it is ours; streams that still run are cut, later calls are `LlmUnreachable`."""
        self._closed = True
        if self._client is not None and self._owned:
            await self._client.aclose()

    async def _answer(self, request: ChatRequest, response: httpx.Response, started: float) -> Answer:
        """Return the answer whose head *response* is; raise what its status or kind stands for."""
        try:
            if response.status_code != 200:
                raise await self._refusal(response)
            decoder = self._decoder(request, response)
        except LlmError as error:
            sign(error, self.name)
            raise
        deadlines, clock = self._deadlines, self._clock
        return Answer(response, decoder, provider=self.name, deadlines=deadlines, clock=clock, started=started)

    async def _send(self, body: bytes) -> httpx.Response:
        """Return the response once its head is here."""
        http = self._http()
        timeout = httpx.Timeout(None, connect=self._deadlines.connect)
        outgoing = http.build_request("POST", self._url, content=body, headers=self._headers(), timeout=timeout)
        first, total = self._deadlines.first_byte, self._deadlines.total
        with anyio.move_on_after(min(first, total)):
            try:
                return await http.send(outgoing, stream=True, auth=None, follow_redirects=False)
            except httpx.HTTPError as error:
                raise self._unsent(error) from error
        raise timed_out("total" if total < first else "first_byte", self._deadlines)

    def _http(self) -> httpx.AsyncClient:
        if self._closed or (self._client is not None and self._client.is_closed):
            raise LlmUnreachable("it is closed")
        if self._client is None:
            # Plain HTTP needs no certificates, and loading them takes tens of milliseconds.
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._url.startswith("http:") else True
            limits = httpx.Limits(max_connections=None)
            self._client = httpx.AsyncClient(verify=verify, limits=limits, trust_env=False, follow_redirects=False)
        return self._client

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": "application/json",
            "User-Agent": "understudy",
        }
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _decoder(self, request: ChatRequest, response: httpx.Response) -> Decoder:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise LlmProtocol("it answered with an HTML page")
        return Decoder(
            Reader(request, secret=self._key),
            encoding=response.headers.get("content-encoding", ""),
            whole=kind == "application/json",
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
        return LlmUnreachable(f"no connection to {self._url}: {said}")


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


def _endpoint(name: str, base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"provider {name!r}: base_url is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"provider {name!r}: base_url must begin with http:// or https:// and name a host")
    if url.userinfo or url.query or url.fragment:
        raise ConfigError(f"provider {name!r}: base_url may hold neither user, query nor fragment; the key is api_key")
    return f"{base_url.rstrip('/')}/chat/completions"


def _usable_key(name: str, key: str | None) -> str | None:
    """Return *key* without the line end of the file it came from; what no header can hold is refused unquoted."""
    key = (key or "").strip()
    if any(not 0x21 <= ord(char) <= 0x7E for char in key):
        raise ConfigError(f"provider {name!r}: the API key holds a character that no key has")
    return key or None
