"""Commands behind the guard: how they start, what is heard of them, and that nothing of them is left."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from runtime.errors import JobFailed
from runtime.sandbox import leash, process
from runtime.sandbox.parent import Command, CommandUnusable, Exit, child_env, spawn


async def run(argv, heard, **kwargs):
    async with spawn(Command(argv, **kwargs), on_output=heard.output) as child:
        await child.go()
        return await child.wait()


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_a_command_ends_with_its_code(heard, code):
    assert await run(("sh", "-c", f"exit {code}"), heard) == Exit(code, None, False, "exit")


async def test_a_command_that_dies_by_a_signal_says_which_and_that_it_was_not_ours(heard):
    assert await run(("sh", "-c", "kill -SEGV $$"), heard) == Exit(None, signal.SIGSEGV, False, "exit")


async def test_both_streams_are_heard_apart_and_whole(heard):
    await run(("sh", "-c", "echo out; echo err >&2; printf end"), heard)
    assert (heard.stdout, heard.stderr) == (b"out\nend", b"err\n")


async def test_stdin_reaches_the_command_and_a_full_pipe_in_both_directions_is_no_deadlock(heard):
    data = os.urandom(10_000_000)
    assert await run(("cat",), heard, stdin=data) == Exit(0, None, False, "exit")
    assert heard.stdout == data


async def test_a_command_that_does_not_read_its_stdin_ends_all_the_same(heard):
    assert (await run(("true",), heard, stdin=b"x" * 10_000_000)).code == 0


async def test_a_command_without_stdin_reads_its_end(heard):
    assert (await run(("cat",), heard)).code == 0


async def test_stdin_kept_open_takes_more_until_it_is_closed(heard, until):
    async with spawn(Command(("cat",)), on_output=heard.output, keep_stdin_open=True) as child:
        await child.go()
        await child.send(b"one\n")
        await until(lambda: heard.stdout == b"one\n")
        await child.send(b"two\n")
        await child.close_stdin()
        assert (await child.wait()).code == 0
        with pytest.raises(anyio.ClosedResourceError):
            await child.send(b"three\n")
    assert heard.stdout == b"one\ntwo\n"


async def test_without_an_open_stdin_nothing_can_be_sent(heard):
    async with spawn(Command(("true",)), on_output=heard.output) as child:
        with pytest.raises(anyio.ClosedResourceError):
            await child.send(b"x")


async def test_reports_come_by_the_line_on_descriptor_3(heard):
    lines: list[bytes] = []
    command = Command(("sh", "-c", "echo one >&3; echo out; printf 'two\nthree' >&3"))
    async with spawn(command, on_output=heard.output, on_report=lines.append) as child:
        await child.go()
        await child.wait()
    assert (lines, heard.stdout) == ([b"one", b"two", b"three"], b"out\n")


async def test_the_command_inherits_no_descriptor_but_its_streams(heard):
    await run((sys.executable, "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"), heard)
    assert heard.stdout == b"['0', '1', '2', '3']\n"  # 3 is the folder it lists


async def test_the_command_has_all_signals_as_they_are_by_default(heard):
    await run(("grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"), heard)
    of_libc = 0b11 << 31  # signals 32 and 33 are the C library's own; whoever started us may have left them ignored
    masks = [int(line.split()[1], 16) & ~of_libc for line in heard.stdout.splitlines()]
    assert masks == [0, 0]


async def test_the_command_leads_a_session_and_a_group_of_its_own(heard):
    async with spawn(Command(("sleep", "1000")), on_output=heard.output) as child:
        found = process.look(child.pgid)
        assert found is not None
        assert (found.group, found.session, found.terminal) == (child.pgid, child.pgid, False)
        assert found.started == child.started > 0
        assert found.parent == child.pid_of_guard


async def test_nothing_runs_before_go(heard, marker):
    async with spawn(Command(("touch", str(marker))), on_output=heard.output) as child:
        assert process.alive(child.pgid)
        assert Path(f"/proc/{child.pgid}/cmdline").read_bytes().startswith(os.fsencode(sys.executable))
    assert not process.alive(child.pgid)
    assert not marker.exists()


async def test_one_terminated_before_go_never_runs(heard, marker):
    async with spawn(Command(("touch", str(marker))), on_output=heard.output) as child:
        assert await child.terminate(5) == Exit(None, signal.SIGTERM, True, "cancel")
    assert not marker.exists()


# -- what cannot be started --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "cwd", "sentence"),
    [
        (("no-such-thing",), None, "no such program: 'no-such-thing'"),
        (("/no/such/thing",), None, "no such program: '/no/such/thing'"),
        (("{tmp}/plain",), None, "cannot run '{tmp}/plain': Permission denied"),
        (("{tmp}/text",), None, "cannot run '{tmp}/text': Exec format error"),
        (("{tmp}/lost",), None, "the interpreter that '{tmp}/lost' names does not exist"),
        (("{tmp}",), None, "cannot run '{tmp}': Permission denied"),
        (("true",), "{tmp}/nowhere", "no such directory: '{tmp}/nowhere'"),
        (("true",), "{tmp}/plain", "no such directory: '{tmp}/plain'"),
        (("true", "a\0b"), None, "cannot run 'true': Invalid argument"),
        (("true", "x" * 3_000_000), None, "cannot run 'true': Argument list too long"),
        ((), None, "the command is empty"),
        (("",), None, "the command is empty"),
    ],
)
async def test_a_command_that_cannot_start_is_refused_for_good_in_a_sentence(heard, tmp_path, argv, cwd, sentence):
    for name, text, mode in (("plain", "", 0o600), ("text", "hello", 0o700), ("lost", "#!/no/such/shell\n", 0o700)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    where = {"tmp": str(tmp_path)}
    command = Command(tuple(word.format(**where) for word in argv), cwd and cwd.format(**where))
    with pytest.raises(CommandUnusable) as caught:
        async with spawn(command, on_output=heard.output) as child:
            await child.go()
    assert caught.value.detail == sentence.format(**where)
    assert caught.value.error_class == "permanent"
    assert heard.stdout + heard.stderr == b""


async def test_no_room_for_a_process_may_pass(heard):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (sum(1 for _ in Path("/proc/self/fd").iterdir()) + 3, hard))
    try:
        with pytest.raises(JobFailed, match="Too many open files") as caught:
            async with spawn(Command(("true",)), on_output=heard.output):
                pytest.fail("it started")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.error_class == "transient"


# -- environment -------------------------------------------------------------------------------------------------------


async def test_the_environment_is_an_allowlist_and_nothing_of_ours_is_on_it(heard, monkeypatch):
    for name in ("UNDERSTUDY_HOME", "OPENAI_API_KEY", "PYTHONPATH", "LD_PRELOAD_X", "LC_TIME", "TZ"):
        monkeypatch.setenv(name, "canary")
    await run(("env",), heard)
    names = {line.partition(b"=")[0].decode() for line in heard.stdout.splitlines()}
    assert {"PATH", "LC_TIME", "TZ"} <= names
    assert names <= {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "TERM"} | {
        name for name in names if name.startswith("LC_")
    }


async def test_an_environment_that_is_given_is_exact(heard):
    await run(("/usr/bin/env",), heard, env={"ONE": "1", "TWÖ": "zwei"})
    assert sorted(heard.stdout.decode().splitlines()) == ["ONE=1", "TWÖ=zwei"]


async def test_the_guard_has_nothing_of_our_environment(heard, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_SECRET", "canary")
    async with spawn(Command(("sleep", "1000"), env={"KEY": "canary"}), on_output=heard.output) as child:
        await child.go()
        assert b"canary" not in Path(f"/proc/{child.pid_of_guard}/environ").read_bytes()
        assert b"canary" not in Path(f"/proc/{child.pid_of_guard}/cmdline").read_bytes()


def test_more_names_can_be_allowed_but_never_ours():
    environ = {"PATH": "/bin", "GIT_DIR": "g", "GITX": "x", "CI": "1", "UNDERSTUDY_HOME": "/h", "SECRET": "s"}
    assert child_env(environ, allow=("GIT_*", "CI", "UNDERSTUDY_*"), extra={"A": "b", "UNDERSTUDY_KEY": "k"}) == {
        "PATH": "/bin",
        "GIT_DIR": "g",
        "CI": "1",
        "A": "b",
    }


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_leaving_the_scope_kills_the_whole_tree(heard, tree, tree_argv):
    async with spawn(Command(tree_argv), on_output=heard.output) as child:
        await child.go()
        family = await tree(child)
        assert len(family.alive()) == 7
    assert family.alive() == []


async def test_an_error_in_the_scope_kills_the_tree_and_comes_out_as_it_is(heard, tree, tree_argv):
    family = None
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the scope is what is tested
        async with spawn(Command(tree_argv), on_output=heard.output) as child:
            await child.go()
            family = await tree(child)
            raise ZeroDivisionError
    assert family is not None
    assert family.alive() == []


async def test_cancelling_kills_the_tree_before_the_scope_is_left(heard, tree, tree_argv):
    family = None
    with anyio.CancelScope() as scope:
        async with spawn(Command(tree_argv), on_output=heard.output) as child:
            await child.go()
            family = await tree(child)
            scope.cancel()
            await child.wait()
    assert scope.cancelled_caught
    assert family is not None
    assert family.alive() == []


async def test_what_a_command_leaves_behind_when_it_ends_is_killed(heard, tree, tree_argv):
    async with spawn(Command(tree_argv), on_output=heard.output) as child:
        await child.go()
        family = await tree(child)
        os.kill(child.pgid, signal.SIGUSR1)
        assert await child.wait() == Exit(None, signal.SIGUSR1, False, "exit")
        assert family.alive() == []


async def test_an_error_of_the_listener_ends_the_scope_and_the_tree(tree, tree_argv):
    def refuse(stream: str, data: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the scope is what is tested
        async with spawn(Command(tree_argv), on_output=refuse) as child:
            await child.go()
            await anyio.sleep_forever()
    assert process.descendants(child.pid_of_guard) == ()
    assert not process.alive(child.pgid)


async def test_terminate_asks_first(heard):
    argv = ("sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.02; done")
    async with spawn(Command(argv), on_output=heard.output) as child:
        await child.go()
        await heard.ready.wait()
        assert await child.terminate(10) == Exit(7, None, True, "cancel")
    assert heard.stdout == b"ready\nbye\n"


async def test_one_that_ignores_sigterm_is_killed_after_its_grace(heard):
    argv = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    async with spawn(Command(argv), on_output=heard.output) as child:
        await child.go()
        await heard.ready.wait()
        start = anyio.current_time()
        assert await child.terminate(0.3, "timeout") == Exit(None, signal.SIGKILL, True, "timeout")
        assert 0.3 <= anyio.current_time() - start < 2.3


async def test_a_stopped_command_can_use_its_grace(heard, until):
    argv = ("sh", "-c", "trap 'exit 7' TERM; echo ready; kill -STOP $$; sleep 0.01")
    async with spawn(Command(argv), on_output=heard.output) as child:
        await child.go()
        await until(lambda: Path(f"/proc/{child.pgid}/stat").read_text().split()[2] == "T")
        assert await child.terminate(10) == Exit(7, None, True, "cancel")


async def test_terminating_one_that_has_ended_keeps_its_own_end(heard):
    async with spawn(Command(("sh", "-c", "exit 3")), on_output=heard.output) as child:
        await child.go()
        ended = await child.wait()
        assert await child.terminate(5) == ended == Exit(3, None, False, "exit")


async def test_a_family_that_hides_in_new_sessions_is_found(heard, until, family):
    hide = (
        "import os, time\n"
        "print('ready', flush=True)\n"
        "for generation in range(3):\n"
        "    for twin in range(2):\n"
        "        if os.fork() == 0: os.setsid()\n"
        "time.sleep(1000)\n"
    )
    async with spawn(Command((sys.executable, "-c", hide)), on_output=heard.output) as child:
        await child.go()
        await until(lambda: len(process.descendants(child.pid_of_guard)) == 64)
        everyone = family(child.pid_of_guard)
    assert everyone.alive() == []


# -- the death of others -----------------------------------------------------------------------------------------------

DAEMON = """
import anyio, json, sys
from runtime.sandbox.parent import Command, spawn

