"""Streams over a real socket: both encodings, every way they can end, and leaving early."""

import json
from typing import Any

import pytest

from runtime.control.backend import Limits
from runtime.errors import AgentNotFound, StoreFull
from schemas.agents import Say
from schemas.events import StreamPart

WAIT = 20.0
NDJSON = "Accept: application/x-ndjson"


def token(text: str, number: int | None = None) -> StreamPart:
    return StreamPart(kind="token", data={"text": text}, id=number)


def parts_of(answer: Any) -> list[dict[str, Any]]:
    """Return the parts of an NDJSON answer."""
    return [json.loads(line) for line in answer.body.splitlines() if line]


class TestEncodings:
    def test_server_sent_events_are_the_default(self, control: Any) -> None:
        control.backend.parts = [token("a\nb", 7), StreamPart(kind="done", data={"n": 1})]
        answer = control.get("/v1/jobs/x/watch")
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.body == (b'id: 7\nevent: token\ndata: {"text":"a\\nb"}\n\nevent: done\ndata: {"n":1}\n\n')

    def test_lines_of_json_are_sent_on_request(self, control: Any) -> None:
        control.backend.parts = [token("a", 7), StreamPart(kind="done")]
        answer = control.get("/v1/jobs/x/watch", NDJSON)
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert parts_of(answer) == [
            {"kind": "token", "data": {"text": "a"}, "id": 7},
            {"kind": "done", "data": {}, "id": None},
        ]

    def test_many_parts_arrive_in_order(self, control: Any) -> None:
        control.backend.parts = [*(token(str(n)) for n in range(3000)), StreamPart(kind="done")]
        parts = parts_of(control.get("/v1/jobs/x/watch", NDJSON))
        assert [part["data"]["text"] for part in parts[:-1]] == [str(n) for n in range(3000)]


class TestEndings:
    def test_nothing_follows_done(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="done"), token("late"), StreamPart(kind="done")]
        assert [part["kind"] for part in parts_of(control.get("/v1/jobs/x/watch", NDJSON))] == ["done"]
        assert control.backend.left.wait(WAIT)

    def test_an_error_after_the_first_part_is_the_last_part(self, control: Any) -> None:
        control.backend.parts = [token("a"), StoreFull("no room")]
        parts = parts_of(control.get("/v1/jobs/x/watch", NDJSON, "X-Request-Id: here"))
        assert [part["kind"] for part in parts] == ["token", "error"]
        assert parts[1]["data"]["code"] == "store.full"
        assert parts[1]["data"]["request_id"] == "here"

    def test_an_error_part_of_the_backend_ends_it(self, control: Any) -> None:
        control.backend.parts = [token("a"), StreamPart(kind="error", data={"code": "internal"}), token("b")]
        parts = parts_of(control.get("/v1/jobs/x/watch", NDJSON))
        assert [part["kind"] for part in parts] == ["token", "error"]

    def test_a_mistake_of_ours_says_nothing_of_itself(self, control: Any) -> None:
        control.backend.parts = [token("a"), RuntimeError("s3cret")]
        answer = control.get("/v1/jobs/x/watch", NDJSON)
        assert parts_of(answer)[1]["data"]["code"] == "internal"
        assert b"s3cret" not in answer.body

    def test_a_part_that_cannot_be_sent_is_one_too(self, control: Any) -> None:
        control.backend.parts = [token("a"), StreamPart(kind="token", data={"x": object()}), token("b")]
        parts = parts_of(control.get("/v1/jobs/x/watch", NDJSON))
        assert [part["kind"] for part in parts] == ["token", "error"]
        assert parts[1]["data"]["code"] == "internal"

    def test_a_stream_that_runs_dry_was_cut(self, control: Any) -> None:
        control.backend.parts = [token("a")]
        parts = parts_of(control.get("/v1/jobs/x/watch", NDJSON))
        assert [part["kind"] for part in parts] == ["token", "error"]

    @pytest.mark.parametrize("error", [AgentNotFound("none"), StreamPart(kind="error", data={})])
    def test_an_error_before_the_first_part_is_an_ordinary_answer(self, control: Any, error: Any) -> None:
        if isinstance(error, StreamPart):
            error = StreamPart(kind="error", data=AgentNotFound("none").problem().model_dump(mode="json"))
        control.backend.parts = [error]
        answer = control.post("/v1/agents/x/ask", {"text": "hi"})
        assert (answer.status, answer.code) == (404, "agent.not_found")

    def test_a_refused_source_is_an_ordinary_answer(self, control: Any) -> None:
        answer = control.get("/v1/jobs/none/watch")
        assert (answer.status, answer.code) == (404, "job.not_found")

    def test_the_connection_can_be_used_again(self, control: Any) -> None:
        control.backend.parts = [token("a"), StreamPart(kind="done")]
        with control.connect() as client:
            for _ in range(3):
                client.sendall(b"GET /v1/jobs/x/watch HTTP/1.1\r\nHost: u\r\n\r\n")
                assert b"event: done" in control.answer(client).body


