"""The system actor: what it tells of jobs, workers, queues and agents, and what a reload changes and what it leaves."""

import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.errors import AgentNotFound, AskTimeout, ConfigInvalid, JobNotFound, LoadFailed
from runtime.store import port
from schemas.agents import GetAgent, GetConversation, ListAgents
from schemas.base import Ack
from schemas.jobs import (
    ChangeQueue,
    Dependency,
    DrainWorker,
    GetJob,
    GetJobLogs,
    ListJobs,
    ListQueues,
    ListWorkers,
    Rate,
    ResizePool,
    ShowGraph,
    WhyJob,
)
from schemas.schedules import ListSchedules
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
        for request in (GetJob(id="x"), GetJobLogs(id="x"), WhyJob(id="x"), ShowGraph(id="x")):
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
        found = {view.name: (view.state, view.by, view.counts) for view in await asked(s)(ListQueues())}
        assert found == {
            "default": ("running", None, {"completed": 1}),
            "slow": ("paused", "config", {"pending": 1}),
        }


async def test_a_queue_shows_what_a_person_changed_over_the_configuration(daemon: Any) -> None:
    async with daemon() as s:
        queue = s.system.ref("queue").ask
        await queue(ChangeQueue(name="slow", state="running", max_active=2, by="ada"))
        await queue(ChangeQueue(name="new", state="draining", rate=Rate(requests=3), by="bob"))
        found = {view.name: view for view in await asked(s)(ListQueues())}
        assert (found["slow"].state, found["slow"].by, found["slow"].max_active) == ("running", "ada", 2)
        assert (found["new"].state, found["new"].by, found["new"].rate) == ("draining", "bob", Rate(requests=3))


async def test_jobs_are_found_by_every_word_of_a_filter(daemon: Any) -> None:
    async with daemon() as s:
        whole = (await s.submit("sleep", args={"seconds": 1000}, tags=("t",))).id
        part = (await s.submit(parent=whole, delay_ms=60_000)).id
        odd = (await s.submit(queue="slow", limit_key="k", priority=1)).id
        wrong = (await s.submit("sleep", args={"seconds": 1}, timeout_ms=1, max_attempts=1)).id
        await s.until(wrong)

        async def found(**where: Any) -> list[str]:
            return [view.id for view in await asked(s)(ListJobs(**where))]

        assert await found(tag="t") == [whole]
        assert await found(parent=whole) == [part]
        assert await found(queue="slow") == await found(limit_key="k") == [odd]
        assert await found(status="delayed", reason="scheduled") == [part]
        assert await found(kind="sleep") == [wrong, whole]
        (dead,) = await asked(s)(ListJobs(status="failed", errors=True))
        assert (dead.error and dead.error.code, [one.error and one.error.code for one in dead.history]) == (
            "job.timeout",
            ["job.timeout"],
        )


async def test_the_graph_of_a_job_is_shown(daemon: Any) -> None:
    async with daemon() as s:
        first = (await s.submit(queue="slow")).id
        second = (await s.submit(depends_on=(Dependency(job=first),))).id
        graph = await asked(s)(ShowGraph(id=second))
        assert {node.id: node.status for node in graph.nodes} == {first: "pending", second: "waiting"}
        assert [(edge.parent, edge.child) for edge in graph.edges] == [(first, second)]


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


async def test_workers_show_their_pool_whom_they_serve_and_that_they_drain(daemon: Any) -> None:
    pools = "    [pools.big]\n    lane = 'loop'\n    size = 1\n    queues = ['renders']\n"
    async with daemon(CONFIG + pools) as s:
        await s.system.ref("queue").ask(DrainWorker(id="worker:loop-1"))
        await s.caught_up()
        found = {view.id: (view.pool, view.serves, view.draining) for view in await asked(s)(ListWorkers())}
        assert found["worker:big-1"] == ("big", ("renders",), False)
        assert found["worker:loop-1"] == ("loop", (), True)
        assert found["worker:loop-2"] == ("loop", (), False)


async def test_workers_of_the_boot_before_are_offline(daemon: Any) -> None:
    async with daemon(CONFIG.replace("pool = 2", "pool = 3")) as s:
        await s.caught_up()
        disk = s.disk
    async with daemon(boot="boot-2", disk=disk) as s:
        await s.caught_up()
        found = {view.id: view.status for view in await asked(s)(ListWorkers())}
        assert (found["worker:loop-1"], found["worker:loop-3"]) == ("idle", "offline")


# -- why a job does not move; the words themselves are tested with `why` -----------------------------------------------


async def codes(s: Any, job: str) -> list[str]:
    return [reason.code for reason in (await asked(s)(WhyJob(id=job))).reasons]


