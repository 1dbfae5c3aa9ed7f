"""Actors of the user's own in the real daemon: kept state, crashes, quarantine, durable messages, poison."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.control.wire import WireError

pytestmark = pytest.mark.daemon


@pytest.fixture
def fresh(full: Any) -> Iterator[Any]:
    """A started daemon of the test's own."""
    made = full()
    made.start()
    yield made
    made.close()


def crash(daemon: Any, actor: str) -> str:
    """Have *actor* crash; return the code of what the asker was told."""
    with pytest.raises(WireError) as told:
        daemon.ask(actor, "demo.break")
    return told.value.code


def crash_until_quarantined(daemon: Any, actor: str, wait_until: Any) -> None:
    for _ in range(6):
        wait_until("it is up again", lambda: daemon.agent(actor)["state"] == "running")
        crash(daemon, actor)
    wait_until("it is parked", lambda: daemon.agent(actor)["state"] == "quarantined")


def test_state_survives_a_restart_and_a_kill(fresh: Any) -> None:
    assert fresh.ask("counter", "demo.add", n=3) == 3
    fresh.restart()
    assert fresh.ask("counter", "demo.add", n=4) == 7
    fresh.kill()
    fresh.start()

    assert fresh.ask("counter", "demo.add", n=0) == 7
    assert fresh.agent("counter")["saved"]["total"] == 7
    assert fresh.agent("counter")["state_version"] == 2


def test_a_crash_keeps_the_committed_state_and_the_messages_that_waited(
    fresh: Any, wait_until: Any, tmp_path: Path
) -> None:
    fresh.ask("counter", "demo.add", n=1)
    gate, answers = tmp_path / "gate", []
    threads = [threading.Thread(target=lambda: fresh.ask("counter", "demo.gate", path=str(gate)))]
    threads[0].start()
    wait_until("the gate is handled", lambda: "demo.gate" in str(fresh.call("GET", "/v1/ps")))
    threads += [threading.Thread(target=crash, args=(fresh, "counter"))]
    threads[1].start()
    wait_until("the crash waits", lambda: fresh.agent("counter")["mailbox"] == 1)
    for _ in range(5):
        threads.append(threading.Thread(target=lambda: answers.append(fresh.ask("counter", "demo.add", n=1))))
        threads[-1].start()
    wait_until("all wait", lambda: fresh.agent("counter")["mailbox"] == 6)

    gate.touch()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [2, 3, 4, 5, 6]
    assert fresh.agent("counter")["restarts"] == 1
    assert "1" in [line.split()[2] for line in fresh.cli("ps").stdout.splitlines() if "agent:counter" in line]


def test_the_sixth_crash_in_a_row_quarantines_it_alone_until_a_reload(fresh: Any, wait_until: Any) -> None:
    fresh.ask("counter", "demo.add", n=2)
    crash_until_quarantined(fresh, "counter", wait_until)

    told = fresh.cli("agents", "show", "counter")
    assert told.returncode == 0, told.stderr
    shown = told.stdout
    assert "quarantined" in shown
    assert "broken on purpose" in shown
    assert crash(fresh, "counter") == "actor.quarantined"
    assert fresh.ask("sibling", "demo.add", n=1) == 1
    assert fresh.agent("sibling")["restarts"] == 0
    assert fresh.call("GET", "/v1/status")["agents"]["quarantined"] == 1

    assert fresh.cli("reload").returncode == 0
    assert fresh.agent("counter")["state"] == "running"
    assert fresh.ask("counter", "demo.add", n=0) == 2


def test_a_durable_message_that_waited_for_a_quarantined_actor_is_answered_after_a_reload(
    fresh: Any, wait_until: Any
) -> None:
    crash_until_quarantined(fresh, "counter", wait_until)
    args = {"agent": "counter", "type": "demo.save", "message": {"n": 5}}
    job = fresh.submit("agent.message", args=args)

    assert fresh.job(job)["status"] == "pending"
    assert fresh.cli("reload").returncode == 0
    assert fresh.ended(job)["result"] == 5


