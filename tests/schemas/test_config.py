"""What config.toml may say: defaults, times, names, and the rules between keys."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from schemas.config import (
    LocalProvider,
    OpenAIProvider,
    ScriptedProvider,
    Settings,
    parse_duration,
)
from schemas.tools import BUILTIN_TOOLS

LLM = {"provider": "local", "model": "smollm2"}


def codes(data: dict[str, Any], **context: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(data, context=context or None)
    return {".".join(map(str, error["loc"])): error["type"] for error in caught.value.errors()}


def test_an_empty_file_has_the_documented_defaults() -> None:
    runtime = Settings().runtime
    assert (runtime.lease, runtime.heartbeat, runtime.drain, runtime.grace) == (30_000, 10_000, 30_000, 5_000)
    assert (runtime.pool, runtime.child_pool, runtime.durability, runtime.log_level) == (None, None, "full", "info")


def test_ended_jobs_are_kept_for_a_while_by_default() -> None:
    kept, day = Settings().retention, 86_400_000
    assert (kept.completed, kept.completed_max, kept.failed, kept.failed_max) == (7 * day, 50_000, 30 * day, None)


def test_a_schedule_has_the_documented_defaults() -> None:
    table = Settings.model_validate({"schedules": {"s": {"cron": "@daily", "kind": "echo"}}}).schedules["s"]
    assert (table.tz, table.catchup, table.overlap, table.paused, table.priority) == ("UTC", "one", "allow", False, 100)


def test_a_pool_serves_named_queues_and_is_none_of_the_general_two() -> None:
    assert codes({"pools": {"own": {"size": 1}}}) == {"pools.own.queues": "missing"}
    assert codes({"pools": {"loop": {"size": 1, "queues": ["a"]}}}) == {"pools.loop.[key]": "general_pool"}
    pool = Settings.model_validate({"pools": {"own": {"size": 1, "queues": ["a", "b"]}}}).pools["own"]
    assert (pool.lane, pool.queues) == ("child", ("a", "b"))


def test_a_rate_is_for_a_minute_unless_given() -> None:
    rate = Settings.model_validate({"queues": {"q": {"rate": {"tokens": 5}}}}).queues["q"].rate
    assert rate is not None
    assert rate.rate().model_dump() == {"requests": None, "tokens": 5, "per_ms": 60_000}


def test_an_agent_has_the_documented_defaults() -> None:
    agent = Settings.model_validate({"agents": {"a": {"llm": LLM}}}).agents["a"]
    assert (agent.run_timeout, agent.idle_timeout) == (1_800_000, 120_000)
    assert (agent.max_attempts, agent.context_messages, agent.concurrency) == (3, 40, 4)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("1.5s", 1500),
        (2, 2000),
    ],
)
def test_times_are_read_into_milliseconds(text: object, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "30 parsecs", "1h30m", "٣s", True, None, [], math.nan, math.inf, 10**400, "1e9s"]
)
def test_what_is_no_time_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(PydanticCustomError, match=r"30s|between 0 and"):
        parse_duration(text)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none()))
def test_any_value_is_a_time_or_a_clean_refusal(value: object) -> None:
    try:
        ms = parse_duration(value)
    except PydanticCustomError:
        return
    assert 0 <= ms <= 3650 * 86_400_000


def test_zero_is_a_pause_but_no_lease() -> None:
    assert Settings.model_validate({"runtime": {"drain": "0s"}}).runtime.drain == 0
    assert codes({"runtime": {"lease": 0}})["runtime.lease"] == "duration"


def test_the_heartbeat_follows_a_shorter_lease() -> None:
    assert Settings.model_validate({"runtime": {"lease": "3s"}}).runtime.heartbeat == 1000
    assert Settings.model_validate({"runtime": {"lease": "5m"}}).runtime.heartbeat == 10_000


def test_a_heartbeat_that_a_lease_cannot_survive_is_refused() -> None:
    assert codes({"runtime": {"lease": "10s", "heartbeat": "6s"}}) == {"runtime.heartbeat": "heartbeat"}


def test_unknown_keys_and_lookalike_types_are_refused() -> None:
    found = codes({"agents": {"a": {"llm": LLM, "rol": "x", "concurrency": "4"}}, "agent": {}})
    assert found == {
        "agents.a.rol": "extra_forbidden",
        "agents.a.concurrency": "int_type",
        "agent": "extra_forbidden",
    }


def test_an_agent_needs_a_model_or_a_class() -> None:
    assert codes({"agents": {"a": {"role": "x"}}}) == {"agents.a": "agent_incomplete"}
    assert Settings.model_validate({"agents": {"a": {"actor": "mine:Actor"}}}).agents["a"].llm is None


def test_an_undefined_provider_is_refused_where_the_names_are_known() -> None:
    data = {"agents": {"a": {"llm": {"provider": "olama", "model": "x"}}}}
    assert codes(data, providers={"ollama"}) == {"agents.a.llm.provider": "unknown_provider"}
    assert Settings.model_validate(data).agents["a"].llm is not None


def test_the_type_of_a_provider_follows_from_its_name() -> None:
    settings = Settings.model_validate(
        {"providers": {"local": {}, "scripted": {}, "openai": {}, "ollama": {"base_url": "http://localhost:11434/v1/"}}}
    )
    assert isinstance(settings.provider("local"), LocalProvider)
    assert isinstance(settings.provider("scripted"), ScriptedProvider)
    openai, ollama = settings.provider("openai"), settings.provider("ollama")
    assert isinstance(openai, OpenAIProvider)
    assert openai.base_url == "https://api.openai.com/v1"
    assert isinstance(ollama, OpenAIProvider)
    assert ollama.base_url == "http://localhost:11434/v1"


def test_builtin_providers_need_no_table() -> None:
    assert Settings().provider("local") == LocalProvider()
    assert Settings().provider("scripted") == ScriptedProvider()
    with pytest.raises(KeyError):
        Settings().provider("openai")


@pytest.mark.parametrize(
    "url", ["ftp://x", "x", "http://", "http://u:p@host/v1", "http://h:99999", "http://h/v1?k=1", "http://[x"]
)
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    assert set(codes({"providers": {"p": {"base_url": url}}})) == {"providers.p.openai.base_url"}


@pytest.mark.parametrize("key", ["sk-abcdefghijklmnop", "env:", "nothing:x", "", "AIzaabc"])
def test_a_literal_key_is_refused(key: str) -> None:
    assert codes({"providers": {"openai": {"api_key": key}}}) == {"providers.openai.openai.api_key": "secret_literal"}


@pytest.mark.parametrize("kind", ["echo", "sleep", "shell"])
def test_builtin_kinds_may_not_be_defined(kind: str) -> None:
    assert codes({"kinds": {kind: {"run": "a:b"}}}) == {f"kinds.{kind}.[key]": "builtin_kind"}


def test_a_kind_gives_the_queue_its_retry_policy() -> None:
    kind = Settings.model_validate(
        {"kinds": {"resize": {"run": "images:resize", "max_attempts": 5, "retry": {"base": "2s", "max": "1m"}}}}
    ).kinds["resize"]
    policy = kind.retry_policy()
    assert (policy.max_attempts, policy.base_ms, policy.max_ms, policy.factor) == (5, 2000, 60_000, 2.0)
    assert (kind.timeout, kind.queue, kind.in_loop) == (300_000, "default", False)


def test_every_key_is_described_in_the_schema_for_editors() -> None:
    schema = Settings.model_json_schema()
    tables = [schema, *schema["$defs"].values()]
    bare = [
        key
        for table in tables
        for key, field in table["properties"].items()
        if "description" not in field and key != "type"
    ]
    assert bare == []
    assert "string" in str(schema["$defs"]["RuntimeSettings"]["properties"]["lease"]["anyOf"])


def test_a_built_in_tool_that_nobody_knows_is_refused_where_the_names_are_known() -> None:
    data = {"agents": {"a": {"llm": LLM, "tools": ["files.raed", "mine:tool", "shell", "maps/find"]}}}
    assert codes(data, tools=BUILTIN_TOOLS) == {"agents.a.tools.0": "unknown_tool"}
    assert Settings.model_validate(data).agents["a"].tools[0] == "files.raed"
