"""Every kind of operation over a real socket: how requests are read, answered and refused."""

import json
import logging
import threading
from typing import Any, get_args, get_origin

import pytest

from runtime.control.decode import resolve
from runtime.errors import MailboxFull, StoreFull
from schemas.agents import GetConversation
from schemas.base import Message
from schemas.codes import CODES
from schemas.jobs import (
    ActOnJobs,
    CancelJob,
    ChangeQueue,
    Dependency,
    DrainWorker,
    GetJob,
    GetJobLogs,
    JobFilter,
    ListJobs,
    ListWorkers,
    NewJob,
    PauseJob,
    Rate,
    ResizePool,
    ResumeJob,
    RetryJob,
    ShowGraph,
    SignalJob,
    SubmitJob,
    SubmitJobs,
    WhyJob,
)
from schemas.operations import OPERATIONS
from schemas.schedules import (
    AddSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    RemoveSchedule,
    TriggerSchedule,
)
from schemas.system import HealthView, Shutdown

WAIT = 20.0


def actor_of(name: str) -> str:
    """Return the actor that the table names for an operation."""
    return next(operation.actor for operation in OPERATIONS if operation.name == name)


class Internal(Message, type="control-test.internal"):
    """Nothing for the outside."""


class TestEveryAnswer:
    def test_carries_the_version_and_a_request_id(self, control: Any) -> None:
        for path in ("/v1/hello", "/v1/agents", "/v1/nowhere", "/v1/jobs?limit=none"):
            headers = control.get(path).headers
            assert headers["understudy-version"] == "9.9"
            assert len(headers["x-request-id"]) == 36
            assert "server" not in headers

    def test_keeps_a_sane_request_id_of_the_client(self, control: Any) -> None:
        assert control.get("/v1/hello", "X-Request-Id: mine-1").headers["x-request-id"] == "mine-1"
        assert control.get("/v1/nowhere", "X-Request-Id: mine-2").json()["request_id"] == "mine-2"

    @pytest.mark.parametrize("value", ["", "a b", "-x", "x" * 65, 'x"y', "\u00e9"])
    def test_replaces_an_unfit_request_id(self, control: Any, value: str) -> None:
        assert len(control.get("/v1/hello", f"X-Request-Id: {value}").headers["x-request-id"]) == 36


class TestPaths:
    def test_an_unknown_path_is_404(self, control: Any) -> None:
        for path in ("/", "/v1", "/v1/hello/", "/v1/jobs/x/y/z", "/v1/jobs//cancel", "/v2/hello"):
            answer = control.get(path)
            assert (answer.status, answer.code) == (404, "request.not_found"), path

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [("POST", "/v1/hello", "GET"), ("DELETE", "/v1/jobs", "GET, POST"), ("GET", "/v1/jobs/x/cancel", "POST")],
    )
    def test_a_wrong_method_is_405_and_names_the_right_ones(
        self, control: Any, method: str, path: str, allowed: str
    ) -> None:
        answer = control.get(path, method=method)
        assert (answer.status, answer.code, answer.headers["allow"]) == (405, "request.method", allowed)

    def test_a_name_in_the_path_may_hold_a_quoted_slash(self, control: Any) -> None:
        control.post("/v1/actors/worker%3Aa%2Fb/tell", {"type": "worker.list"})
        assert control.backend.told[0][0] == "worker:a/b"


class TestSnapshots:
    def test_health_is_200_whatever_it_says(self, control: Any) -> None:
        control.backend.health_view = HealthView(health="degraded", reasons=("disk full",))
        answer = control.get("/healthz")
        assert answer.status == 200
        assert answer.json()["reasons"] == ["disk full"]

    @pytest.mark.parametrize(
        ("health", "status", "code"),
        [
            ("starting", 503, "daemon.starting"),
            ("draining", 503, "daemon.draining"),
            ("safe_mode", 500, "daemon.failed"),
        ],
    )
    def test_readiness_says_what_is_missing(self, control: Any, health: Any, status: int, code: str) -> None:
        control.backend.health_view = HealthView(health=health, reasons=("because",))
        answer = control.get("/readyz")
        assert (answer.status, answer.code) == (status, code)
        assert "because" in answer.json()["detail"]
        assert answer.json()["data"] == {"health": health}

    @pytest.mark.parametrize("health", ["ok", "degraded"])
    def test_it_is_ready_when_it_works(self, control: Any, health: Any) -> None:
        control.backend.health_view = HealthView(health=health)
        assert control.get("/readyz").status == 200

    def test_they_take_no_parameters(self, control: Any) -> None:
        assert control.get("/v1/status?verbose=1").code == "request.invalid"