class TestLeaving:
    def test_hanging_up_leaves_the_source_at_once(self, control: Any) -> None:
        control.backend.parts = [token("a")]
        control.backend.hold_open = True
        with control.connect() as client:
            client.sendall(b"GET /v1/jobs/x/watch HTTP/1.1\r\nHost: u\r\n\r\n")
            assert control.backend.waiting.wait(WAIT)
        assert control.backend.cancelled.wait(WAIT)
        assert control.backend.left.wait(WAIT)

    def test_hanging_up_before_the_first_part_does_too(self, control: Any) -> None:
        control.backend.hold_open = True
        with control.connect() as client:
            body = b'{"text":"hi"}'
            client.sendall(b"POST /v1/agents/x/ask HTTP/1.1\r\nHost: u\r\nContent-Length: 13\r\n\r\n" + body)
            assert control.backend.waiting.wait(WAIT)
        assert control.backend.left.wait(WAIT)

    def test_a_reader_that_does_not_read_holds_the_source_up_and_can_still_leave(self, control: Any) -> None:
        control.backend.parts = [token("x" * 10_000) for _ in range(5000)]
        with control.connect() as client:
            client.sendall(b"GET /v1/jobs/x/watch HTTP/1.1\r\nHost: u\r\n\r\n")
            assert client.recv(100)
            assert control.get("/v1/hello").status == 200
            assert not control.backend.left.is_set()
        assert control.backend.left.wait(WAIT)


class TestPing:
    @pytest.fixture
    def limits(self, tight: Any) -> Limits:
        changed: Limits = tight(ping=0.02)
        return changed

    @pytest.mark.parametrize(
        ("accept", "ping"), [("text/event-stream", b": ping\n\n"), ("application/x-ndjson", b"\n")]
    )
    def test_silence_is_broken_by_pings(self, control: Any, accept: str, ping: bytes) -> None:
        control.backend.parts = [token("a")]
        control.backend.hold_open = True
        wanted = b"%x\r\n%s\r\n" % (len(ping), ping)
        with control.connect() as client:
            client.sendall(f"GET /v1/jobs/x/watch HTTP/1.1\r\nHost: u\r\nAccept: {accept}\r\n\r\n".encode())
            seen = b""
            while seen.count(wanted) < 3:
                chunk = client.recv(65536)
                assert chunk
                seen += chunk


class TestChat:
    def test_what_is_said_reaches_the_agent(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="accepted", data={"job": "j9"}), StreamPart(kind="done")]
        control.post("/v1/agents/bob/ask", {"text": "hi", "conversation": "c"}, "Idempotency-Key: k")
        assert control.backend.chats == [("bob", Say(text="hi", conversation="c"), "k", False)]

    def test_a_client_that_will_not_wait_gets_the_job(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="accepted", data={"job": "j9"})]
        control.backend.hold_open = True
        answer = control.post("/v1/agents/bob/ask", {"text": "hi"}, "Prefer: respond-async")
        assert (answer.status, answer.json()) == (202, {"id": "j9"})
        assert answer.headers["location"] == "/v1/jobs/j9"
        assert control.backend.chats[0][3] is True
        assert control.backend.left.wait(WAIT)

    @pytest.mark.parametrize("part", [AgentNotFound("none"), None])
    def test_a_refusal_is_told_to_it_as_well(self, control: Any, part: Any) -> None:
        problem = StreamPart(kind="error", data=AgentNotFound("none").problem().model_dump(mode="json"))
        control.backend.parts = [part or problem]
        answer = control.post("/v1/agents/bob/ask", {"text": "hi"}, "Prefer: respond-async")
        assert (answer.status, answer.code) == (404, "agent.not_found")

    @pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": 1}, {"text": "hi", "conversation": "a b"}])
    def test_a_wrong_body_says_nothing_to_the_agent(self, control: Any, body: Any) -> None:
        assert control.post("/v1/agents/bob/ask", body).code == "request.invalid"
        assert control.backend.chats == []


class TestEvents:
    def test_the_query_says_which(self, control: Any) -> None:
        control.get("/v1/events?since=3&types=job.*,agent.crashed&subject=x&follow=false")
        control.get("/v1/events")
        assert control.backend.event_queries == [
            {"since": 3, "types": ("job.*", "agent.crashed"), "subject": "x", "follow": False},
            {"since": None, "types": (), "subject": None, "follow": True},
        ]

    def test_the_last_event_id_wins(self, control: Any) -> None:
        control.get("/v1/events?since=3", "Last-Event-ID: 8")
        assert control.backend.event_queries[0]["since"] == 8

    def test_a_replay_that_is_over_is_done(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="event", data={"type": "job.completed"}, id=4)]
        assert [part["kind"] for part in parts_of(control.get("/v1/events?follow=false", NDJSON))] == ["event", "done"]

    def test_one_without_events_is_done_too(self, control: Any) -> None:
        assert [part["kind"] for part in parts_of(control.get("/v1/events?follow=false", NDJSON))] == ["done"]

    def test_a_cursor_that_is_too_old_is_gone(self, control: Any) -> None:
        answer = control.get("/v1/events?since=1")
        assert (answer.status, answer.code, answer.json()["data"]) == (410, "events.expired", {"oldest": 5})

    @pytest.mark.parametrize("query", ["since=-1", "since=x", "follow=maybe", "colour=red"])
    def test_a_wrong_query_is_refused(self, control: Any, query: str) -> None:
        assert control.get(f"/v1/events?{query}").code == "request.invalid"

    @pytest.mark.parametrize("last", ["x", "-1", "9" * 20])
    def test_a_wrong_last_event_id_is_refused(self, control: Any, last: str) -> None:
        assert control.get("/v1/events", f"Last-Event-ID: {last}").code == "request.invalid"
