"""The stage: an agent with tools, people who are asked, a daemon that dies, and failures that are loud."""

from pathlib import Path

import anyio
import pytest

from actors.testkit import ScriptedModel, leaks, stage
from runtime.errors import ConfigInvalid, LlmOverloaded, UnknownKind
from runtime.tools.functions import tool
from schemas.agents import Say

DESK = """
    [agents.desk]
    role = "a clerk"
    llm = { provider = "openai", model = "gpt-4.1" }
    tools = ["tools:pay", "tools:look"]

    [providers.openai]
    api_key = "env:NO_SUCH_KEY_ANYWHERE"
"""

TOOLS = '''
    import anyio
    from runtime.tools.functions import tool

    PAID = []
    STUCK = []

    @tool(permission="ask")
    async def pay(amount: int) -> str:
        """Pay somebody."""
        PAID.append(amount)
        return f"paid {amount}"

    async def look(where: str) -> str:
        """Look somewhere."""
        if where == "nowhere":
            STUCK.append(where)
            await anyio.sleep_forever()
        return f"nothing in {where}"
'''

SHELF = """
    from runtime.stateful import AgentState, StatefulActor, handles
    from schemas.agents import Say
    from schemas.base import Request

    class Take(Request[int], type="testkit.take", public=True, durable=True):
        n: int

    class Shelf(StatefulActor):
        class State(AgentState):
            left: int = 10

        @handles
        def take(self, message: Take) -> int:
            self.state.left -= message.n
            return self.state.left

        @handles
        async def said(self, message: Say) -> str:
            return await self.ctx.actor("oracle").ask(message)
"""

FILES = {"tools.py": TOOLS}


async def test_an_agent_with_a_tool_is_tested_without_its_provider() -> None:
    model = ScriptedModel().calls("tools:look", {"where": "the drawer"}).says("There is nothing.")
    async with stage(DESK, {"openai": model}, FILES) as s:
        run = await s.say("desk", "Look in the drawer.")
        answered = await s.answer(run)
        assert answered.text == "There is nothing."
        assert (answered.usage.input_tokens, answered.usage.output_tokens, answered.calls) == (20, 10, 2)
        assert [message.role for message in await s.conversation("desk")] == ["user", "assistant", "tool", "assistant"]
        detail = await s.run(run)
        assert [entry.what for entry in detail.timeline] == ["said", "model", "tool", "model", "answer"]
        assert s.model is model
        assert {tool.name for tool in model.asked[0].tools} >= {"tools_pay", "tools_look"}
        assert model.asked[1].messages[-1].content == "nothing in the drawer"
        assert await s.events("job.completed")


async def test_a_person_is_asked_allows_denies_and_edits() -> None:
    model = ScriptedModel()
    async with stage(DESK, model, FILES) as s:
        model.calls("tools:pay", {"amount": 5}).says("paid")
        run = await s.say("desk", "pay 5")
        asked = await s.approval(run)
        assert (asked.tool, asked.arguments, s.load("tools:PAID")) == ("tools:pay", {"amount": 5}, [])
        with pytest.raises(AssertionError, match="a person: understudy approvals allow"):
            await s.answer(run)
        await s.allow(asked, arguments={"amount": 4})
        assert (await s.answer(run)).text == "paid"
        assert s.load("tools:PAID") == [4]

        model.calls("tools:pay", {"amount": 6}).says("not paid")
        run = await s.say("desk", "pay 6")
        await s.deny((await s.approval(run)).id, "too much")
        assert (await s.answer(run)).text == "not paid"
        assert "too much" in model.asked[-1].messages[-1].content
        assert s.load("tools:PAID") == [4]
        assert await s.approvals() == ()
        assert {one.status for one in await s.approvals(None)} == {"used", "denied"}


async def test_who_asks_nobody_has_no_approval() -> None:
    async with stage(DESK, ScriptedModel().says("done"), FILES) as s:
        with pytest.raises(AssertionError, match="asks nobody"):
            await s.approval(await s.say("desk", "hello"))


async def test_an_approval_that_nobody_answers_expires_and_no_time_is_lost() -> None:
    model = ScriptedModel().calls("tools:pay", {"amount": 5}).says("nobody there")
    config = DESK.replace('role = "a clerk"', 'role = "a clerk"\n    approval_timeout = "2h"')
    async with stage(config, model, FILES) as s:
        before = s.now
        run = await s.say("desk", "pay 5")
        with pytest.raises(AssertionError, match="within 3600 s: it is waiting/signal"):
            await s.end(run)
        view = await s.end(run, within=3 * 3600)
        assert view.status == "completed"
        assert s.now - before >= 7_200_000
        assert "nobody answered in time" in model.asked[-1].messages[-1].content


