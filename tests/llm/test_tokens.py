"""Tokens are estimated from bytes with a ratio that is learnt, and what does not fit goes in an order that is sound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.llm.tokens import MESSAGE_BYTES, UNKNOWN_OUTPUT, Fitted, TokenMeter, fit, weigh
from schemas.chat import ChatMessage, ChatRequest, EmbedRequest, ToolCall, ToolSpec, Usage

SYSTEM = ChatMessage(role="system", content="be kind")


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def said(text: str, *calls: str) -> ChatMessage:
    wishes = tuple(ToolCall(id=call, name="t", arguments="{}") for call in calls)
    return ChatMessage(role="assistant", content=text, tool_calls=wishes)


def result(call: str, text: str = "r") -> ChatMessage:
    return ChatMessage(role="tool", content=text, tool_call_id=call)


def asked(text: str, **more: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": (user(text),), **more})


def by_count(messages: tuple[ChatMessage, ...]) -> int:
    return len(messages)


def texts(messages: tuple[ChatMessage, ...]) -> list[str]:
    return [message.content for message in messages]


def test_four_bytes_are_a_token_until_the_provider_counted() -> None:
    meter = TokenMeter()
    request = asked("x" * (400 - MESSAGE_BYTES))
    assert meter.estimate(request) == 100
    for _ in range(30):
        meter.learn(request, Usage(input_tokens=200, output_tokens=1))
    assert meter.ratio("m") == pytest.approx(2.0, abs=0.01)
    assert meter.estimate(request) == pytest.approx(200, abs=1)
    assert meter.ratio("other") == 4.0


def test_one_observation_moves_the_ratio_by_a_quarter() -> None:
    meter = TokenMeter()
    request = asked("x" * (400 - MESSAGE_BYTES))
    meter.learn(request, Usage(input_tokens=200))
    assert meter.ratio("m") == 3.5


@pytest.mark.parametrize(("tokens", "bound"), [(1_000_000, 1.0), (1, 8.0)])
def test_the_ratio_stays_between_one_and_eight(tokens: int, bound: float) -> None:
    meter = TokenMeter()
    for _ in range(100):
        meter.learn(asked("x" * 1000), Usage(input_tokens=tokens))
    assert meter.ratio("m") == pytest.approx(bound)
    assert 1.0 <= meter.ratio("m") <= 8.0


def test_estimates_and_silence_teach_nothing() -> None:
    meter = TokenMeter()
    meter.learn(asked("x" * 1000), Usage(input_tokens=1000, output_tokens=1000, estimated=True))
    meter.learn(asked("x" * 1000), Usage())
    assert meter.ratio("m") == 4.0
    assert meter.reserve(asked("x")) == meter.estimate(asked("x")) + UNKNOWN_OUTPUT


def test_everything_that_is_sent_weighs() -> None:
    plain = weigh(asked("hello"))
    tool = ToolSpec(name="find", description="finds", parameters={"type": "object"})
    assert weigh(asked("hello", tools=(tool,))) == plain + 9 + len('{"type": "object"}') + MESSAGE_BYTES
    assert weigh(asked("hello", response_schema={"a": 1})) == plain + len('{"a": 1}')
    call = ChatRequest(model="m", messages=(user("hello"), said("", "c")))
    assert weigh(call) == plain + len("t{}") + 2 * MESSAGE_BYTES
    assert weigh(asked("ø\ud800")) == 3 + MESSAGE_BYTES
    assert weigh(EmbedRequest(model="m", texts=("abc", "d"))) == 4 + 2 * MESSAGE_BYTES


def test_the_answer_that_is_to_be_expected_is_reserved() -> None:
    meter = TokenMeter()
    request = asked("hello")
    read = meter.estimate(request)
    assert meter.reserve(request.model_copy(update={"max_tokens": 10})) == read + 10
    assert meter.reserve(EmbedRequest(model="m", texts=("hello",))) == read
    meter.learn(request, Usage(output_tokens=40))
    assert meter.reserve(request) == read + 40
    meter.learn(request, Usage(output_tokens=80))
    assert meter.reserve(request) == read + 50


def test_what_fits_is_left_alone() -> None:
    messages = (SYSTEM, user("a"), said("b"), user("c"))
    assert fit(messages, 4, by_count) == Fitted(messages, (), 4, True)


def test_the_oldest_go_first_and_the_system_stays() -> None:
    late = ChatMessage(role="system", content="remember")
    fitted = fit((SYSTEM, user("a"), late, said("b"), user("c"), said("d"), user("e")), 4, by_count)
    assert texts(fitted.kept) == ["be kind", "remember", "d", "e"]
    assert texts(fitted.dropped) == ["a", "b", "c"]
    assert fitted.fits


def test_a_call_goes_with_all_its_results() -> None:
    messages = (user("a"), said("b", "1", "2"), result("1", "r1"), result("2", "r2"), said("c"), user("d"))
    fitted = fit(messages, 4, by_count)
    assert texts(fitted.kept) == ["c", "d"]
    assert texts(fitted.dropped) == ["a", "b", "r1", "r2"]


def test_a_result_that_came_after_another_word_goes_with_its_call_as_well() -> None:
    messages = (said("b", "1"), user("hurry"), result("1", "r1"), said("c"), user("d"))
    assert texts(fit(messages, 4, by_count).kept) == ["hurry", "c", "d"]


def test_a_number_that_is_used_again_belongs_to_the_latest_call() -> None:
    messages = (user("a"), said("b", "1"), result("1", "r1"), user("c"), said("d", "1"), result("1", "r2"))
    assert texts(fit(messages, 3, by_count).kept) == ["c", "d", "r2"]


def test_a_result_without_its_call_goes_always() -> None:
    fitted = fit((SYSTEM, result("gone", "r0"), said("b"), user("c")), 100, by_count)
    assert texts(fitted.kept) == ["be kind", "b", "c"]
    assert texts(fitted.dropped) == ["r0"]


def test_in_a_long_turn_the_question_stays_and_its_first_steps_go() -> None:
    steps = [each for n in range(5) for each in (said(f"s{n}", f"{n}"), result(f"{n}", f"r{n}"))]
    fitted = fit((SYSTEM, user("old"), user("question"), *steps), 6, by_count)
    assert texts(fitted.kept) == ["be kind", "question", "s3", "r3", "s4", "r4"]


def test_the_least_is_kept_even_if_it_is_too_much() -> None:
    fitted = fit((SYSTEM, user("a"), said("b"), user("c")), 1, by_count)
    assert texts(fitted.kept) == ["be kind", "c"]
    assert (fitted.tokens, fitted.fits) == (2, False)
    assert fit((), 0, by_count) == Fitted((), (), 0, True)


def test_the_meter_counts_the_tools_too() -> None:
    meter = TokenMeter()
    messages = (user("x" * 400), user("y" * 400), user("z" * 400))
    tool = ToolSpec(name="t", description="d" * 399)
    assert len(meter.fit("m", messages, 320).kept) == 3
    assert len(meter.fit("m", messages, 320, (tool,)).kept) == 2


ROLES = st.lists(st.sampled_from(["user", "assistant", "call", "calls", "system"]), max_size=12)


@given(ROLES, st.integers(0, 20))
def test_nothing_is_ever_torn_from_its_call(roles: list[str], limit: int) -> None:
    messages: list[ChatMessage] = []
    for n, role in enumerate(roles):
        ids = [f"{n}.{i}" for i in range(["user", "call", "calls"].index(role) if role.startswith("call") else 0)]
        if role == "user":
            messages.append(user(f"u{n}"))
        elif role == "system":
            messages.append(ChatMessage(role="system", content=f"y{n}"))
        else:
            messages.append(said(f"a{n}", *ids))
            messages += [result(one, f"r{one}") for one in ids]
    fitted = fit(messages, limit, by_count)
    kept = [message for message in messages if message in fitted.kept]
    assert tuple(kept) == fitted.kept
    assert len(fitted.kept) + len(fitted.dropped) == len(messages)
    assert fitted.fits == (len(fitted.kept) <= limit)
    calls = {call.id for message in fitted.kept for call in message.tool_calls}
    assert calls == {message.tool_call_id for message in fitted.kept if message.role == "tool"}
    assert not any(message.role == "system" for message in fitted.dropped)
    questions = [message for message in messages if message.role == "user"]
    assert not questions or questions[-1] in fitted.kept