def test_a_poisonous_durable_message_spends_its_attempts_and_the_actor_lives(fresh: Any, wait_until: Any) -> None:
    args = {"agent": "counter", "type": "demo.poison", "message": {"n": 1}}
    job = fresh.ended(fresh.submit("agent.message", args=args), 40)

    assert (job["status"], job["reason"], job["attempts"]) == ("failed", "exhausted", 3)
    assert "poisonous" in job["error"]["detail"]
    wait_until("it is up again", lambda: fresh.agent("counter")["state"] == "running")
    assert fresh.ask("counter", "demo.save", n=1) == 1


def test_a_durable_message_whose_step_cannot_be_committed_fails_and_is_not_left_hanging(fresh: Any) -> None:
    args = {"agent": "counter", "type": "demo.swell", "message": {"size": 2_000_000}}
    job = fresh.ended(fresh.submit("agent.message", args=args))

    assert (job["status"], job["reason"]) == ("failed", "permanent")
    assert fresh.ask("counter", "demo.save", n=1) == 1


def test_a_durable_message_nobody_handles_fails_for_good(fresh: Any) -> None:
    job = fresh.run("agent.message", args={"agent": "counter", "type": "agent.say", "message": {"text": "hi"}})

    assert (job["status"], job["reason"]) == ("failed", "permanent")


def test_a_saved_state_that_cannot_be_read_parks_that_actor_alone(fresh: Any) -> None:
    fresh.ask("counter", "demo.add", n=1)
    fresh.ask("sibling", "demo.add", n=1)
    fresh.stop()
    fresh.write(fresh.file.read_text().replace("my_agents:Counter", "my_agents:Changed", 1))
    fresh.start()

    counter = fresh.agent("counter")
    assert counter["state"] == "quarantined"
    assert "total" in counter["reason"]
    assert counter["saved"]["total"] == 1
    assert fresh.ask("sibling", "demo.add", n=1) == 2


def test_a_handler_that_blocks_the_loop_is_named_and_the_socket_answers(fresh: Any, wait_until: Any) -> None:
    asker = threading.Thread(target=lambda: fresh.ask("counter", "demo.block", seconds=3))
    asker.start()

    blocked = wait_until("it is named", lambda: fresh.call("GET", "/v1/status", timeout=1.0)["blocked"], 5.0)

    assert (blocked["actor"], blocked["message"]) == ("agent:counter", "demo.block")
    assert "agent:counter" in fresh.cli("status").stdout
    asker.join()


def test_a_message_that_kills_the_daemon_becomes_poison_and_its_neighbours_are_answered(
    fresh: Any, wait_until: Any, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb"
    bomb.touch()
    args = {"agent": "counter", "type": "demo.die", "message": {"path": str(bomb)}}
    job = fresh.submit("agent.message", args=args, delay_ms=200)  # else it is over before the answer has left
    neighbour = {"agent": "sibling", "type": "demo.save", "message": {"n": 1}}
    deaths = 0
    others: list[str] = []
    while deaths < 10:
        try:
            others.append(fresh.submit("agent.message", args=neighbour))
            if fresh.ended(job, 3)["status"] == "failed":
                break
        except (WireError, AssertionError):
            assert fresh.await_end() == 9
            deaths += 1
            fresh.process = fresh.spawn()
            wait_until("it is up, or dead again", lambda: is_up_or_dead(fresh), 20)

    view = fresh.job(job)
    assert (view["status"], view["reason"], view["crashes"]) == ("failed", "poison", 3)
    assert deaths == 4
    assert {fresh.ended(one)["status"] for one in others} == {"completed"}
    assert fresh.run("echo")["status"] == "completed"


def is_up_or_dead(daemon: Any) -> bool:
    if daemon.process.poll() is not None:
        return True
    try:
        return bool(daemon.call("GET", "/readyz"))
    except WireError:
        return False