async def test_after_a_crash_nothing_is_paid_for_twice() -> None:
    model = ScriptedModel().calls("tools:pay", {"amount": 5}).calls("tools:look", {"where": "nowhere"})
    async with stage(DESK, model, FILES) as s:
        run = await s.say("desk", "pay 5 and look")
        await s.allow(await s.approval(run))
        stuck = s.load("tools:STUCK")
        with anyio.fail_after(60):
            while not stuck:
                await anyio.sleep(0.1)
        before, boot = s.now, s.house.boot
        model.says("I cannot say.")
        await s.crash()
        assert s.now > before
        assert s.house.boot != boot
        assert (await s.answer(run)).text == "I cannot say."
        assert s.load("tools:PAID") == [5]
        assert len(model.asked) == 3
        assert "nobody knows whether it took effect" in model.asked[-1].messages[-1].content
        assert [event.data["status"] for event in await s.events("job.recovered")] == ["pending"]


async def test_a_crash_in_the_middle_of_a_call_of_the_model() -> None:
    model = ScriptedModel().calls("tools:look", {"where": "the drawer"}).hangs(after="There is")
    async with stage(DESK, model, FILES) as s:
        run = await s.say("desk", "look")
        assert (await model.called(2)).messages[-1].content == "nothing in the drawer"
        model.says("There is nothing.")
        await s.crash()
        assert (await s.answer(run)).text == "There is nothing."
        assert len(model.asked) == 3
        assert len([m for m in await s.conversation("desk") if m.role == "tool"]) == 1


async def test_a_model_that_is_silent_for_too_long_is_given_up() -> None:
    async with stage(DESK, ScriptedModel().hangs().says("here I am"), FILES) as s:
        assert (await s.answer(await s.say("desk", "hello"))).text == "here I am"
        assert s.now > 1_700_000_010_000


async def test_an_approval_waits_over_a_restart() -> None:
    model = ScriptedModel().calls("tools:pay", {"amount": 5}).says("paid")
    async with stage(DESK, model, FILES) as s:
        run = await s.say("desk", "pay 5")
        asked = await s.approval(run)
        await s.restart()
        assert [one.id for one in await s.approvals()] == [asked.id]
        await s.allow(asked)
        assert (await s.answer(run)).text == "paid"
        assert s.load("tools:PAID") == [5]


async def test_what_was_not_on_the_disk_has_never_been() -> None:
    async with stage('[agents.shelf]\nrole = "s"\nactor = "shelf:Shelf"', files={"shelf.py": SHELF}) as s:
        take = s.load("shelf:Take")
        assert await s.ask("agent:shelf", take(n=3)) == 7
        assert (await s.end(await s.send("shelf", take(n=2)))).result == 5
        await s.crash()
        assert (await s.state("shelf"))["left"] == 5
        assert await s.ask("agent:shelf", take(n=1)) == 4


async def test_a_probe_stands_in_for_another_actor_and_over_a_restart() -> None:
    async with stage('[agents.shelf]\nrole = "s"\nactor = "shelf:Shelf"', files={"shelf.py": SHELF}) as s:
        oracle = await s.probe("oracle", {Say: lambda message: message.text[::-1]})
        assert (await s.answer(await s.say("shelf", "abc"))).text == "cba"
        await s.restart()
        assert (await s.answer(await s.say("shelf", "xyz"))).text == "zyx"
        assert [message.text for message in oracle.asked] == ["abc", "xyz"]


async def test_a_busy_provider_is_tried_again_and_no_time_is_lost() -> None:
    model = ScriptedModel().fails(LlmOverloaded("busy"), times=2).says("at last")
    async with stage(DESK, model, FILES) as s:
        assert (await s.answer(await s.say("desk", "hello"))).text == "at last"
        assert len(model.asked) == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_plain_functions_and_commands_have_the_real_time_they_need() -> None:
    config = """
        [agents.desk]
        role = "d"
        llm = { provider = "scripted", model = "m" }
        tools = ["shell", "slow:think"]
        run_timeout = "1s"
    """
    slow = 'import time\ndef think() -> str:\n    time.sleep(0.2)\n    return "thought"\n'
    model = (
        ScriptedModel().calls("slow:think").calls("shell", {"argv": ["sh", "-c", "sleep 0.2; echo done"]}).says("ok")
    )
    async with stage(config, model, {"slow.py": slow}) as s:
        run = await s.say("desk", "go")
        await s.allow(await s.approval(run))
        assert (await s.answer(run)).text == "ok"
        assert model.asked[1].messages[-1].content == "thought"
        assert "done" in model.asked[2].messages[-1].content


async def test_a_tool_is_put_in_the_place_of_another() -> None:
    sent: list[str] = []

    @tool(permission="ask")
    async def shell(argv: list[str]) -> str:
        sent.append(argv[0])
        return "done"

    config = '[agents.desk]\nrole = "d"\nllm = {provider = "scripted", model = "m"}\ntools = ["shell", "far/away"]'
    model = ScriptedModel().calls("shell", {"argv": ["rm"]}).says("removed")
    async with stage(config, model, tools={"shell": shell, "far/away": shell}) as s:
        run = await s.say("desk", "remove it")
        await s.allow(await s.approval(run))
        assert (await s.answer(run)).text == "removed"
    assert sent == ["rm"]


