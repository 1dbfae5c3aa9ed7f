"""The control app: every operation of the table as HTTP, over a backend that is reached through a bridge."""

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final, TypeVar

from runtime.clock import SystemClock
from runtime.context import bind
from runtime.control.backend import Backend, Limits
from runtime.control.bridge import Bridge
from runtime.control.decode import (
    EventsQuery,
    Generic,
    body_of,
    check_head,
    from_body,
    from_query,
    header,
    idempotency_key,
    json_object,
    nothing_more,
    public_message,
    query_of,
    request_id,
    resolve,
    timeout_of,
)
from runtime.control.exchange import Exchange, HungUp
from runtime.control.listener import is_ours
from runtime.control.openapi import document
from runtime.control.replies import Headers, Receive, Refusal, Scope, Send, encode, internal, problem_reply, send_reply
from runtime.control.routes import Routes
from runtime.control.streams import Streams, refuse
from runtime.errors import AskTimeout, Denied, Draining, RequestInvalid, Starting, UnderstudyError
from runtime.log import get
from schemas.agents import Say
from schemas.base import Message
from schemas.operations import OPERATIONS
from schemas.system import HealthView

__all__ = ["App", "Backend", "Limits"]

T = TypeVar("T")

GRACE: Final = 1.0
"""Seconds that the actors' loop gets to answer "too late" itself before we say so for it."""

_JSON: Final = (b"content-type", b"application/json")
_log = get(__name__)


