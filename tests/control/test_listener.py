"""Binding the control socket: permissions, what is left of a dead daemon, and who calls."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.control import listener
from runtime.control.listener import bind, is_ours, peer_of
from runtime.errors import AlreadyRunning, HomeUnusable


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_socket_and_its_directory_are_for_the_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        bound = bind(tmp_path / "new" / "control.sock")
    finally:
        os.umask(before)
    with bound.socket:
        assert mode(bound.path) == 0o600
        assert mode(bound.path.parent) == 0o700


def test_the_umask_is_put_back(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        bind(tmp_path / "new" / "control.sock").socket.close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_directory_of_ours_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    bind(home / "control.sock").socket.close()
    assert mode(home) == 0o700


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    owner = home.stat().st_uid
    monkeypatch.setattr(listener.os, "geteuid", lambda: owner + 1)
    with pytest.raises(HomeUnusable, match="belongs to another user"):
        bind(home / "control.sock")


def test_a_shared_directory_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(HomeUnusable, match="shared with others"):
        bind(shared / "control.sock")
    assert mode(shared) == 0o1777


def test_the_home_directory_of_a_person_is_not_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(HomeUnusable, match="UNDERSTUDY_HOME"):
        bind(tmp_path / "control.sock")
    assert mode(tmp_path) == 0o755


def test_a_long_path_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match=r"has \d+ bytes and the system takes 10[37]"):
        bind(tmp_path / ("x" * 120) / "control.sock")


def test_what_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "home" / "control.sock"
    dead = bind(path)
    dead.socket.close()
    with bind(path).socket as again:
        again.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_live_socket_is_never_taken(tmp_path: Path) -> None:
    path = tmp_path / "home" / "control.sock"
    with bind(path).socket as live:
        live.listen()
        inode = path.lstat().st_ino
        with pytest.raises(AlreadyRunning):
            bind(path)
        assert path.lstat().st_ino == inode


def test_a_socket_with_a_full_backlog_counts_as_live(tmp_path: Path) -> None:
    path = tmp_path / "home" / "control.sock"
    with bind(path).socket as live:
        live.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            with pytest.raises(AlreadyRunning):
                bind(path)


def test_a_file_in_the_place_of_the_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "home" / "control.sock"
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    with pytest.raises(HomeUnusable, match="is not a socket"):
        bind(path)
    assert path.read_text() == "precious"


def test_only_its_own_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "home" / "control.sock"
    first = bind(path)
    path.rename(tmp_path / "aside")  # kept, so that its inode is not given to the next one
    with first.socket, bind(path).socket:
        second = path.lstat().st_ino
        first.unlink()
        assert path.lstat().st_ino == second


def test_removing_twice_is_once_too_often_and_no_harm(tmp_path: Path) -> None:
    bound = bind(tmp_path / "home" / "control.sock")
    bound.socket.close()
    bound.unlink()
    assert not bound.path.exists()
    bound.unlink()


def test_the_kernel_tells_who_calls() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert peer_of(there) == (os.getpid(), os.geteuid())


def test_the_owner_and_root_may_call_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener.os, "geteuid", lambda: 1000)
    assert [listener.is_allowed(uid) for uid in (0, 1000, 1001)] == [True, True, False]


def test_what_we_started_is_ours_and_nobody_else() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert is_ours(child.pid)
        assert not is_ours(os.getpid())
        assert not is_ours(os.getppid())
        assert not is_ours(0)
        child.communicate(b"\n")
    assert is_ours(child.pid)  # gone: nobody can tell whose it was