class TestAsking:
    def test_fields_come_from_the_path_and_the_query(self, control: Any) -> None:
        control.get("/v1/agents/bob/conversations/main?limit=7")
        control.get("/v1/jobs/j%201/logs?after=3&tail=5")
        assert control.backend.asked == [
            ("system", GetConversation(name="bob", conversation="main", limit=7), None),
            (actor_of("jobs.logs"), GetJobLogs(id="j 1", after=3, tail=5), None),
        ]

    def test_a_tuple_of_models_is_an_array(self, control: Any) -> None:
        assert [agent["name"] for agent in control.get("/v1/agents").json()] == ["a"]

    def test_nothing_is_null(self, control: Any) -> None:
        assert control.get("/v1/jobs?status=failed&queue=q&kind=k&before=x").json() is None
        assert control.backend.asked[0][1] == ListJobs(status="failed", queue="q", kind="k", before="x")

    def test_the_body_is_the_named_field(self, control: Any) -> None:
        answer = control.post("/v1/jobs", {"kind": "echo", "args": {"a": [1, None]}})
        assert answer.json() == {"id": "j1", "status": "pending", "existing": False}
        actor, asked, key = control.backend.asked[0]
        assert (actor, asked.job.kind, asked.job.args, key) == ("queue", "echo", {"a": [1, None]}, None)

    def test_the_path_and_the_body_make_one_request(self, control: Any) -> None:
        control.backend.answer = lambda message: None
        control.post("/v1/jobs/x/cancel", {"reason": "enough"})
        control.post("/v1/jobs/y/cancel", b"")
        control.post("/v1/shutdown", {"now": True})
        assert [asked[1] for asked in control.backend.asked] == [
            CancelJob(id="x", reason="enough"),
            CancelJob(id="y"),
            Shutdown(now=True),
        ]

    def test_what_the_path_gives_the_body_may_not(self, control: Any) -> None:
        answer = control.post("/v1/jobs/x/cancel", {"id": "y"})
        assert answer.code == "request.invalid"
        assert answer.json()["data"]["errors"][0]["loc"] == ["body", "id"]

    def test_numbers_that_json_cannot_say_become_null(self, control: Any) -> None:
        control.backend.answer = lambda message: {"lag": float("nan")}
        assert control.get("/v1/jobs").json() == {"lag": None}


