"""The guard itself, apart from what its commands show: that it starts fast and reads the system right."""

import os
import subprocess
import sys
from pathlib import Path

from runtime.sandbox import guard, process

ROOM = Path(guard.__file__).parent
DEAR = {"asyncio", "ctypes", "enum", "json", "pathlib", "re", "signal", "subprocess", "threading", "typing"}


def test_it_imports_nothing_dear():
    program = "import sys; sys.path.append(sys.argv[1]); import guard; print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", program, str(ROOM)]
    loaded = set(subprocess.run(argv, env={}, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
    assert loaded & DEAR == set()
    assert not {name for name in loaded if name.startswith("runtime")}


def test_one_whose_daemon_dies_before_it_says_what_to_start_just_ends():
    ours, theirs = os.pipe()
    heard, told = os.pipe()
    program = "import sys; sys.path.append(sys.argv.pop(1)); import guard; guard.main()"
    argv = [sys.executable, "-I", "-S", "-c", program, str(ROOM), str(ours), str(told), "-1", "0"]
    with subprocess.Popen(argv, pass_fds=(ours, told), stderr=subprocess.PIPE) as running:
        for fd in (ours, told):
            os.close(fd)
        os.write(theirs, b"000000ffhalf")
        os.close(theirs)
        assert running.stderr is not None
        assert (running.wait(), running.stderr.read(), os.read(heard, 100)) == (0, b"", b"")
    os.close(heard)


def test_it_knows_start_times_as_the_daemon_does():
    assert guard.start_time(os.getpid()) == process.start_time(os.getpid())
    assert guard.start_time(2**22 + 1) == 0


def test_it_finds_its_children_with_and_without_the_help_of_the_kernel(monkeypatch):
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            assert child.pid in guard.children()
            found = [int(name) for name in guard.processes() if guard.parent(name) == os.getpid()]
            assert sorted(found) == sorted(guard.children())
        finally:
            child.kill()
