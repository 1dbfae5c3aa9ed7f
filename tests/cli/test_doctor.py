"""`doctor` and `config check`."""

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import doctor
from runtime.cli.config import check_argv
from runtime.cli.main import run
from runtime.cli.version import version_of_cli

GOOD = [sys.executable, "-c", "print('config.toml: no mistakes')"]
BAD = [sys.executable, "-c", "import sys; sys.stderr.write('error[x]: wrong\\n'); sys.exit(78)"]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    def use(argv: list[str]) -> None:
        monkeypatch.setattr("runtime.cli.doctor.check_argv", lambda file: argv)
        monkeypatch.setattr("runtime.cli.config.check_argv", lambda file: argv)

    use(GOOD)
    return use


def found(cli: Callable[..., Any]) -> dict[str, Any]:
    ended = cli("doctor", "--json")
    return {"code": ended.code, **{check["check"]: check for check in ended.json}}


@pytest.mark.usefixtures("config")
def test_a_home_without_a_daemon_is_a_warning_with_its_fix(cli: Callable[..., Any], home: Path) -> None:
    home.chmod(0o700)
    checks = found(cli)
    assert checks["code"] == 0
    assert [checks[name]["state"] for name in ("python", "home", "socket", "config")] == ["ok"] * 4
    assert checks["daemon"] == {
        "check": "daemon",
        "state": "warn",
        "found": f"Daemon is not running (no socket at {home}/control.sock).",
        "fix": "understudy up",
    }


@pytest.mark.usefixtures("config")
def test_a_daemon_of_another_version_fails_with_the_fix(cli: Callable[..., Any], fake: Any) -> None:
    fake.path.chmod(0o600)
    fake.on("GET", "/v1/hello", {"version": "9.9.9", "pid": 7})
    fake.on("GET", "/v1/status", {"health": "degraded", "reasons": ["disk low"]})
    checks = found(cli)
    assert checks["code"] == 1
    assert checks["version"]["found"] == f"daemon 9.9.9, command {version_of_cli()}"
    assert checks["version"]["fix"] == "understudy down; understudy up"
    assert checks["health"]["found"] == "degraded: disk low"
    assert checks["socket"]["state"] == "ok"


@pytest.mark.usefixtures("config")
def test_a_socket_that_others_can_open_fails(cli: Callable[..., Any], fake: Any) -> None:
    fake.path.chmod(0o666)
    fix = {"state": "fail", "fix": f"chmod 600 {fake.path}"}
    assert found(cli)["socket"].items() >= fix.items()


@pytest.mark.usefixtures("config")
def test_a_file_in_the_place_of_the_socket_fails(cli: Callable[..., Any], home: Path) -> None:
    (home / "control.sock").write_text("")
    assert found(cli)["socket"]["found"] == f"{home}/control.sock is not a socket"


@pytest.mark.usefixtures("config")
def test_a_home_that_is_a_file_or_open_to_others_is_named(
    cli: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.chmod(0o755)
    assert found(cli)["home"].items() >= {"state": "warn", "fix": f"chmod 700 {home}"}.items()
    (home / "file").write_text("")
    monkeypatch.setenv("UNDERSTUDY_HOME", str(home / "file" / "below"))
    assert found(cli)["home"]["state"] == "fail"


@pytest.mark.usefixtures("config")
def test_a_socket_path_that_the_kernel_refuses_is_named(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOST", "/" + "x" * 120)
    checks = found(cli)
    assert checks["socket"]["found"].endswith("is longer than 107 bytes")
    monkeypatch.setenv("UNDERSTUDY_HOST", "http://127.0.0.1:1")
    assert "must be unix:///PATH" in found(cli)["socket"]["found"]


@pytest.mark.parametrize(("version", "state"), [((3, 51, 2), "warn"), ((3, 51, 3), "ok"), ((3, 53, 0), "ok")])
def test_an_sqlite_with_the_fault_is_a_warning_and_why_it_is_no_more(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], state: str
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    (check,) = doctor.look_at_sqlite()
    assert check.state == state
    assert ("through one connection" in check.fix) == (state == "warn")


def test_too_little_disk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for free, state in ((1 << 20, "fail"), (1 << 29, "warn"), (1 << 40, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda folder, free=free: type("Usage", (), {"free": free}))
        assert doctor._disk(tmp_path).state == state


def test_a_missing_local_model_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    (check,) = doctor.look_at_model()
    assert (check.state, check.found) == ("warn", "xllamacpp is not installed")


def test_a_wrong_configuration_fails_and_the_table_names_the_fix(cli: Callable[..., Any], config: Any) -> None:
    config(BAD)
    ended = cli("doctor")
    assert ended.code == 1
    assert any(line.split(None, 2) == ["fail", "config", "error[x]: wrong"] for line in ended.out.splitlines())
    assert ended.out.endswith("\nfail config: understudy config check\n")


def test_config_check_passes_output_and_exit_code_on(
    home: Path, config: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    config(BAD)
    assert run(["config", "check"]) == 78
    assert capfd.readouterr().err == "error[x]: wrong\n"


def test_the_configuration_is_checked_in_a_process_of_its_own() -> None:
    assert check_argv("c.toml") == [sys.executable, "-P", "-m", "runtime.config_check", "c.toml"]
