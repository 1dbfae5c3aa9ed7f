"""The system actor: what it tells of jobs, workers, queues and agents, and what a reload changes and what it leaves."""

import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.errors import AgentNotFound, AskTimeout, ConfigInvalid, JobNotFound, LoadFailed
from schemas.agents import GetAgent, GetConversation, ListAgents
from schemas.base import Ack
from schemas.jobs import GetJob, GetJobLogs, ListJobs, ListQueues, ListWorkers
from schemas.system import Reload, Shutdown

CONFIG = """
    [runtime]
    pool = 2
    child_pool = 1
    drain = "60s"
    [queues.slow]
    paused = true
    [agents.ada]
    role = "a mathematician"
    goal = "Prove it."
    llm = { provider = "scripted", model = "echo", temperature = 0.5 }
    [agents.count]
    actor = "agents:Count"
"""
AGENTS = """
    import anyio
    from runtime.stateful import AgentState, StatefulActor, handles
    from schemas.agents import Say

    class Count(StatefulActor):
        class State(AgentState):
            total: int = 0

        async def on_ready(self):
            self.limit = self.options.get("limit", 10)

        @handles
        async def say(self, message: Say) -> str:
            if message.text.startswith("wait"):
                await anyio.sleep(float(message.text.split()[1]))
            if message.text == "quit":
                raise ValueError("broken")
            self.state.total += 1
            return f"{self.state.total} of {self.limit}"

    class Other(Count):
        pass
"""


@pytest.fixture
def daemon(whole: Any) -> Any:
    return lambda config=CONFIG, **more: whole(config, agents_py=AGENTS, **more)


def asked(s: Any) -> Any:
    return s.system.ref("system").ask


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(textwrap.dedent(text))


async def answer(s: Any, agent: str, text: str = "hi") -> Any:
    view = await s.until(await s.say(agent, text))
    return view.result["text"] if view.status == "completed" else (view.status, view.reason)


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_jobs_are_shown_one_by_one_and_listed_newest_first(daemon: Any) -> None:
    async with daemon() as s:
        ids = [(await s.submit(args={"n": n})).id for n in range(3)]
        for job in ids:
            await s.until(job)
        assert (await asked(s)(GetJob(id=ids[0]))).result == {"n": 0}
        assert [view.id for view in await asked(s)(ListJobs())] == ids[::-1]
        assert [view.id for view in await asked(s)(ListJobs(limit=1, before=ids[2]))] == [ids[1]]
        assert await asked(s)(ListJobs(status="failed")) == ()


async def test_what_is_not_there_is_said_to_be_not_there(daemon: Any) -> None:
    async with daemon() as s:
        for request in (GetJob(id="x"), GetJobLogs(id="x")):
            with pytest.raises(JobNotFound):
                await asked(s)(request)
        for unknown in (GetAgent(name="bob"), GetConversation(name="bob")):
            with pytest.raises(AgentNotFound) as caught:
                await asked(s)(unknown)
            assert caught.value.data["known"] == ["ada", "count"]


async def test_queues_are_shown_with_what_stands_in_them(daemon: Any) -> None:
    async with daemon() as s:
        await s.until((await s.submit()).id)
        await s.submit(queue="slow")
        await s.caught_up()
        found = {view.name: (view.paused, view.counts) for view in await asked(s)(ListQueues())}
        assert found == {"default": (False, {"completed": 1}), "slow": (True, {"pending": 1})}


async def test_workers_are_shown_with_what_they_hold(daemon: Any) -> None:
    async with daemon() as s:
        job = await s.submit("sleep", args={"seconds": 100})
        await s.until(job.id, "active")
        await s.caught_up()
        found = {view.id: (view.lane, view.status, view.job, view.agent) for view in await asked(s)(ListWorkers())}
        busy = found.pop((await s.job(job.id)).worker)
        assert busy == ("loop", "busy", job.id, None)
        assert found["worker:child-1"] == ("child", "idle", None, None)
        assert found["agent:ada"] == ("agent", "idle", None, "ada")


async def test_workers_of_the_boot_before_are_offline(daemon: Any) -> None:
    async with daemon(CONFIG.replace("pool = 2", "pool = 3")) as s:
        await s.caught_up()
        disk = s.disk
    async with daemon(boot="boot-2", disk=disk) as s:
        await s.caught_up()
        found = {view.id: view.status for view in await asked(s)(ListWorkers())}
        assert (found["worker:loop-1"], found["worker:loop-3"]) == ("idle", "offline")


async def test_agents_are_listed_with_who_they_are_and_how_they_do(daemon: Any) -> None:
    async with daemon() as s:
        await s.caught_up()
        ada, count = await asked(s)(ListAgents())
        assert (ada.name, ada.role, ada.provider, ada.model, ada.actor) == (
            "ada",
            "a mathematician",
            "scripted",
            "echo",
            None,
        )
        assert (count.name, count.actor, count.status, count.state) == ("count", "agents:Count", "idle", "running")


async def test_an_agent_is_shown_with_its_saved_state_and_conversations(daemon: Any) -> None:
    async with daemon() as s:
        assert await answer(s, "count") == "1 of 10"
        assert await answer(s, "ada", "words") == "words"
        count = await asked(s)(GetAgent(name="count"))
        assert (count.saved["total"], count.state_version, count.incarnation) == (1, 1, 1)
        assert count.origin.endswith(":12")
        ada = await asked(s)(GetAgent(name="ada"))
        assert (ada.goal, ada.temperature, ada.conversations) == ("Prove it.", 0.5, ("main",))
        told = await asked(s)(GetConversation(name="ada"))
        assert [(one.role, one.content) for one in told] == [("user", "words"), ("assistant", "words")]


