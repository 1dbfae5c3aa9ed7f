"""The ground of every word: frozen models, messages with typed replies, and how times and ids are written."""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

Millis: TypeAlias = Annotated[int, Field(ge=0, lt=9_214_646_400_000)]
"""Milliseconds since 1970, UTC, before the year 2262: how every stored or sent time is written."""

Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]
"""What a person may call an agent, a queue or a kind: lower case, starts with a letter, at most 64 characters."""

ActorName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_:/.-]{0,127}$")]
"""What a cell is called: `queue`, `agent:researcher`, `worker:child-1`."""

JsonValue: TypeAlias = Any
"""Anything JSON can say. `Any`, because this is a wire border and pydantic's recursive type costs 3x here."""

Overflow: TypeAlias = Literal["wait", "reject", "drop_oldest"]
"""What a full mailbox does to a message of a type: the sender waits, is refused, or an older one makes room."""

R = TypeVar("R", covariant=True)


class Model(BaseModel):
    """A frozen value; unknown fields and types that only look alike are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Message(Model):
    """Something one actor tells another. `TYPE` is its stable name on the wire and on disk, never the class path.

    Declare it in the class line: `class Poke(Message, type="demo.poke", public=True)`. A class without `type=` gets its
    own name in lower case. Two classes of one name are refused when the second is defined, unless the second is the
    same class loaded anew.

    public
        may arrive through the control socket.
    durable
        sent through the control socket it becomes a job, so it survives the daemon.
    overflow
        what a full mailbox does (see `Overflow`); only types that may be lost use `drop_oldest`.
    """

    TYPE: ClassVar[str] = "message"
    VERSION: ClassVar[int] = 1
    PUBLIC: ClassVar[bool] = False
    DURABLE: ClassVar[bool] = False
    OVERFLOW: ClassVar[Overflow] = "wait"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Generic's own hook takes no arguments; ours are read by the pydantic one, when the class is whole.
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002  # the word of the envelope, of the wire and of the docs
        public: bool = False,
        durable: bool = False,
        overflow: Overflow = "wait",
        version: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__pydantic_generic_metadata__["args"] or cls.__pydantic_generic_metadata__["parameters"]:
            return  # Request[int] itself is no message, only what is derived from it
        cls.TYPE = type or cls.__name__.lower()
        cls.VERSION, cls.PUBLIC, cls.DURABLE, cls.OVERFLOW = version, public, durable, overflow
        known = MESSAGE_TYPES.get(cls.TYPE)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"message type {cls.TYPE!r} is declared twice: by {known.__module__}.{known.__qualname__} "
                f"and by {cls.__module__}.{cls.__qualname__}; give one of them another type= name"
            )
        MESSAGE_TYPES[cls.TYPE] = cls


MESSAGE_TYPES: dict[str, type[Message]] = {}
"""Every message class by its stable name."""


class PlainMessage:
    """A message that never leaves the process and is made for every job: a dataclass with slots, without validation.

    `@dataclass(slots=True) class Done(PlainMessage, type="demo.done")`: to the kernel it is a `Message` like any other.
    """

    __slots__ = ()

    TYPE: ClassVar[str] = "message"
    VERSION: ClassVar[int] = 1
    PUBLIC: ClassVar[bool] = False
    DURABLE: ClassVar[bool] = False
    OVERFLOW: ClassVar[Overflow] = "wait"

    def __init_subclass__(cls, *, type: str = "", overflow: Overflow = "wait") -> None:  # noqa: A002
        super().__init_subclass__()
        if type:  # a dataclass with slots is made twice, the second time without the words of the class line
            cls.TYPE, cls.OVERFLOW = type, overflow


AnyMessage: TypeAlias = Message | PlainMessage
"""What may be put in a mailbox."""


class Request(Message, Generic[R]):
    """A message that is answered: `class Add(Request[int])` makes `await ref.ask(Add(n=1))` an `int`."""

    @classmethod
    def reply_type(cls) -> Any:
        """What the answer is, as declared in `Request[...]`; None where nothing was declared."""
        for base in cls.__mro__:
            args = getattr(base, "__pydantic_generic_metadata__", {}).get("args")
            if args:
                return args[0]
        return None


class Ack(Model):
    """Done; there is nothing more to say."""


def literals(alias: Any) -> tuple[str, ...]:
    """Return the words a `Literal` allows."""
    return get_args(alias)
