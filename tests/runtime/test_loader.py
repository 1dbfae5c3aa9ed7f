"""Loading the user's code: its own names, one copy of each module, and errors that name the line."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import runtime.loader
from runtime.errors import ConfigUnsafe, LoadFailed, PackageShadowed
from runtime.loader import check_shadowing, load_object

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
        return path

    return write


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    finders, modules = sys.meta_path[:], set(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_function_is_loaded_from_the_folder(write: Write, tmp_path: Path) -> None:
    write("jobs.py", "def resize(): return 'resized'\n")
    assert load_object("jobs:resize", tmp_path)() == "resized"
    assert load_object("jobs:resize", tmp_path).__module__ == "understudy_user.jobs"


def test_dotted_attributes_are_followed(write: Write, tmp_path: Path) -> None:
    write("jobs.py", "class Box:\n    class Inner:\n        value = 7\n")
    assert load_object("jobs:Box.Inner.value", tmp_path) == 7


def test_a_users_actors_tools_loads_beside_ours(write: Write, tmp_path: Path) -> None:
    write("actors/tools.py", "class Mine: pass\n")
    ours = importlib.import_module("actors")
    assert load_object("actors.tools:Mine", tmp_path).__module__ == "understudy_user.actors.tools"
    assert sys.modules["actors"] is ours


def test_a_plain_import_of_a_neighbour_finds_the_one_copy(write: Write, tmp_path: Path) -> None:
    write("helper.py", "class Shared: pass\n")
    write("pkg/__init__.py", "")
    write("pkg/sub.py", "class Deep: pass\n")
    write("jobs.py", "import helper\nimport pkg.sub\nfrom pkg.sub import Deep\nShared = helper.Shared\n")
    assert load_object("jobs:Shared", tmp_path) is load_object("helper:Shared", tmp_path)
    assert load_object("jobs:Deep", tmp_path) is load_object("pkg.sub:Deep", tmp_path)
    assert load_object("jobs:pkg.sub.Deep", tmp_path) is load_object("pkg.sub:Deep", tmp_path)


def test_neighbours_that_import_each_other_load(write: Write, tmp_path: Path) -> None:
    write("one_way.py", "import other_way\nvalue = 1\n")
    write("other_way.py", "import one_way\nfrom . import one_way as same\nassert same is one_way\n")
    assert load_object("one_way:value", tmp_path) == 1


def test_a_module_keeps_its_own_spec_when_it_is_imported_plainly(write: Write, tmp_path: Path) -> None:
    write("helper.py", "")
    write("jobs.py", "import helper\n")
    helper = load_object("jobs:helper", tmp_path)
    assert (helper.__name__, helper.__spec__.name) == ("understudy_user.helper", "understudy_user.helper")


def test_installed_modules_win_over_the_folder_for_plain_imports(write: Write, tmp_path: Path) -> None:
    write("json.py", "def loads(text): return 'mine'\n")
    write("jobs.py", "import json\nvalue = json.loads('1')\n")
    assert load_object("jobs:value", tmp_path) == 1


def test_the_folder_wins_over_installed_modules_for_references(write: Write, tmp_path: Path) -> None:
    write("json.py", "def loads(text): return 'mine'\n")
    assert load_object("json:loads", tmp_path)("1") == "mine"


def test_an_installed_module_is_the_fallback(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()  # a folder of data hides nothing
    assert load_object("json:loads", tmp_path)("1") == 1


def test_our_own_modules_are_never_loaded_twice() -> None:
    folder = Path(runtime.loader.__file__).parent.parent
    assert load_object("runtime.loader:load_object", folder) is load_object


def test_another_folder_forgets_the_first(write: Write, tmp_path: Path) -> None:
    write("a/jobs.py", "value = 'a'\n")
    write("b/jobs.py", "value = 'b'\n")
    assert load_object("jobs:value", tmp_path / "a") == "a"
    assert load_object("jobs:value", tmp_path / "b") == "b"


@pytest.mark.parametrize("reference", ["jobs", "jobs:", ":f", "a b:c", "../x:y", "jobs:f()", ".jobs:f", "jobs:f:g", ""])
def test_what_is_no_reference_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="write module:name"):
        load_object(reference, tmp_path)


def test_a_missing_module_is_named_with_a_close_one(write: Write, tmp_path: Path) -> None:
    write("jobs.py", "")
    with pytest.raises(LoadFailed, match=r"no jbos\.py in .*did you mean 'jobs'\?"):
        load_object("jbos:f", tmp_path)


def test_a_missing_attribute_is_named_with_a_close_one(write: Write, tmp_path: Path) -> None:
    path = write("jobs.py", "def resize(): ...\n")
    with pytest.raises(LoadFailed, match="did you mean 'resize'") as caught:
        load_object("jobs:resise", tmp_path)
    assert caught.value.data["file"] == str(path)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("x = 1\nimport nothing_of_that_name\n", 2, "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("x = 1\n\ny = (\n", 3, "SyntaxError"),
        ("def f():\n    return 1 / 0\nf()\n", 2, "ZeroDivisionError"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
        ("\nraise SystemExit(3)\n", 2, "SystemExit: 3"),
        ("from actors import no_such_thing\n", 1, "ImportError"),
    ],
)
def test_code_that_fails_is_named_with_its_line(
    write: Write, tmp_path: Path, text: str, line: int, reason: str
) -> None:
    path = write("jobs.py", text)
    with pytest.raises(LoadFailed) as caught:
        load_object("jobs:f", tmp_path)
    assert (caught.value.data["file"], caught.value.data["line"]) == (str(path), line)
    assert reason in caught.value.detail


def test_mended_code_loads_after_a_failure(write: Write, tmp_path: Path) -> None:
    write("jobs.py", "raise ValueError\n")
    with pytest.raises(LoadFailed):
        load_object("jobs:value", tmp_path)
    write("jobs.py", "value = 1\n")
    assert load_object("jobs:value", tmp_path) == 1


def test_code_that_others_could_change_is_refused(write: Write, tmp_path: Path) -> None:
    path = write("helper.py", "")
    write("jobs.py", "import helper\n")
    path.chmod(0o666)
    with pytest.raises(ConfigUnsafe, match=rf"chmod go-w {path}"):
        load_object("jobs:helper", tmp_path)


def test_code_whose_compiled_form_others_could_change_is_refused(write: Write, tmp_path: Path) -> None:
    write("mine.py", "n = 1\n")
    compiled = Path(importlib.util.cache_from_source(str(tmp_path / "mine.py")))
    compiled.parent.mkdir(mode=0o777)
    compiled.parent.chmod(0o777)
    with pytest.raises(ConfigUnsafe, match="__pycache__"):
        load_object("mine:n", tmp_path)
    compiled.parent.chmod(0o700)
    compiled.write_bytes(b"")
    compiled.chmod(0o666)
    with pytest.raises(ConfigUnsafe, match=r"mine\..*\.pyc"):
        load_object("mine:n", tmp_path)
    compiled.chmod(0o600)
    assert load_object("mine:n", tmp_path) == 1


def test_our_packages_are_where_they_should_be() -> None:
    check_shadowing()


def test_a_foreign_package_of_our_name_is_reported(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("schemas/__init__.py", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "schemas")
    with pytest.raises(PackageShadowed) as caught:
        check_shadowing()
    assert caught.value.data["path"] == str(tmp_path / "schemas")
