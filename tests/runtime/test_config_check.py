"""What a configuration names outside itself: `config check` says what is not there."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import config, config_check
from runtime.config_check import absences
from runtime.loader import USER_PACKAGE

AGENT = '[agents.ada]\nllm = { provider = "scripted", model = "echo" }\n'


@pytest.fixture(autouse=True)
def _forget_the_modules() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == USER_PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder: Path, name: str, text: str, mode: int = 0o600) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(mode)


def found(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[tuple[str, str, bool]]:
    put(folder, "config.toml", text)
    loaded = config.load(folder / "config.toml", {})
    given = absences(loaded.settings, loaded.folder, {"PATH": "/usr/bin:/bin"} | (environ or {}))
    return [(".".join(map(str, one.loc)), one.code, one.fatal) for one in given]


def test_what_is_there_is_no_mistake(folder: Path) -> None:
    put(
        folder,
        "mine.py",
        "import pydantic\nclass Answer(pydantic.BaseModel):\n  x: int\ndef f(x: int) -> int: return x\n",
    )
    put(folder, "mind.py", "class Mind:\n  async def run(self, turn, ctx): yield\n")
    put(folder, "bob.sh", "#!/bin/sh\n", 0o700)
    put(folder, "tale.toml", '[[steps]]\nreply = "hi"\n')
    (folder / "work").mkdir()
    text = (
        AGENT.replace("echo", "tale.toml")
        + 'tools = ["files.read", "mine:f", "here/x"]\noutput = "mine:Answer"\nworkdir = "work"\n'
        + '[agents.bob]\nexec = ["./bob.sh"]\n[agents.cy]\nactor = "mind:Mind"\n[kinds.k]\nrun = "mine:f"\n'
        + '[tools.mcp.here]\ncommand = ["sh"]\nenv = { T = "env:T" }\n'
    )
    assert found(folder, text, {"T": "1234"}) == []


@pytest.mark.parametrize(
    ("text", "where", "code", "fatal"),
    [
        (AGENT + 'tools = ["gone:f"]', "agents.ada.tools.0", "code_unusable", True),
        (AGENT + 'tools = ["mine:g"]', "agents.ada.tools.0", "code_unusable", True),
        (AGENT + 'tools = ["mine:VALUE"]', "agents.ada.tools.0", "code_unusable", True),
        (AGENT + 'tools = ["broken:f"]', "agents.ada.tools.0", "code_unusable", True),
        (AGENT + 'tools = ["gone/x"]', "agents.ada.tools.0", "mcp_missing", True),
        (AGENT + 'output = "mine:f"', "agents.ada.output", "code_unusable", True),
        (AGENT + 'workdir = "gone"', "agents.ada.workdir", "folder_missing", False),
        (AGENT.replace("echo", "gone.toml"), "agents.ada.llm.model", "code_unusable", True),
        ('[agents.bob]\nexec = ["./gone.sh"]', "agents.bob.exec", "program_missing", True),
        ('[agents.bob]\nexec = ["./mine.py"]', "agents.bob.exec", "program_missing", True),
        ('[agents.bob]\nexec = ["no-such-program-here"]', "agents.bob.exec", "program_missing", True),
        ('[agents.cy]\nactor = "mine:f"', "agents.cy.actor", "code_unusable", True),
        ('[kinds.k]\nrun = "mine:g"', "kinds.k.run", "code_unusable", True),
        ('[kinds.k]\nrun = "mine:VALUE"', "kinds.k.run", "code_unusable", True),
        ('[providers.openai]\napi_key = "env:GONE"', "providers.openai.api_key", "secret_missing", False),
        ('[tools.mcp.m]\ncommand = ["no-such-program-here"]', "tools.mcp.m.command", "program_missing", True),
        (
            '[tools.mcp.m]\nurl = "https://mcp.example/"\nheaders = { A = "file:/no/such" }',
            "tools.mcp.m.headers.A",
            "secret_missing",
            False,
        ),
    ],
)
def test_what_is_not_there_is_named_where_it_is_named(
    folder: Path, text: str, where: str, code: str, fatal: bool
) -> None:
    put(folder, "mine.py", "VALUE = 1\ndef f(x: int) -> int: return x\n")
    put(folder, "broken.py", "import nothing_that_is_there\n")
    assert found(folder, text) == [(where, code, fatal)]


def test_a_local_model_that_no_request_can_choose(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_model(name: str) -> Path:
        raise config_check.LocalModelMissing(f"{name} is not installed")

    text = '[agents.ada]\nllm = { provider = "local", model = "llama3" }\n'
    monkeypatch.setattr(config_check, "find_spec", lambda name: True)
    monkeypatch.setattr(config_check, "find_model", lambda name: folder)
    assert found(folder, text) == [("agents.ada.llm.model", "model_ignored", False)]
    monkeypatch.setattr(config_check, "find_model", no_model)
    assert found(folder, text.replace("llama3", "smollm2")) == [("agents.ada.llm.model", "model_missing", False)]
    own = text + '[providers.local]\nmodel = "/no/such.gguf"\n'
    assert found(folder, own) == [("providers.local.model", "model_missing", False)]
    monkeypatch.setattr(config_check, "find_spec", lambda name: None)
    assert found(folder, text) == [("agents.ada.llm.provider", "extra_missing", False)]


def test_mcp_without_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_check, "find_spec", lambda name: None)
    assert found(folder, '[tools.mcp.m]\ncommand = ["sh"]') == [("tools.mcp.m", "extra_missing", False)]


def test_config_check_shows_both_and_only_what_is_fatal_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNDERSTUDY_CONFIG", raising=False)
    monkeypatch.setenv("UNDERSTUDY_AGENTS__EVE__EXEC", '["no-such-program-here"]')
    put(folder, "config.toml", AGENT + 'workdir = "gone"\ntools = ["gone:f"]\n')
    assert config_check.main([]) == 78
    said = capsys.readouterr()
    assert said.out == ""
    warned, _, failed = said.err.partition("\n\nerror[")
    assert warned.startswith("warning[folder_missing]: there is no folder ")
    assert ' --> config.toml:3:11\n  |\n3 | workdir = "gone"\n  |           ^^^^^^ agents.ada.workdir\n' in warned
    assert "code_unusable]: gone:f: there is no gone.py in " in failed
    assert "error[program_missing]: agents.eve.exec: 'no-such-program-here' cannot be started" in failed
    monkeypatch.delenv("UNDERSTUDY_AGENTS__EVE__EXEC")
    put(folder, "config.toml", AGENT + 'workdir = "gone"\n')
    assert config_check.main([]) == 0
    assert capsys.readouterr().out.endswith("config.toml: no mistakes, 1 warning; 1 agent\n")


def test_other_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert config_check.main(["check", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("usage: ")