async def main():
    async with spawn(Command(tuple(sys.argv[2:])), on_output=lambda stream, data: None) as child:
        if sys.argv[1] == "go":
            await child.go()
        print(json.dumps([child.pid_of_guard, child.pgid]), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("moment", ["go", "gate"])
async def test_when_the_daemon_is_killed_its_children_are_gone_within_two_seconds(
    moment, tree_argv, family, until, marker
):
    argv = tree_argv if moment == "go" else ("touch", str(marker))
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, moment, *argv], stdout=subprocess.PIPE)
    with daemon:
        assert daemon.stdout is not None
        guard, pgid = json.loads(await anyio.to_thread.run_sync(daemon.stdout.readline))
        if moment == "go":
            await until(lambda: len(process.descendants(guard)) >= 6)
        everyone = family(guard)
        assert {guard, pgid} <= set(everyone.alive())
        daemon.kill()
        await until(lambda: not everyone.alive(), within=2)
    assert not marker.exists()


async def test_when_the_guard_is_killed_the_group_is_killed_and_the_end_is_unknown(heard):
    argv = ("sh", "-c", "sleep 1000 & sh -c 'sleep 1000 & wait' & setsid sleep 1000 & echo ready; wait")
    async with spawn(Command(argv), on_output=heard.output) as child:
        await child.go()
        await heard.ready.wait()
        os.kill(child.pid_of_guard, signal.SIGKILL)
        assert await child.wait() == Exit(None, signal.SIGKILL, True, "lost")
        assert not process.alive(child.pgid)
        assert process.descendants(child.pgid) == ()