class TestRefusals:
    def test_a_wrong_query_names_every_place_and_repeats_nothing(self, control: Any) -> None:
        answer = control.get("/v1/jobs?limit=s3cret&status=s3cret&colour=s3cret")
        assert (answer.status, answer.code) == (400, "request.invalid")
        errors = answer.json()["data"]["errors"]
        assert sorted(error["loc"][0] for error in errors) == ["colour", "limit", "status"]
        assert all(set(error) == {"loc", "msg", "type"} for error in errors)
        assert b"s3cret" not in answer.body

    def test_a_wrong_body_names_every_place_and_repeats_nothing(self, control: Any) -> None:
        answer = control.post("/v1/jobs", {"kind": "", "priority": "s3cret", "colour": "s3cret"})
        assert sorted(error["loc"] for error in answer.json()["data"]["errors"]) == [["colour"], ["kind"], ["priority"]]
        assert b"s3cret" not in answer.body

    def test_types_that_only_look_alike_are_refused_in_a_body(self, control: Any) -> None:
        assert control.post("/v1/jobs", {"kind": "x", "priority": "5"}).code == "request.invalid"
        assert control.post("/v1/shutdown", {"now": 1}).code == "request.invalid"

    def test_a_value_given_twice_is_refused(self, control: Any) -> None:
        assert control.get("/v1/jobs?limit=1&limit=2").code == "request.invalid"

    @pytest.mark.parametrize("body", [b"{", b"[1]", b"3", b'{"kind":NaN}', b'"\xff"', b"[" * 5000, b'{"a":"\\ud800"}'])
    def test_what_is_not_a_json_object_is_malformed(self, control: Any, body: bytes) -> None:
        answer = control.post("/v1/jobs", body)
        assert (answer.status, answer.code) == (400, "request.malformed")

    def test_an_unreadable_query_is_refused(self, control: Any) -> None:
        assert control.get("/v1/jobs?kind=%ff").code == "request.invalid"

    @pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "", "3601", "1&timeout=2"])
    def test_a_timeout_is_a_sensible_number_of_seconds(self, control: Any, value: str) -> None:
        assert control.get(f"/v1/agents?timeout={value}").code == "request.invalid"

    def test_an_error_of_the_backend_keeps_code_status_and_data(self, control: Any) -> None:
        answer = control.post("/v1/actors/nobody/ask", {"type": "worker.list"})
        assert (answer.status, answer.code) == (404, "actor.not_found")
        assert answer.json()["data"] == {"known": ["queue"]}

    def test_when_to_come_back_is_rounded_up(self, control: Any) -> None:
        def full(message: Any) -> Any:
            raise MailboxFull("full", retry_after=1.2)

        control.backend.answer = full
        answer = control.get("/v1/agents")
        assert (answer.status, answer.headers["retry-after"], answer.json()["retry_after_ms"]) == (503, "2", 1200)

    def test_a_status_without_a_wait_has_no_retry_after(self, control: Any) -> None:
        def full(message: Any) -> Any:
            raise StoreFull("no room")

        control.backend.answer = full
        answer = control.get("/v1/agents")
        assert answer.status == 507
        assert "retry-after" not in answer.headers

    def test_a_mistake_of_ours_is_told_to_the_log_and_not_to_the_client(
        self, control: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(message: Any) -> Any:
            raise RuntimeError("s3cret")

        control.backend.answer = fail
        answer = control.get("/v1/agents", "X-Request-Id: look-here")
        assert (answer.status, answer.code) == (500, "internal")
        assert b"s3cret" not in answer.body
        assert b"Traceback" not in answer.body
        assert answer.json()["request_id"] == "look-here"
        captured = capfd.readouterr()  # where the log goes depends on whether it was set up by then
        assert "look-here" in captured.out + captured.err + caplog.text

    def test_an_answer_that_is_no_json_is_a_mistake_of_ours(self, control: Any) -> None:
        control.backend.answer = lambda message: object()
        assert control.get("/v1/agents").code == "internal"


class TestHangUp:
    def ask_and_leave(self, control: Any, padding: int = 0) -> None:
        body = json.dumps({"type": "worker.list"}).encode() + b" " * padding
        with control.connect() as client:
            head = f"POST /v1/actors/sleeper/ask HTTP/1.1\r\nHost: u\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            assert control.backend.waiting.wait(WAIT)

    def test_an_ask_is_called_off_when_its_client_leaves(self, control: Any) -> None:
        self.ask_and_leave(control)
        assert control.backend.cancelled.wait(WAIT)

    def test_a_large_body_does_not_hide_the_hang_up(self, control: Any) -> None:
        self.ask_and_leave(control, padding=300_000)
        assert control.backend.cancelled.wait(WAIT)

    def test_nothing_is_logged_about_it(self, control: Any, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            self.ask_and_leave(control)
            assert control.backend.cancelled.wait(WAIT)
            control.server.stop()
        assert [record for record in caplog.records if record.name.startswith(("uvicorn", "runtime"))] == []


class TestAnyMessage:
    def test_an_ask_is_answered_under_reply(self, control: Any) -> None:
        control.backend.answer = lambda message: (1, 2)
        answer = control.post("/v1/actors/queue/ask", {"type": "job.get", "message": {"id": "x"}, "timeout": 2})
        assert answer.json() == {"reply": [1, 2]}
        assert control.backend.asked == [("queue", GetJob(id="x"), None)]

    def test_a_tell_is_handed_over(self, control: Any) -> None:
        answer = control.post("/v1/actors/queue/tell", {"type": "worker.list"}, "Idempotency-Key: k")
        assert answer.json() == {"reply": None}
        assert control.backend.told == [("queue", ListWorkers(), "k")]

    def test_an_unknown_type_is_404_and_names_the_public_ones(self, control: Any) -> None:
        answer = control.post("/v1/actors/queue/tell", {"type": "job.lost"})
        assert (answer.status, answer.code) == (404, "message.unknown_type")
        known = answer.json()["data"]["known"]
        assert "job.get" in known
        assert Internal.TYPE not in known

    def test_an_internal_type_is_403(self, control: Any) -> None:
        answer = control.post("/v1/actors/queue/tell", {"type": Internal.TYPE})
        assert (answer.status, answer.code) == (403, "message.not_public")
        assert control.backend.told == []

    def test_a_wrong_message_names_the_place_within(self, control: Any) -> None:
        answer = control.post("/v1/actors/queue/ask", {"type": "job.get", "message": {"id": 1}})
        assert answer.json()["data"]["errors"][0]["loc"] == ["message", "id"]

    @pytest.mark.parametrize("timeout", [0, -1, 3601, "5"])
    def test_a_timeout_is_a_sensible_number_of_seconds(self, control: Any, timeout: Any) -> None:
        assert control.post("/v1/actors/a/ask", {"type": "job.get", "timeout": timeout}).code == "request.invalid"


class TestIdempotency:
    def test_the_header_becomes_the_key_of_a_job(self, control: Any) -> None:
        control.post("/v1/jobs", {"kind": "x"}, "Idempotency-Key: once")
        control.post("/v1/jobs", {"kind": "x", "key": None}, "Idempotency-Key: once")
        control.post("/v1/jobs", {"kind": "x", "key": "once"}, "Idempotency-Key: once")
        requests = [asked[1] for asked in control.backend.asked]
        assert all(isinstance(asked, SubmitJob) and asked.job.key == "once" for asked in requests)
        assert [asked[2] for asked in control.backend.asked] == ["once"] * 3

    def test_two_different_keys_are_refused(self, control: Any) -> None:
        answer = control.post("/v1/jobs", {"kind": "x", "key": "other"}, "Idempotency-Key: once")
        assert (answer.status, answer.code) == (400, "request.invalid")
        assert control.backend.asked == []

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256])
    def test_an_unfit_key_is_refused(self, control: Any, key: str) -> None:
        assert control.post("/v1/jobs", {"kind": "x"}, f"Idempotency-Key: {key}").code == "request.invalid"

    def test_it_means_nothing_where_nothing_is_created(self, control: Any) -> None:
        control.get("/v1/agents", "Idempotency-Key: once")
        assert control.backend.asked[0][2] is None


