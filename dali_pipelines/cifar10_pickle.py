"""Reads the pickles of CIFAR-10 without unpickling them.

A pickle is a program for a machine with a stack, and Python's own machine calls whatever it names and reserves whatever
memory it asks for. The one here knows the instructions that the official files and numpy's arrays of bytes are made of.
It calls nothing, builds dictionaries, lists, texts, numbers and such arrays, and the file's size bounds its memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PickleError(Exception):
    """What is wrong with a pickle, in a few words."""


@dataclass(slots=True)
class _Named:
    """Something that a pickle asks for by name, and what was done to it: the arguments of a call, a state."""

    name: str
    called_with: tuple[Any, ...] | None = None
    state: tuple[Any, ...] | None = None


@dataclass(slots=True)
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self, count: int = 1) -> list[Any]:
        """The last values of the stack, the top one last, none from below a mark."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise PickleError("its stack runs empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError("it has no mark")
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise PickleError(f"it has no {kind.__name__} to fill")
        return self.stack[-1]


def read_pickle(content: bytes) -> Any:
    """What the pickle holds, its texts as str and its arrays as (n, ...) uint8. Raises PickleError."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                (value,) = machine.pop()
                return _finished(value)
            if opcode.name not in _INSTRUCTIONS:
                raise PickleError(f"it asks for {opcode.name}")
            _INSTRUCTIONS[opcode.name](machine, argument)
    except ValueError as error:  # pickletools' of a pickle that is cut short, numpy's of a shape, of Unicode
        raise PickleError(str(error)[:100]) from None
    raise PickleError("it has no end")


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _mark(machine: _Machine, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _name(machine: _Machine, argument: str) -> None:
    name = argument.replace(" ", ".").replace("numpy._core.", "numpy.core.")
    if name not in ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"):
        raise PickleError(f"it asks for {name[:80]}")
    machine.stack.append(_Named(name))


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.pop(count)))


def _append(machine: _Machine, _: Any) -> None:
    (item,) = machine.pop()
    machine.top(list).append(item)


def _append_all(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    machine.top(list).extend(items)


def _set_all(machine: _Machine, items: list[Any]) -> None:
    if len(items) % 2 or not all(type(key) in (str, bytes) for key in items[::2]):
        raise PickleError("its keys are no texts")
    keys = [key if type(key) is str else key.decode("latin1") for key in map(_finished, items[::2])]
    machine.top(dict).update(zip(keys, map(_finished, items[1::2]), strict=True))


def _call(machine: _Machine, _: Any) -> None:
    called, arguments = machine.pop(2)
    if type(called) is not _Named or called.called_with is not None or type(arguments) is not tuple:
        raise PickleError("it calls what is no function")
    if called.name == "_codecs.encode":  # how Python 3 writes bytes for Python 2
        if len(arguments) != 2 or type(arguments[0]) is not str:
            raise PickleError("it encodes what is no text")
        machine.stack.append(arguments[0].encode("latin1"))
    else:
        machine.stack.append(_Named(called.name, called_with=arguments))


def _build(machine: _Machine, _: Any) -> None:
    (state,) = machine.pop()
    built = machine.top(_Named)
    if built.called_with is None or type(state) is not tuple:
        raise PickleError("it gives a state to what has none")
    built.state = state


def _get(machine: _Machine, place: int) -> None:
    if place not in machine.memo:
        raise PickleError("it remembers what it never said")
    machine.stack.append(machine.memo[place])


def _put(machine: _Machine, place: int) -> None:
    if not machine.stack:
        raise PickleError("its stack runs empty")
    machine.memo[place] = machine.stack[-1]


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "MARK": _mark,
    "GLOBAL": _name,
    "REDUCE": _call,
    "BUILD": _build,
    "NONE": _push,
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    **dict.fromkeys(("BININT", "BININT1", "BININT2"), _push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), _push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES"), _push),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "APPEND": _append,
    "APPENDS": _append_all,
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "SETITEM": lambda machine, _: _set_all(machine, machine.pop(2)),
    "SETITEMS": lambda machine, _: _set_all(machine, machine.pop_to_mark()),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
}


def _finished(value: Any) -> Any:
    """The value, an array made of the calls that would make it."""
    return _array(value) if type(value) is _Named else value


def _array(built: _Named) -> NDArray[np.uint8]:
    """numpy's state of an array: version, shape, type, whether it is in Fortran's order, bytes."""
    numbers = "numpy.core.multiarray._reconstruct", "numpy.dtype"
    match built.state:
        case (
            1,
            tuple(shape),
            _Named(called_with=(str() | bytes() as kind, *_)) as dtype,
            False,
            str() | bytes() as raw,
        ):
            if (built.name, dtype.name) != numbers or kind not in ("u1", b"u1"):
                raise PickleError(f"it holds numbers of type {kind[:20]!r}")
            # Python 2 wrote bytes as text, which pickletools reads as Latin-1.
            raw = raw.encode("latin1") if isinstance(raw, str) else raw
            if not all(type(side) is int and 0 <= side <= len(raw) for side in shape):
                raise PickleError("it holds an array without its numbers")
            return np.frombuffer(raw, dtype=np.uint8).reshape(shape)
    raise PickleError("it holds an array that is none of bytes")