class App:
    """An ASGI application; it answers every request itself, mistakes of ours too, and raises nothing."""

    def __init__(
        self,
        backend: Backend,
        bridge: Bridge,
        *,
        limits: Limits | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._bridge = bridge
        self.version = backend.hello().version
        self._backend = backend
        self.new_id = new_id or SystemClock().new_id
        self._routes = Routes(OPERATIONS)
        self._requests = {op.name: resolve(op.request) for op in OPERATIONS if op.request}
        self._for_people = {self._requests[op.name].TYPE for op in OPERATIONS if op.for_people}
        self._streams = Streams(bridge, self.limits.ping)
        self._snapshots: dict[str, Callable[[], Any]] = {
            "hello": backend.hello,
            "health": backend.health,
            "ready": self._ready,
            "openapi": lambda: document(self.version),
            "status": backend.status,
            "ps": backend.tree,
        }
        self._opened: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "agents.ask": self._chat,
            "jobs.watch": self._watch,
            "events": self._events,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        identity = request_id(scope) or self.new_id()
        marked = _marked(send, self.marks(identity))
        with bind(request_id=identity):
            try:
                check_head(scope, self.limits.headers)
                match = self._routes.find(scope["method"], scope["raw_path"])
                await self._serve(Exchange(match, scope, receive, marked, identity))
            except HungUp:
                return
            except UnderstudyError as error:
                await send_reply(marked, *problem_reply(error, identity))
            except Exception:  # noqa: BLE001  # the last line: told to the log in full and to the client by its id
                _log.exception("request_failed", path=scope["path"], request_id=identity)
                await send_reply(marked, *problem_reply(internal(identity), identity))

    def marks(self, identity: str) -> Headers:
        """Return the headers that every answer carries, that to request *identity*."""
        return [(b"understudy-version", self.version.encode()), (b"x-request-id", identity.encode())]

    def end_streams(self) -> None:
        """End every stream with `daemon.draining` and open no more."""
        self._bridge.end_streams()

    def close(self) -> None:
        """Answer everything that is under way, and all that comes, with `daemon.draining`; snapshots go on."""
        self._bridge.close()

    async def _serve(self, exchange: Exchange) -> None:
        operation = exchange.match.operation
        match operation.served:
            case "snapshot":
                nothing_more(query_of(exchange.scope))
                await self._reply(exchange, self._snapshots[operation.name]())
            case "actor":
                await self._ask_actor(exchange)
            case "generic":
                await self._any_message(exchange)
            case "stream":
                await self._opened[operation.name](exchange)

    async def _reply(self, exchange: Exchange, value: Any) -> None:
        await send_reply(exchange.send, 200, [_JSON], encode(value))

    # -- snapshots --------------------------------------------------------------------------------

    def _ready(self) -> HealthView:
        view = self._backend.health()
        match view.health:
            case "ok" | "degraded":
                return view
            case "starting":
                raise Starting(_because("The daemon is starting", view), health=view.health)
            case "draining":
                raise Draining(_because("The daemon is stopping", view), health=view.health)
            case "safe_mode":
                raise Refusal("daemon.failed", _because("The daemon is in safe mode", view), health=view.health)

    # -- calls ------------------------------------------------------------------------------------

    async def _ask_actor(self, exchange: Exchange) -> None:
        operation, path = exchange.match
        cls = self._requests[operation.name]
        query = query_of(exchange.scope)
        timeout = timeout_of(query)
        if operation.method == "GET":
            request = from_query(cls, path, query)
        else:
            nothing_more(query)
            request = await self._posted(exchange, cls)
        self._check_peer(exchange, request)
        key = idempotency_key(exchange.scope, operation)
        ask = partial(self._backend.ask, operation.actor.format(**path), request, timeout=timeout, key=key)
        await self._reply(exchange, await self._across(exchange, ask, timeout))

    def _check_peer(self, exchange: Exchange, message: Message) -> None:
        """Raise Denied where what only a person may decide comes from a process that the daemon itself has started."""
        if message.TYPE in self._for_people and is_ours(exchange.line.peer):
            _log.warning("peer_denied", pid=exchange.line.peer, message=message.TYPE)
            raise Denied("A process that the daemon has started may not decide this; a person has to.")

    async def _posted(self, exchange: Exchange, cls: type[Message]) -> Message:
        operation, path = exchange.match
        limit = operation.max_body or self.limits.body
        fields = json_object(await body_of(exchange.scope, exchange.receive, limit))
        key = idempotency_key(exchange.scope, operation)
        if operation.name == "jobs.submit":
            _fill_key(fields, key)
        elif operation.name == "jobs.submit_many":
            _fill_keys(fields, key)
        return from_body(cls, path, fields, operation.body)

    async def _any_message(self, exchange: Exchange) -> None:
        operation, path = exchange.match
        query = query_of(exchange.scope)
        timeout = timeout_of(query)
        nothing_more(query)
        fields = json_object(await body_of(exchange.scope, exchange.receive, self.limits.body))
        generic = from_body(Generic, {}, fields)
        message = public_message(generic)
        self._check_peer(exchange, message)
        timeout = generic.timeout or timeout
        key = idempotency_key(exchange.scope, operation)
        if operation.name == "actors.ask":
            across = partial(self._backend.ask, path["name"], message, timeout=timeout, key=key)
        else:
            across = partial(self._backend.tell, path["name"], message, key=key)
        await self._reply(exchange, {"reply": await self._across(exchange, across, timeout)})

    async def _across(self, exchange: Exchange, fn: Callable[[], Awaitable[T]], timeout: float) -> T:
        # The other loop says itself that it is too late; only when it is stuck does it fall to us.
        try:
            return await exchange.line.attached(partial(self._bridge.call, fn), seconds=timeout + GRACE)
        except TimeoutError:
            raise AskTimeout("The actors' loop did not answer.", blocked=self._backend.health().blocked) from None

    # -- streams ----------------------------------------------------------------------------------

    async def _chat(self, exchange: Exchange) -> None:
        operation, path = exchange.match
        nothing_more(query_of(exchange.scope))
        fields = json_object(await body_of(exchange.scope, exchange.receive, self.limits.body))
        say = from_body(Say, {}, fields)
        detach = b"respond-async" in (header(exchange.scope, b"prefer") or b"").lower()
        key = idempotency_key(exchange.scope, operation)
        source = partial(self._backend.chat, path["name"], say, key=key, detach=detach)
        if not detach:
            await self._streams.run(exchange, source)
            return
        accepted = await self._streams.first(exchange, source)
        if accepted.kind == "error":
            await refuse(exchange, accepted)
            return
        job = str(accepted.data["job"])
        headers: Headers = [_JSON, (b"location", f"/v1/jobs/{job}".encode()), (b"preference-applied", b"respond-async")]
        await send_reply(exchange.send, 202, headers, encode({"id": job}))

    async def _watch(self, exchange: Exchange) -> None:
        nothing_more(query_of(exchange.scope))
        await self._streams.run(exchange, partial(self._backend.watch, exchange.match.path["id"]))

    async def _events(self, exchange: Exchange) -> None:
        query = query_of(exchange.scope)
        wanted = from_query(EventsQuery, {}, query)
        last = header(exchange.scope, b"last-event-id")
        if last is not None and not (last.isdigit() and len(last) < 19):
            raise RequestInvalid("Last-Event-ID: Should be a number.")
        source = partial(
            self._backend.events,
            since=wanted.since if last is None else int(last),
            types=tuple(name for name in wanted.types.split(",") if name),
            subject=wanted.subject,
            follow=wanted.follow,
        )
        await self._streams.run(exchange, source, may_run_dry=True)


def _marked(send: Send, marks: Headers) -> Send:
    async def marked(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *marks]
        await send(message)

    return marked


def _fill_key(fields: dict[str, Any], key: str | None) -> None:
    if key is None:
        return
    if fields.setdefault("key", key) not in (key, None):
        raise RequestInvalid("Idempotency-Key: Is not the key in the body.")
    fields["key"] = key


def _fill_keys(fields: dict[str, Any], key: str | None) -> None:
    """Give each job of a batch that has no key one made of the batch's key and its place: sent again, none is added."""
    jobs = fields.get("jobs")
    if key is None or not isinstance(jobs, list):
        return
    for place, job in enumerate(jobs):
        if isinstance(job, dict) and job.get("key") is None:
            job["key"] = f"{key}/{place}"


def _because(what: str, view: HealthView) -> str:
    return f"{what}: {'; '.join(view.reasons)}." if view.reasons else f"{what}."