class TestTheQueue:
    """The operations on jobs, queues, workers and schedules reach their actor as the message that they are."""

    @pytest.mark.parametrize(
        ("method", "path", "body", "actor", "message"),
        [
            ("GET", "/v1/jobs/j/why", None, "system", WhyJob(id="j")),
            ("GET", "/v1/jobs/j/graph?limit=7", None, "system", ShowGraph(id="j", limit=7)),
            (
                "GET",
                "/v1/jobs?status=failed&reason=poison&tag=t&parent=p&limit_key=k&errors=true&limit=3",
                None,
                "system",
                ListJobs(status="failed", reason="poison", tag="t", parent="p", limit_key="k", errors=True, limit=3),
            ),
            ("POST", "/v1/jobs/j/pause", {}, "queue", PauseJob(id="j")),
            ("POST", "/v1/jobs/j/resume", None, "queue", ResumeJob(id="j")),
            ("POST", "/v1/jobs/j/retry", {"dependants": True}, "queue", RetryJob(id="j", dependants=True)),
            (
                "POST",
                "/v1/jobs/j/signal",
                {"name": "go", "payload": [1]},
                "queue",
                SignalJob(id="j", name="go", payload=[1]),
            ),
            (
                "POST",
                "/v1/jobs/act",
                {"action": "retry", "where": {"status": "failed"}, "dry_run": True},
                "queue",
                ActOnJobs(action="retry", where=JobFilter(status="failed"), dry_run=True),
            ),
            (
                "POST",
                "/v1/queues/agent%3Aada",
                {"state": "paused", "rate": {"requests": 2}, "by": "bob"},
                "queue",
                ChangeQueue(name="agent:ada", state="paused", rate=Rate(requests=2), by="bob"),
            ),
            (
                "POST",
                "/v1/workers/worker%3Aloop-1/drain",
                {"drain": False},
                "queue",
                DrainWorker(id="worker:loop-1", drain=False),
            ),
            ("POST", "/v1/pools/loop", {"size": 3}, "queue", ResizePool(name="loop", size=3)),
            ("GET", "/v1/schedules", None, "schedules", ListSchedules()),
            ("GET", "/v1/schedules/s?limit=0", None, "schedules", GetSchedule(name="s", limit=0)),
            (
                "POST",
                "/v1/schedules",
                {"name": "s", "cron": "@daily", "job": {"kind": "echo"}},
                "schedules",
                AddSchedule(name="s", cron="@daily", job=NewJob(kind="echo")),
            ),
            ("POST", "/v1/schedules/s/remove", {}, "schedules", RemoveSchedule(name="s")),
            ("POST", "/v1/schedules/s/trigger", {}, "schedules", TriggerSchedule(name="s")),
            ("POST", "/v1/schedules/s/pause", {"paused": False}, "schedules", PauseSchedule(name="s", paused=False)),
        ],
        ids=lambda value: value if isinstance(value, str) and value.startswith("/") else "",
    )
    def test_a_request_becomes_its_message(
        self, control: Any, method: str, path: str, body: Any, actor: str, message: Message
    ) -> None:
        control.backend.answer = lambda message: {}
        answer = control.get(path) if method == "GET" else control.post(path, body or {})
        assert answer.status == 200, answer.body
        assert control.backend.asked == [(actor, message, None)]

    def test_every_operation_of_an_actor_is_answered_by_what_its_message_promises(self) -> None:
        for operation in OPERATIONS:
            if operation.served == "actor":
                promised = resolve(operation.request).reply_type()
                listed = get_args(promised)[0] if get_origin(promised) is tuple else promised
                assert listed is resolve(operation.reply), operation.name

    def test_every_error_of_the_table_has_a_code(self) -> None:
        assert [code for operation in OPERATIONS for code in operation.errors if code not in CODES] == []

    def test_a_batch_keeps_its_order_and_its_edges(self, control: Any) -> None:
        control.backend.answer = lambda message: ()
        jobs = [{"kind": "echo", "ref": "a"}, {"kind": "echo", "depends_on": [{"job": "#a", "on_failure": "run"}]}]
        assert control.post("/v1/jobs/batch", {"jobs": jobs}).status == 200
        ((actor, message, _),) = control.backend.asked
        assert actor == "queue"
        first = NewJob(kind="echo", ref="a")
        second = NewJob(kind="echo", depends_on=(Dependency(job="#a", on_failure="run"),))
        assert message == SubmitJobs(jobs=(first, second))

    def test_the_key_of_a_batch_is_the_key_of_each_of_its_jobs(self, control: Any) -> None:
        control.backend.answer = lambda message: ()
        jobs = [{"kind": "echo"}, {"kind": "echo", "key": "mine"}, {"kind": "echo", "key": None}]
        control.post("/v1/jobs/batch", {"jobs": jobs}, "Idempotency-Key: night")
        assert [job.key for job in control.backend.asked[0][1].jobs] == ["night/0", "mine", "night/2"]

    def test_a_batch_may_be_larger_than_another_body(self, control: Any) -> None:
        control.backend.answer = lambda message: ()
        jobs = [{"kind": "echo", "args": {"text": "x" * 1000}}] * 2000
        assert control.post("/v1/jobs/batch", {"jobs": jobs}).status == 200
        assert control.post("/v1/jobs", jobs[0] | {"args": {"text": "x" * 2_000_000}}).code == "request.too_large"

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/jobs/batch", {"jobs": []}),
            ("/v1/jobs/batch", {"jobs": [{"kind": "echo"}, {"kind": "echo", "tags": ["a b"]}]}),
            ("/v1/jobs/batch", {"jobs": [{"kind": "echo", "depends_on": [{"job": "#a", "on_failure": "hope"}]}]}),
            ("/v1/jobs/batch", {"jobs": "all"}),
            ("/v1/jobs/act", {"action": "delete"}),
            ("/v1/jobs/act", {"action": "cancel", "where": {"colour": "red"}}),
            ("/v1/jobs/j/signal", {"payload": 1}),
            ("/v1/queues/mail", {"state": "asleep"}),
            ("/v1/queues/mail", {"max_active": -1}),
            ("/v1/queues/Mail", {"state": "paused"}),
            ("/v1/pools/loop", {"size": "many"}),
            ("/v1/schedules", {"name": "s", "cron": "@daily", "job": {"kind": "echo", "key": "k"}}),
        ],
    )
    def test_what_is_not_valid_is_refused_at_the_door(self, control: Any, path: str, body: Any) -> None:
        answer = control.post(path, body)
        assert (answer.status, answer.code) == (400, "request.invalid")
        assert control.backend.asked == []

    def test_a_filter_with_an_unknown_word_is_refused(self, control: Any) -> None:
        for query in ("status=lost", "colour=red", "errors=maybe"):
            assert control.get(f"/v1/jobs?{query}").code == "request.invalid"