async def test_a_guard_that_is_stopped_does_not_keep_the_scope(heard, monkeypatch):
    monkeypatch.setattr(leash, "KILL_WITHIN", 0.2)
    async with spawn(Command(("sleep", "1000")), on_output=heard.output) as child:
        await child.go()
        os.kill(child.pid_of_guard, signal.SIGSTOP)
        start = anyio.current_time()
    assert anyio.current_time() - start < 2
    assert not process.alive(child.pgid)


async def test_a_guard_that_is_killed_at_the_gate_lets_nothing_run(heard, marker):
    async with spawn(Command(("touch", str(marker))), on_output=heard.output) as child:
        os.kill(child.pid_of_guard, signal.SIGKILL)
        assert (await child.wait()).reason == "lost"
    assert not marker.exists()


async def test_the_guard_does_not_heed_signals_of_the_terminal(heard):
    async with spawn(Command(("sh", "-c", "read line; exit 5")), on_output=heard.output, keep_stdin_open=True) as child:
        await child.go()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(child.pid_of_guard, number)
        await child.send(b"on\n")
        assert await child.wait() == Exit(5, None, False, "exit")


async def test_orphans_that_end_while_the_command_runs_are_buried(heard, until):
    argv = ("sh", "-c", "(sh -c 'exit 0' &); (setsid sh -c 'exit 0' &); echo ready; read line")
    async with spawn(Command(argv), on_output=heard.output, keep_stdin_open=True) as child:
        await child.go()
        await heard.ready.wait()
        guard = child.pid_of_guard
        await until(lambda: [p.pid for p in process.table() if p.parent == guard] == [child.pgid])


async def test_many_children_at_once_do_not_disturb_each_other(heard):
    codes: dict[int, int | None] = {}

    async def one(n: int) -> None:
        codes[n] = (await run(("sh", "-c", f"exit {n}"), heard)).code

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(one, n)
    assert codes == {n: n for n in range(20)}


async def test_a_guard_that_is_stopped_is_woken_to_do_its_work(heard):
    async with spawn(Command(("sleep", "1000")), on_output=heard.output) as child:
        await child.go()
        os.kill(child.pid_of_guard, signal.SIGSTOP)
        ended = await child.terminate(0.05)
    assert ended == Exit(None, signal.SIGTERM, True, "cancel")  # as its guard tells; killed, it would tell nothing
