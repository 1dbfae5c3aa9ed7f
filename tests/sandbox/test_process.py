"""Processes by their numbers: who is alive, and which group may be killed by a daemon that did not start it."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from runtime.sandbox import process


class Group:
    """A group started without a guard, as one looks whose guard was killed."""

    def __init__(self, script: str, **how: object) -> None:
        self.leader = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, **(how or SESSION))
        assert self.leader.stdout is not None
        self.pgid = self.leader.pid
        self.started = process.start_time(self.pgid)
        self.told = [int(word) for word in self.leader.stdout.readline().split()]

    def __exit__(self, *_: object) -> None:
        assert self.leader.stdout is not None
        self.leader.stdout.close()
        for pid in self.told:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.leader.kill()
        self.leader.wait()

    def __enter__(self) -> "Group":
        return self


SESSION = {"start_new_session": True}
STAYS = "sleep 1000 & echo $!; wait"
LEAVES = "sleep 1000 & echo $!"
HIDES = "setsid sleep 1000 & echo $!; wait"


@pytest.fixture
def stays() -> Iterator[Group]:
    with Group(STAYS) as group:
        yield group


@pytest.fixture
def leaves() -> Iterator[Group]:
    with Group(LEAVES) as group:
        group.leader.wait()
        yield group


def is_dead(pid: int) -> bool:
    now = process.look(pid)
    return now is None or now.zombie


def test_a_process_is_known_by_number_and_start_time():
    me = process.look(os.getpid())
    assert me is not None
    assert (me.pid, me.parent, me.group, me.session) == (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0))
    assert me.started == process.start_time(os.getpid()) > 0
    assert not me.zombie


def test_who_does_not_exist_has_no_start_time():
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert process.look(gone.pid) is None
    assert process.start_time(gone.pid) == 0
    assert not process.alive(gone.pid)
    assert process.descendants(gone.pid) == ()


def test_a_name_with_spaces_and_parentheses_is_no_trap(tmp_path):
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to("/bin/sleep")
    sleeper = subprocess.Popen([odd, "1000"])
    try:
        found = process.look(sleeper.pid)
        assert found is not None
        assert (found.parent, found.group) == (os.getpid(), os.getpgrp())
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_group_lives_while_one_member_does_and_a_zombie_is_none(stays):
    assert process.alive(stays.pgid)
    assert process.descendants(stays.pgid) == tuple(stays.told)
    os.killpg(stays.pgid, signal.SIGKILL)
    os.waitid(os.P_PID, stays.pgid, os.WEXITED | os.WNOWAIT)
    assert is_dead(stays.pgid)


def test_a_surviving_group_is_killed_and_gone_when_the_call_returns(stays):
    assert process.kill_group(stays.pgid, stays.started)
    assert not process.alive(stays.pgid)
    assert all(map(is_dead, stays.told))


def test_the_second_time_there_is_nothing_to_kill(stays):
    assert process.kill_group(stays.pgid, stays.started)
    stays.leader.wait()
    assert not process.kill_group(stays.pgid, stays.started)


def test_a_descendant_in_a_session_of_its_own_is_killed_too():
    with Group(HIDES) as group:
        assert process.kill_group(group.pgid, group.started)
        assert all(map(is_dead, group.told))


def test_a_number_given_out_again_is_left_alone(stays):
    assert not process.kill_group(stays.pgid, stays.started + 1)
    assert not process.kill_group(stays.pgid, stays.started - 1)
    assert process.alive(stays.pgid)
    assert not any(map(is_dead, stays.told))


def test_a_group_whose_leader_is_gone_is_killed(leaves):
    assert process.look(leaves.pgid) is None
    assert process.kill_group(leaves.pgid, leaves.started)
    assert all(map(is_dead, leaves.told))


def test_without_its_leader_a_group_older_than_it_should_be_is_left_alone(leaves):
    assert not process.kill_group(leaves.pgid, leaves.started + 1000)
    assert not any(map(is_dead, leaves.told))


def test_without_its_leader_a_group_that_is_no_session_is_left_alone():
    with Group(LEAVES, process_group=0) as group:
        group.leader.wait()
        assert not process.kill_group(group.pgid, group.started)
        assert not any(map(is_dead, group.told))


@pytest.mark.parametrize("pgid", [-1, 0, 1])
def test_numbers_that_mean_everyone_are_refused(pgid):
    assert not process.kill_group(pgid, process.start_time(1) or 1)


def test_our_own_group_is_refused():
    leader = os.getpgrp()
    assert not process.kill_group(leader, process.start_time(leader))


def test_an_unknown_start_time_is_refused(stays):
    assert not process.kill_group(stays.pgid, 0)
    assert process.alive(stays.pgid)


def test_psutil_sees_what_proc_shows(stays):
    shown, asked = process.look(stays.pgid), process._ask_psutil(stays.pgid)
    assert shown is not None
    assert asked is not None
    same = ("pid", "parent", "group", "session", "zombie", "terminal")
    assert [getattr(asked, name) for name in same] == [getattr(shown, name) for name in same]
    assert process._ask_psutil(2**22 + 1) is None