async def test_why_tells_of_the_queue_and_who_paused_it(daemon: Any) -> None:
    async with daemon() as s:
        job = (await s.submit(queue="slow")).id
        view = await asked(s)(WhyJob(id=job))
        assert view.summary == "pending: its queue slow is paused by the configuration"
        await s.system.ref("queue").ask(ChangeQueue(name="slow", state="paused", by="ada"))
        assert (await asked(s)(WhyJob(id=job))).reasons[0].data["by"] == "ada"


async def test_why_names_a_suspect_only_while_it_holds_up_others(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with daemon() as s:
        job, rests, waits = [
            (await s.submit(**on)).id for on in ({"queue": "slow"}, {"delay_ms": 60_000}, {"queue": "slow"})
        ]
        suspects = [(rests, "agent:one")]

        async def found() -> list[tuple[str, str]]:
            return suspects

        monkeypatch.setattr(s.disk, "suspects", found)
        assert "suspect" not in await codes(s, job)
        suspects.append((waits, "agent:one"))
        reasons = (await asked(s)(WhyJob(id=job))).reasons
        assert [reason.data["job"] for reason in reasons if reason.code == "suspect"] == [waits]


async def test_why_tells_that_all_workers_of_its_pool_are_busy_or_drained(daemon: Any) -> None:
    async with daemon() as s:
        for _ in range(2):
            await s.submit("sleep", args={"seconds": 100})
        await s.caught_up()
        job = (await s.submit()).id
        await s.caught_up()
        assert await codes(s, job) == ["workers.busy", "queue.position"]
        child = (await s.submit("shell", args={"argv": ["true"]}, delay_ms=1)).id
        await s.system.ref("queue").ask(DrainWorker(id="worker:child-1"))
        await anyio.sleep(1)
        assert await codes(s, child) == ["workers.draining", "queue.position"]
        await s.system.ref("queue").ask(ResizePool(name="child", size=0))
        with anyio.fail_after(60):
            while await codes(s, child) != ["workers.none", "queue.position"]:
                await anyio.sleep(1)


async def test_why_tells_of_the_limits_of_its_queue(daemon: Any) -> None:
    async with daemon(CONFIG + "    [queues.one]\n    max_active = 1\n") as s:
        await s.submit("sleep", queue="one", args={"seconds": 100})
        job = (await s.submit(queue="one")).id
        await s.caught_up()
        assert await codes(s, job) == ["queue.max_active", "queue.position"]


async def test_why_tells_of_the_rate_of_its_queue(daemon: Any) -> None:
    async with daemon(CONFIG + "    [queues.api]\n    rate = { requests = 1, per = '1h' }\n") as s:
        await s.until((await s.submit(queue="api")).id)
        job = (await s.submit(queue="api")).id
        await s.caught_up()
        assert (await codes(s, job))[0] == "queue.rate"
        await anyio.sleep(30)  # by now the level of the bucket is on the disk
        view = await asked(s)(WhyJob(id=job))
        assert view.reasons[0].text.startswith("its queue api is rate-limited to 1 starts in 1 h: the next is at ")


async def test_why_tells_who_holds_its_key(daemon: Any) -> None:
    async with daemon() as s:
        holder = (await s.submit("sleep", args={"seconds": 100}, limit_key="k")).id
        job = (await s.submit(limit_key="k")).id
        await s.caught_up()
        view = await asked(s)(WhyJob(id=job))
        assert view.reasons[0].data == {"key": "k", "active": [holder], "max": 1}


async def test_why_tells_of_parts_that_live(daemon: Any) -> None:
    async with daemon() as s:
        whole = (await s.submit("sleep", args={"seconds": 1}, queue="slow")).id
        part = (await s.submit(parent=whole, queue="slow")).id
        (claimed,) = await claim(s, "slow")
        await s.house.store.commit([port.FinishJobs((port.Finish(claimed, "waiting", "children"),), 0)])
        view = await asked(s)(WhyJob(id=whole))
        assert view.reasons[0].data["jobs"] == [{"id": part, "status": "pending"}]


async def claim(s: Any, queue: str) -> tuple[Any, ...]:
    """Take a job as a worker nobody knows, whatever its queue says."""
    change = port.ClaimJobs(queue, "loop", ("nobody",), s.house.boot, s.house.clock.now(), 2**40)
    (claimed,) = await s.house.store.commit([change])
    return tuple(claimed)


async def test_why_tells_how_the_agent_of_a_message_is(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        await s.say("count", "wait 100")
        await s.caught_up()
        same, other = await s.say("count", "again"), await s.say("count", "hi", "another")
        assert (await codes(s, same))[0] == "agent.conversation"
        assert (await codes(s, other))[0] == "agent.busy"
        await anyio.sleep(200)
        s.system.quarantine("agent:ada", "a person said so")
        with anyio.fail_after(60):
            while s.system.cell("agent:ada").state != "quarantined":
                await anyio.sleep(0.1)
        parked = await s.say("ada", "hi")
        view = await asked(s)(WhyJob(id=parked))
        assert view.reasons[0].text == "the agent ada is quarantined: a person said so"
        write(tmp_path, CONFIG.replace("[agents.ada]", "[agents.bob]"))
        await asked(s)(Reload())
        assert (await codes(s, parked))[0] == "agent.unknown"


async def test_why_tells_that_a_kind_is_unknown(daemon: Any, tmp_path: Path) -> None:
    kind = "    [kinds.count]\n    run = 'agents:Count'\n"
    async with daemon(CONFIG + kind) as s:
        job = (await s.submit("count", delay_ms=60_000)).id
        write(tmp_path, CONFIG)
        await asked(s)(Reload())
        await s.until(job, "paused")
        assert await codes(s, job) == ["paused.kind"]


# -- agents ------------------------------------------------------------------------------------------------------------


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


async def test_a_reload_tells_of_functions_that_are_not_there(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        write(
            tmp_path, CONFIG.replace("[agents.ada]", '[agents.ada]\n    tools = ["nowhere:look", "shell", "maps/find"]')
        )
        (missing,) = (await asked(s)(Reload())).missing_tools
        assert missing.startswith("ada has to do without nowhere:look: there is no nowhere.py")


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


async def test_a_reload_reads_changed_code_anew_and_whoever_is_made_of_it_starts_again(
    daemon: Any, tmp_path: Path
) -> None:
    async with daemon(CONFIG.replace("[agents.ada]", "[agents.ada]\n    tools = ['more:look']"), more_py=LOOK) as s:
        assert await answer(s, "count") == "1 of 10"
        assert (await asked(s)(Reload())).read_anew is False
        (tmp_path / "agents.py").write_text(textwrap.dedent(AGENTS).replace(" of {", " out of {"))
        found = await asked(s)(Reload())
        assert (found.read_anew, found.restarted, found.unchanged) == (True, ("count",), ("ada",))
        assert await answer(s, "count") == "2 out of 10"  # its message was declared anew, and its state was kept
        (tmp_path / "more.py").write_text("def look(where: str) -> str:\n    'Look there.'\n    return where\n")
        assert (await asked(s)(Reload())).read_anew is True
        tool = s.house.toolroom.toolbox(s.house.loaded.settings.agents["ada"]).tools["more:look"]
        assert tool.description == "Look there."


LOOK = "def look(where: str) -> str:\n    'Look.'\n    return where\n"


@pytest.mark.parametrize("file", ["agents.py", "more.py"])
async def test_code_that_was_broken_since_is_not_put_in_force(daemon: Any, tmp_path: Path, file: str) -> None:
    async with daemon(CONFIG.replace("[agents.ada]", "[agents.ada]\n    tools = ['more:look']"), more_py=LOOK) as s:
        assert await answer(s, "count") == "1 of 10"
        assert s.house.toolroom.toolbox(s.house.loaded.settings.agents["ada"]).missing == {}
        (tmp_path / file).write_text("def look(:\n")
        with pytest.raises(LoadFailed, match=f"{file}, line 1: SyntaxError"):
            await asked(s)(Reload())
        assert await answer(s, "count") == "2 of 10"
        assert s.system.cell("agent:count").incarnation == 1
        assert s.house.toolroom.toolbox(s.house.loaded.settings.agents["ada"]).missing == {}


async def test_a_parked_agent_whose_code_was_mended_works_after_a_reload(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        for _ in range(6):
            await s.until(await s.say("count", "quit", max_attempts=1))
        assert s.system.cell("agent:count").state == "quarantined"
        (tmp_path / "agents.py").write_text(textwrap.dedent(AGENTS).replace('raise ValueError("broken")', "pass"))
        await asked(s)(Reload())
        assert await answer(s, "count", "quit") == "1 of 10"


async def test_a_changed_provider_restarts_those_who_speak_with_it(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        write(tmp_path, CONFIG + "    [providers.scripted]\n    dir = 'plays'\n")
        found = await asked(s)(Reload())
        assert (found.restarted, found.unchanged) == (("ada",), ("count",))
        assert await answer(s, "ada") == "hi"


async def test_a_reload_reaches_the_schedules(daemon: Any, tmp_path: Path) -> None:
    async with daemon() as s:
        assert await s.system.ref("schedules").ask(ListSchedules()) == ()
        fires = "    [schedules.often]\n    cron = '* * * * *'\n    kind = 'echo'\n    tags = ['often']\n"
        write(tmp_path, CONFIG + fires)
        await asked(s)(Reload())
        await anyio.sleep(61)
        assert await asked(s)(ListJobs(tag="often"))


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
