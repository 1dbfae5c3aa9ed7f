"""How handlers are found: annotations of every sort, inheritance, mistakes."""

from __future__ import annotations

import pytest

from runtime.core.actor import Actor, handles
from runtime.core.handlers import ASYNC, STREAM, SYNC, table_of
from schemas.base import Message


class One(Message, type="handlers.one"):
    pass


class Two(Message, type="handlers.two"):
    pass


class SpecialOne(One, type="handlers.special"):
    pass


class Base(Actor):
    @handles
    def one(self, message: One) -> str:
        return "base"

    @handles
    async def either(self, message: Two | Later) -> str:
        return "either"


class Later(Message, type="handlers.later"):
    pass


def names(cls: type[Actor]) -> dict[str, str]:
    return {key.__name__: method.__qualname__ for key, (_, method) in table_of(cls, Actor).routes.items()}


def test_a_name_written_before_its_class_is_found_later_and_a_union_registers_each_member():
    assert names(Base) == {"One": "Base.one", "Two": "Base.either", "Later": "Base.either"}


def test_handlers_are_inherited_and_a_subclass_may_replace_them_without_saying_so_again():
    class Child(Base):
        def one(self, message: One) -> str:
            return "child"

    assert names(Child)["One"].endswith("Child.one")
    assert names(Child)["Two"] == "Base.either"


def test_a_replaced_handler_may_take_another_type():
    class Child(Base):
        @handles
        def one(self, message: SpecialOne) -> str:
            return "special"

    assert set(names(Child)) == {"SpecialOne", "Two", "Later"}


def test_classes_made_inside_a_function_are_found():
    class Local(Message, type="handlers.local"):
        pass

    class Child(Actor):
        @handles
        def local(self, message: Local) -> None:
            return None

    assert set(names(Child)) == {"Local"}


def test_a_message_without_a_handler_of_its_own_goes_to_that_of_its_nearest_base():
    class Fresh(Base):
        pass  # what is found once is kept in the table, and other tests look at that of Base

    table = table_of(Fresh, Actor)
    route = table.route(SpecialOne)
    assert route is not None
    assert route[1] is Base.one
    assert table.route(Message) is None


def test_each_kind_of_method_is_told_apart():
    class Kinds(Actor):
        @handles
        def one(self, message: One) -> None:
            return None

        @handles
        async def two(self, message: Two) -> None:
            return None

        @handles
        async def later(self, message: Later):
            yield 1

    routes = table_of(Kinds, Actor).routes
    assert [routes[key][0] for key in (One, Two, Later)] == [SYNC, ASYNC, STREAM]


def test_only_what_may_suspend_is_guarded():
    class Plain(Actor):
        @handles
        def one(self, message: One) -> None:
            return None

    class Batching(Plain):
        async def after_batch(self) -> None:
            return None

    assert not table_of(Plain, Actor).guarded
    assert table_of(Batching, Actor).guarded
    assert table_of(Base, Actor).guarded


def test_two_handlers_of_one_type_are_refused():
    class Torn(Actor):
        @handles
        def one(self, message: One) -> None:
            return None

        @handles
        def another(self, message: One) -> None:
            return None

    with pytest.raises(TypeError, match="handles One twice: one, another"):
        table_of(Torn, Actor)


def test_a_handler_without_a_message_type_is_refused():
    with pytest.raises(TypeError, match="needs a parameter annotated"):

        class Bare(Actor):
            @handles
            def one(self, message) -> None:
                return None

    class Odd(Actor):
        @handles
        def one(self, message: 3) -> None:
            return None

    with pytest.raises(TypeError, match="is no message type"):
        table_of(Odd, Actor)