# -- loud failures -----------------------------------------------------------------------------------------------------


async def test_a_call_that_was_not_expected_fails_the_answer_and_the_block() -> None:
    model = ScriptedModel()
    with pytest.raises(AssertionError, match="asked 1 times what it was not told of"):  # noqa: PT012  # of the block
        async with stage(DESK, model, FILES) as s:
            with pytest.raises(AssertionError, match=r"was not expected: 'hello'[\s\S]*said main"):
                await s.answer(await s.say("desk", "hello"))
    assert len(model.unexpected) == 1


async def test_what_was_left_unsaid_fails_the_block_unless_it_may() -> None:
    with pytest.raises(AssertionError, match=r"was not asked for: says\('hello'\)"):
        async with stage(DESK, ScriptedModel().says("hello"), FILES):
            pass
    async with stage(DESK, ScriptedModel().says("hello"), FILES, strict=False) as s:
        assert s.model.left == ["says('hello')"]


async def test_a_tool_or_an_agent_that_is_not_there_fails_at_the_start() -> None:
    with pytest.raises(AssertionError, match=r"no tool tools:pay: .*no tools.py"):
        async with stage(DESK):
            pass
    with pytest.raises(AssertionError, match="the agent shelf is quarantined"):
        async with stage('[agents.shelf]\nrole = "s"\nactor = "nowhere:Shelf"'):
            pass


async def test_a_provider_that_nobody_plays_is_not_called() -> None:
    async with stage(DESK, {"other": ScriptedModel()}, FILES) as s:
        with pytest.raises(AssertionError, match="no model for the provider 'openai'"):
            await s.answer(await s.say("desk", "hello"))


async def test_servers_of_tools_are_not_started() -> None:
    config = """
        [agents.desk]
        role = "d"
        llm = { provider = "scripted", model = "m" }
        tools = ["far/away"]
        [tools.mcp.far]
        command = ["no-such-program-anywhere"]
    """
    with pytest.raises(AssertionError, match="no tool far/away: there is no MCP server"):
        async with stage(config):
            pass


def test_servers_that_are_asked_for_are_started_in_real_time() -> None:
    async def starts() -> None:
        async with stage('[tools.mcp.far]\ncommand = ["no-such-program-anywhere"]', servers=True) as s:
            assert "mcp:far" in s.system.names()

    anyio.run(starts)


async def test_errors_come_out_of_the_block_as_they_are() -> None:
    with pytest.raises(ConfigInvalid):
        async with stage("nonsense = 1"):
            pass
    with pytest.raises(UnknownKind):
        async with stage() as s:
            await s.submit("nonsense")
    with pytest.raises(AssertionError, match="there is no job"):
        async with stage() as s:
            await s.end("nobody")
    with pytest.raises(KeyError, match="mine"):
        async with stage():
            raise KeyError("mine")


async def test_a_stage_leaves_nothing_behind() -> None:
    async with leaks():
        async with stage(DESK, ScriptedModel().says("hello"), FILES) as s:
            await s.answer(await s.say("desk", "hello"))
            folder = s.folder
    assert not folder.exists()


# -- files -------------------------------------------------------------------------------------------------------------


async def test_a_folder_of_the_test_is_used_and_kept_and_nobody_elses_file_is_replaced(tmp_path: Path) -> None:
    for n in range(2):
        async with stage(DESK, ScriptedModel().says("hello"), FILES, tmp_path) as s:
            assert s.load("tools:PAID") == []  # read anew each time
            s.load("tools:PAID").append(n)
            await s.answer(await s.say("desk", "hello"))
    assert (tmp_path / "tools.py").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("mine")
    with pytest.raises(FileExistsError):
        async with stage(DESK, None, FILES, tmp_path / "other"):
            pass
    assert (tmp_path / "other" / "config.toml").read_text() == "mine"


async def test_a_configuration_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[agents.echo]\nrole = "e"\nllm = {provider = "scripted", model = "echo"}')
    async with stage(tmp_path / "config.toml", {}) as s:
        assert (await s.answer(await s.say("echo", "hello"))).text == "hello"
    with pytest.raises(ValueError, match="a path"):
        async with stage(tmp_path / "config.toml", files=FILES):
            pass


async def test_agents_use_the_module_that_the_test_has_imported() -> None:
    config = f'[agents.desk]\nrole = "d"\nllm = {{provider = "scripted", model = "m"}}\ntools = ["{NAME}:knock"]'
    path = HERE / "testkit-module.toml"
    path.write_text(config)
    path.chmod(0o600)
    try:
        async with stage(path, ScriptedModel().calls(f"{NAME}:knock", {}).says("ok")) as s:
            await s.answer(await s.say("desk", "knock"))
            assert s.load(f"{NAME}:KNOCKED") is KNOCKED
    finally:
        path.unlink()
    assert KNOCKED == [1]
    KNOCKED.clear()


HERE = Path(__file__).parent
NAME = Path(__file__).stem
KNOCKED: list[int] = []


async def knock() -> str:
    KNOCKED.append(1)
    return "who is there?"
