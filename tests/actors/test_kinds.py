"""The door: which jobs are taken, which are refused and why, and what row a taken one becomes."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from actors.kinds import Kinds
from runtime.errors import (
    AgentNotFound,
    MessageNotPublic,
    PayloadTooLarge,
    RequestInvalid,
    UnderstudyError,
    UnknownKind,
)
from runtime.store.port import JobRow
from schemas.agents import Say
from schemas.base import Message
from schemas.config import Settings
from schemas.jobs import MAX_PAYLOAD, NewJob, RetryPolicy

NOW = 1_700_000_000_000
LLM = {"provider": "scripted", "model": "echo"}
SETTINGS = Settings.model_validate(
    {
        "agents": {"ada": {"llm": LLM, "max_attempts": 7}, "count": {"actor": "agents:Count"}},
        "kinds": {
            "resize": {"run": "jobs:resize", "timeout": "2m", "max_attempts": 5, "queue": "images"},
            "fetch": {"run": "jobs:fetch", "in_loop": True, "retry": {"base": "2s", "jitter": 0.0}},
        },
    }
)


class Noted(Message, type="kinds_test.noted", durable=True, public=True):
    text: str


class Inner(Message, type="kinds_test.inner", durable=True):
    conversation: int = 5


class Passing(Message, type="kinds_test.passing"):
    text: str


@pytest.fixture
def prepare() -> Callable[..., JobRow]:
    kinds = Kinds(SETTINGS)
    return lambda kind, **fields: kinds.prepare(NewJob(kind=kind, **fields), "id-1", NOW)


@pytest.fixture
def tell(prepare: Callable[..., JobRow]) -> Callable[..., JobRow]:
    def make(agent: str = "ada", *, type: str | None = None, message: Any = None, **fields: Any) -> JobRow:  # noqa: A002  # the word of the arguments
        args = {"agent": agent, "message": {"text": "hi"} if message is None else message}
        return prepare("agent.message", args=args | ({} if type is None else {"type": type}), **fields)

    return make


def refused(error: type[UnderstudyError], submit: Callable[[], Any]) -> UnderstudyError:
    with pytest.raises(error) as caught:
        submit()
    return caught.value


def test_a_built_in_kind_has_the_defaults(prepare: Any) -> None:
    row = prepare("echo", args={"b": 1, "a": "é"})
    assert row == JobRow(
        id="id-1", kind="echo", queue="default", lane="loop", args='{"a":"é","b":1}', execute_after=NOW,
        timeout_ms=300_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "args", "lane", "user_code"),
    [
        ("echo", {}, "loop", False),
        ("sleep", {"seconds": 1}, "loop", False),
        ("shell", {"argv": ["true"]}, "child", False),
        ("resize", {}, "child", False),
        ("fetch", {}, "loop", True),
    ],
)
def test_only_code_of_the_users_inside_the_daemon_is_marked(
    prepare: Any, kind: str, args: Any, lane: str, user_code: bool
) -> None:
    row = prepare(kind, args=args)
    assert (row.lane, row.user_code) == (lane, user_code)


def test_a_kind_of_the_users_brings_its_own_limits(prepare: Any) -> None:
    row = prepare("resize")
    assert (row.queue, row.timeout_ms, row.max_attempts) == ("images", 120_000, 5)


def test_the_submitter_overrules_the_kind(prepare: Any) -> None:
    row = prepare("resize", queue="slow", timeout_ms=5, max_attempts=1, priority=3, key="k", delay_ms=250)
    assert (row.queue, row.timeout_ms, row.max_attempts, row.priority, row.key) == ("slow", 5, 1, 3, "k")
    assert row.execute_after == NOW + 250


def test_the_retry_policy_is_kept_where_it_is_not_the_default(prepare: Any) -> None:
    assert prepare("echo").retry is None
    kept = RetryPolicy.model_validate_json(str(prepare("fetch").retry))
    assert (kept.base_ms, kept.jitter) == (2000, 0.0)


def test_an_unknown_kind_is_refused_with_those_that_are_known(prepare: Any) -> None:
    error = refused(UnknownKind, lambda: prepare("resise"))
    assert error.data["known"] == ("echo", "fetch", "resize", "shell", "sleep", "agent.message")


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("sleep", {}),
        ("sleep", {"seconds": -1}),
        ("sleep", {"seconds": "a while"}),
        ("sleep", {"seconds": 1, "more": 2}),
        ("shell", {"argv": []}),
        ("shell", {"argv": "rm -rf"}),
        ("shell", {"argv": ["x"], "env": {"A": 1}}),
        ("agent.message", {}),
        ("agent.message", {"agent": "ada", "message": "hi"}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(prepare: Any, kind: str, args: Any) -> None:
    assert refused(RequestInvalid, lambda: prepare(kind, args=args)).data["errors"]


def test_a_refusal_names_the_place_and_never_quotes_what_was_sent(prepare: Any) -> None:
    error = refused(RequestInvalid, lambda: prepare("shell", args={"argv": ["x"], "env": {"KEY": ["s3cret"]}}))
    assert "env.KEY" in error.detail
    assert "s3cret" not in error.detail + json.dumps(error.data)


def test_whole_seconds_are_taken_for_a_sleep(prepare: Any) -> None:
    assert prepare("sleep", args={"seconds": 2}).args == '{"seconds":2}'


def test_an_agents_queue_takes_messages_only(prepare: Any) -> None:
    refused(RequestInvalid, lambda: prepare("echo", queue="agent:ada"))


@pytest.mark.parametrize(("extra", "taken"), [(0, True), (1, False)])
def test_arguments_have_256_kib_at_most(prepare: Any, extra: int, taken: bool) -> None:
    args = {"x": "a" * (MAX_PAYLOAD - len('{"x":""}') + extra)}
    if taken:
        assert len(prepare("echo", args=args).args) == MAX_PAYLOAD
    else:
        refused(PayloadTooLarge, lambda: prepare("echo", args=args))


def test_arguments_are_measured_in_bytes(prepare: Any) -> None:
    refused(PayloadTooLarge, lambda: prepare("echo", args={"x": "é" * (MAX_PAYLOAD // 2)}))


def test_arguments_that_no_database_could_keep_are_refused(prepare: Any) -> None:
    refused(RequestInvalid, lambda: prepare("echo", args={"x": "\ud800"}))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_no_json_are_refused(prepare: Any, number: float) -> None:
    refused(RequestInvalid, lambda: prepare("echo", args={"x": number}))


@pytest.mark.parametrize("given", [{"x": "\ud800"}, {"x": float("nan")}])
def test_the_context_of_a_job_is_checked_like_its_arguments(prepare: Any, given: Any) -> None:
    refused(RequestInvalid, lambda: prepare("echo", data=given))


def test_the_same_arguments_in_another_order_are_the_same_text(prepare: Any) -> None:
    assert prepare("echo", args={"a": 1, "b": {"d": 1, "c": 2}}) == prepare(
        "echo", args={"b": {"c": 2, "d": 1}, "a": 1}
    )


def test_the_context_is_kept_as_it_is(prepare: Any) -> None:
    assert prepare("echo", data={"trace": "t1"}).data == '{"trace":"t1"}'
    assert prepare("echo").data is None


# -- messages for agents -----------------------------------------------------------------------------------------------


def test_words_for_an_agent_go_to_its_own_queue(tell: Any) -> None:
    row = tell()
    assert (row.kind, row.queue, row.lane, row.conversation) == ("agent.message", "agent:ada", "agent", "main")
    assert (row.max_attempts, row.timeout_ms, row.user_code) == (7, None, False)


def test_a_message_keeps_to_its_conversation(tell: Any) -> None:
    assert tell(message={"text": "hi", "conversation": "trip"}).conversation == "trip"


def test_an_agent_of_the_users_own_class_runs_the_users_code(tell: Any) -> None:
    assert tell("count", type=Noted.TYPE).user_code


def test_a_durable_message_of_another_type_is_checked_against_its_class(tell: Any) -> None:
    assert tell("count", type=Noted.TYPE).conversation == "main"
    refused(RequestInvalid, lambda: tell("count", type=Noted.TYPE, message={"words": "hi"}))


@pytest.mark.parametrize("message", [{}, {"text": ""}, {"text": "hi", "conversation": "no spaces"}])
def test_words_that_are_none_are_refused(tell: Any, message: Any) -> None:
    refused(RequestInvalid, lambda: tell(message=message))


def test_an_unknown_agent_is_refused_with_those_that_are_there(tell: Any) -> None:
    assert refused(AgentNotFound, lambda: tell("bob")).data["known"] == ["ada", "count"]


def test_a_type_that_nobody_knows_yet_is_taken_for_an_upgrade_may_be_under_way(tell: Any) -> None:
    assert tell("count", type="kinds_test.tomorrow").conversation == "main"


@pytest.mark.parametrize("word", ["worker.ready", "actor.terminated", Passing.TYPE])
def test_a_message_that_is_not_durable_is_no_job(tell: Any, word: str) -> None:
    refused(RequestInvalid, lambda: tell("count", type=word))


def test_what_is_not_public_comes_from_inside_only() -> None:
    job = NewJob(kind="agent.message", args={"agent": "count", "type": Inner.TYPE})
    with pytest.raises(MessageNotPublic):
        Kinds(SETTINGS).prepare(job, "id-1", NOW)
    row = Kinds(SETTINGS).prepare(job, "id-1", NOW, inside=True)
    assert (row.queue, row.conversation) == ("agent:count", "main")  # its conversation is no name of one


def test_plain_words_are_durable() -> None:
    assert Say.DURABLE


# -- what a reload changes ---------------------------------------------------------------------------------------------


def test_new_settings_count_from_now_on() -> None:
    kinds = Kinds(SETTINGS)
    kinds.use(Settings.model_validate({"agents": {"bob": {"llm": LLM}}, "kinds": {"late": {"run": "jobs:late"}}}))
    assert kinds.names() == ("echo", "late", "shell", "sleep", "agent.message")
    assert kinds.get("resize") is None
    with pytest.raises(AgentNotFound):
        kinds.prepare(NewJob(kind="agent.message", args={"agent": "ada", "message": {"text": "x"}}), "id", NOW)