async def test_an_agent_that_keeps_crashing_is_shown_with_the_reason(daemon: Any) -> None:
    async with daemon() as s:
        for n in range(7):
            await s.say("count", "quit", f"talk-{n}", max_attempts=1)
        with anyio.fail_after(600):
            while s.system.cell("agent:count").state != "quarantined":
                await anyio.sleep(1)
        view = await asked(s)(GetAgent(name="count"))
        assert (view.state, view.status) == ("quarantined", "error")
        assert "broken" in (view.reason or "")
        assert view.last_error == "ValueError: broken"
        assert await answer(s, "ada") == "hi"


async def test_in_safe_mode_agents_are_listed_and_nobody_of_the_users_is_started(daemon: Any, tmp_path: Path) -> None:
    async with daemon(safe=True) as s:
        views = await asked(s)(ListAgents())
        assert [(view.name, view.status, view.state) for view in views] == [
            ("ada", "offline", "stopped"),
            ("count", "offline", "stopped"),
        ]
        assert (await asked(s)(GetAgent(name="ada"))).incarnation == 0
        assert not [name for name in s.system.names() if name.startswith(("agent:", "worker:"))]
        assert (await asked(s)(Reload())).added == ()


async def test_the_daemon_is_stopped_as_it_is_asked(daemon: Any) -> None:
    async with daemon() as s:
        assert await asked(s)(Shutdown()) == Ack()
        assert await asked(s)(Shutdown(now=True)) == Ack()
        assert s.stopped == [False, True]


# -- reloading ---------------------------------------------------------------------------------------------------------


async def test_a_reload_of_the_same_text_touches_nobody(daemon: Any) -> None:
    async with daemon() as s:
        found = await asked(s)(Reload())
        assert (found.added, found.removed, found.restarted) == ((), (), ())
        assert found.unchanged == ("ada", "count")
        assert s.system.cell("agent:ada").incarnation == 1


async def test_a_reload_adds_removes_and_changes_agents(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        assert await answer(s, "count") == "1 of 10"
        text = CONFIG.replace("[agents.ada]", "[agents.bob]") + "    options = { limit = 99 }\n"
        write(tmp_path, text)
        found = await asked(s)(Reload())
        assert (found.added, found.removed, found.restarted) == (("bob",), ("ada",), ("count",))
        assert await answer(s, "bob", "new here") == "new here"
        assert await answer(s, "count") == "2 of 99"  # its state outlived the change
        with pytest.raises(AgentNotFound):
            await s.say("ada", "still there?")
        assert [view.name for view in await asked(s)(ListAgents())] == ["bob", "count"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("[agents.count]", "[agents.count"), ConfigInvalid),
        (("goal =", "goul ="), ConfigInvalid),
        (("agents:Count", "agents:Gone"), LoadFailed),
    ],
)
async def test_a_mistake_leaves_everything_as_it_was(daemon: Any, tmp_path: Path, change: Any, error: Any) -> None:
    async with daemon() as s:
        before = s.house.loaded
        write(tmp_path, CONFIG.replace(*change) + "    [agents.new]\n    actor = 'agents:Other'\n")
        with pytest.raises(error):
            await asked(s)(Reload())
        assert s.house.loaded is before
        assert s.system.cell("system").state == "running"
        assert "agent:new" not in s.system.names()
        assert await answer(s, "count") == "1 of 10"


async def test_a_changed_provider_restarts_those_who_speak_with_it(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        write(tmp_path, CONFIG + "    [providers.scripted]\n    dir = 'plays'\n")
        found = await asked(s)(Reload())
        assert (found.restarted, found.unchanged) == (("ada",), ("count",))
        assert await answer(s, "ada") == "hi"


async def test_what_only_a_new_start_applies_is_named(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        write(tmp_path, CONFIG.replace("pool = 2", "pool = 3", 1))
        assert (await asked(s)(Reload())).needs_restart == ("runtime.pool",)


async def test_a_reload_gives_a_parked_agent_another_try(daemon: Any) -> None:
    async with daemon() as s:
        s.system.quarantine("agent:count", "a person said so")
        waits = await s.say("count", "hi")
        with anyio.fail_after(60):
            while s.system.cell("agent:count").state != "quarantined":
                await anyio.sleep(0.1)
        found = await asked(s)(Reload())
        assert found.restarted == ("count",)
        assert (await s.until(waits)).result["text"] == "1 of 10"


async def test_messages_of_a_removed_agent_wait_until_it_is_back(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        write(tmp_path, CONFIG[: CONFIG.index("    [agents.count]")])
        job = await s.say("count", "hi", delay_ms=30_000)
        await asked(s)(Reload())
        await anyio.sleep(60)
        assert await s.stands(job) == ("pending", None)
        write(tmp_path, CONFIG)
        assert (await asked(s)(Reload())).added == ("count",)
        assert (await s.until(job)).result["text"] == "1 of 10"


async def test_a_reload_goes_on_though_its_asker_did_not_wait_for_it(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        job = await s.say("count", "wait 40")
        await s.until(job, "active")
        await s.caught_up()
        write(tmp_path, CONFIG.replace("[agents.count]", "[agents.other]"))
        with pytest.raises(AskTimeout):
            await asked(s)(Reload())  # it waits for the end of the running message
        await anyio.sleep(60)
        assert (await s.job(job)).status == "completed"
        assert await answer(s, "other") == "1 of 10"
        assert [view.name for view in await asked(s)(ListAgents())] == ["ada", "other"]