class TestOpenApi:
    def test_lists_every_operation(self, control: Any) -> None:
        document = control.get("/v1/openapi.json").json()
        assert document["openapi"] == "3.1.0"
        listed = {
            (described["operationId"], method.upper(), path)
            for path, methods in document["paths"].items()
            for method, described in methods.items()
        }
        assert listed == {(operation.name, operation.method, operation.path) for operation in OPERATIONS}

    def test_every_reference_leads_somewhere(self, control: Any) -> None:
        answer = control.get("/v1/openapi.json")
        known = answer.json()["components"]["schemas"]
        references = {part.partition(b'"')[0].decode() for part in answer.body.split(b"#/components/schemas/")[1:]}
        assert references
        assert references <= known.keys()

    def test_says_what_is_in_path_query_header_and_body(self, control: Any) -> None:
        paths = control.get("/v1/openapi.json").json()["paths"]
        logs = {(p["in"], p["name"]): p["required"] for p in paths["/v1/jobs/{id}/logs"]["get"]["parameters"][:4]}
        assert logs == {
            ("path", "id"): True,
            ("query", "after"): False,
            ("query", "tail"): False,
            ("query", "limit"): False,
        }
        cancel = paths["/v1/jobs/{id}/cancel"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert list(cancel["properties"]) == ["reason"]
        submit = paths["/v1/jobs"]["post"]
        assert submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("NewJob")
        assert "Idempotency-Key" in [p["name"] for p in submit["parameters"]]
        agents = paths["/v1/agents"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert agents["type"] == "array"

    def test_errors_stand_under_their_status(self, control: Any) -> None:
        responses = control.get("/v1/openapi.json").json()["paths"]["/v1/jobs"]["post"]["responses"]
        assert "job.key_conflict" in responses["409"]["description"]
        assert "application/problem+json" in responses["503"]["content"]


def test_many_clients_at_once_each_get_their_own_answer(control: Any) -> None:
    control.backend.answer = lambda message: {"id": message.id}
    wrong: list[Any] = []

    def ask(n: int) -> None:
        for i in range(20):
            answer = control.get(f"/v1/jobs/{n}-{i}").json()
            wrong.extend([] if answer == {"id": f"{n}-{i}"} else [answer])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert wrong == []
    assert len(control.backend.asked) == 160
