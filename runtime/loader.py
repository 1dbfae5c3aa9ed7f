"""Loads the user's own code from the configuration's folder under a private package, so that no names compete."""

import difflib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from runtime.errors import ConfigUnsafe, LoadFailed, PackageShadowed
from runtime.trust import check_trust
from schemas.base import MESSAGE_TYPES

USER_PACKAGE: Final = "understudy_user"
OUR_PACKAGES: Final = ("schemas", "runtime", "actors")

_HOME: Final = Path(__file__).resolve().parent.parent
_FOUND: Final[dict[str, tuple[int, int]]] = {}
"""What the files of the user's modules were like when they were found: when they had last changed, and their size."""

_REFERENCE: Final = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.ASCII)


def load_object(reference: str, folder: Path) -> Any:
    """Return what *reference* (`module:name`, `pkg.module:Class.method`) names.

    The module is looked for in *folder* first, then among what is installed. It runs once: a second call finds it
    loaded even if the file has changed since, until `set_aside`. Raises LoadFailed, whose `data` has the reference and,
    where the user's code is at fault, file and line; ConfigUnsafe where others could change the file. Blocks while the
    module runs.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise LoadFailed(f"{reference!r} names no code: write module:name, such as jobs:resize", reference=reference)
    use_folder(folder)
    module = _module(reference, match[1], folder.resolve())
    return _attribute(reference, module, match[2])


def use_folder(folder: Path) -> None:
    """Make *folder* the home of the user's modules; modules that came from another folder are forgotten."""
    where = str(folder.resolve())
    package = sys.modules.get(USER_PACKAGE)
    if package is not None and list(package.__path__) == [where]:
        return
    _forget()
    package = ModuleType(USER_PACKAGE, "The user's own modules.")
    package.__path__ = [where]
    package.__spec__ = importlib.machinery.ModuleSpec(USER_PACKAGE, None, is_package=True)
    package.__spec__.submodule_search_locations = package.__path__
    sys.modules[USER_PACKAGE] = package
    importlib.invalidate_caches()
    if not any(isinstance(finder, _UserModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _UserModules(inner=True))
        sys.meta_path.append(_UserModules(inner=False))


def is_stale() -> bool:
    """Tell whether a file that one of the user's modules came from is not what it was: what is loaded is old then."""
    return any(_state(path) != state for path, state in _FOUND.items())


def set_aside() -> Callable[[], None]:
    """Forget the user's modules, so that whatever is loaded next is read anew; return what brings them back as they
    were, with the messages that they declare.

    What holds on to their functions, classes and objects keeps them: it has to be made anew as well.
    """
    modules = {name: module for name, module in list(sys.modules.items()) if _is_of_user(name, module)}
    found, messages = dict(_FOUND), dict(MESSAGE_TYPES)

    def bring_back() -> None:
        _forget()
        sys.modules.update(modules)
        _FOUND.update(found)
        MESSAGE_TYPES.clear()
        MESSAGE_TYPES.update(messages)

    _forget()
    for word, message in messages.items():
        if message.__module__ in modules:  # else it could not be declared by another module now
            del MESSAGE_TYPES[word]
    return bring_back


def _forget() -> None:
    for name in [name for name, module in list(sys.modules.items()) if _is_of_user(name, module)]:  # others import too
        del sys.modules[name]
    _FOUND.clear()
    importlib.invalidate_caches()


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116  # done before each job of a kept process
    except OSError:
        return 0, -1
    return found.st_mtime_ns, found.st_size


def check_shadowing() -> None:
    """Raise PackageShadowed unless our three packages come from one folder: the one that this file is in."""
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        places = (
            [] if spec is None else [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
        )
        if not places:
            raise PackageShadowed(f"the package {name!r} is missing: it should be in {_HOME}", package=name)
        foreign = next((place for place in places if place.resolve().parent != _HOME), None)
        if foreign is not None:
            raise PackageShadowed(
                f"{foreign} is imported in place of {_HOME / name}",
                package=name,
                path=str(foreign),
                ours=str(_HOME / name),
            )


class _UserModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the user's modules by their private name, and lets user code write plain `import helper` for the same one.

    Were the folder merely on `sys.path`, `helper` and `understudy_user.helper` would be two modules, each with its own
    classes and globals. The finder that stands last gives plain names, so that everything installed wins. The one that
    stands first does the private names, where it refuses files that others could change, and what is inside a package
    that the last one gave out, since Python's own finder would load that a second time.
    """

    def __init__(self, *, inner: bool) -> None:
        self._inner = inner

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top, dot, _ = fullname.partition(".")
        if bool(dot) is not self._inner or USER_PACKAGE not in sys.modules:
            return None
        if top == USER_PACKAGE:
            return _trusted(importlib.machinery.PathFinder.find_spec(fullname, path))
        if dot and getattr(sys.modules.get(top), "__name__", "") != f"{USER_PACKAGE}.{top}":
            return None
        spec = importlib.util.find_spec(f"{USER_PACKAGE}.{fullname}")
        return None if spec is None else importlib.machinery.ModuleSpec(fullname, self, is_package=False)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{USER_PACKAGE}.{spec.name}")
        spec.loader_state = module.__spec__  # the import system is about to overwrite it with *spec*
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def _trusted(spec: importlib.machinery.ModuleSpec | None) -> importlib.machinery.ModuleSpec | None:
    if spec is not None and spec.origin is not None:
        _FOUND.setdefault(spec.origin, _state(spec.origin))  # before it is read: what changes meanwhile counts
        check_trust(Path(spec.origin))
        compiled = None if spec.cached is None else Path(spec.cached)  # runs in place of the file, where it is there
        if compiled is not None and compiled.parent.is_dir():
            check_trust(compiled if compiled.exists() else compiled.parent)
    return spec


def _is_of_user(name: str, module: ModuleType) -> bool:
    prefix = USER_PACKAGE + "."
    return name == USER_PACKAGE or name.startswith(prefix) or getattr(module, "__name__", "").startswith(prefix)


def _module(reference: str, name: str, folder: Path) -> ModuleType:
    """Import module *name* for *reference*, from *folder* if it is there."""
    full = name if _is_ours(name, folder) or not _is_in(name, folder) else f"{USER_PACKAGE}.{name}"
    try:
        return importlib.import_module(full)
    except ConfigUnsafe:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (full == error.name or full.startswith(error.name + ".")):
            raise _missing(reference, name, folder) from error
        raise _broken(reference, error, folder) from error
    except (Exception, SystemExit) as error:
        raise _broken(reference, error, folder) from error


def _is_in(name: str, folder: Path) -> bool:
    stem = folder.joinpath(*name.split("."))
    return stem.with_name(stem.name + ".py").is_file() or (stem / "__init__.py").is_file()


def _is_ours(name: str, folder: Path) -> bool:
    # A configuration that lies in our own checkout: our modules must not be loaded a second time under another name.
    return folder == _HOME and name.partition(".")[0] in OUR_PACKAGES


def _missing(reference: str, name: str, folder: Path) -> LoadFailed:
    wanted = Path(*name.split(".")).with_suffix(".py")
    close = _close(name, [path.stem for path in folder.glob("*.py")])
    return LoadFailed(
        f"{reference}: there is no {wanted} in {folder}, nor an installed module {name!r}{close}",
        reference=reference,
        folder=str(folder),
    )


def _broken(reference: str, error: BaseException, folder: Path) -> LoadFailed:
    """Say where importing failed: at the innermost line of the user's, or where Python could not read on."""
    if isinstance(error, SyntaxError) and error.filename:
        file, line, reason = error.filename, error.lineno or 1, f"{type(error).__name__}: {error.msg}"
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)] or frames
        file, line = (own[-1].filename, own[-1].lineno or 1) if own else ("", 0)
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    reason = reason if len(reason) <= 500 else reason[:500] + " ..."
    where = f"{file}, line {line}: " if file else ""
    return LoadFailed(f"{reference}: {where}{reason}", reference=reference, file=file, line=line)


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, importlib.__file__)


def _attribute(reference: str, module: ModuleType, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            file = getattr(module, "__file__", None) or module.__name__
            close = _close(name, [known for known in dir(found) if not known.startswith("_")])
            raise LoadFailed(f"{reference}: {file} has no {path!r}{close}", reference=reference, file=file) from error
    return found


def _close(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
