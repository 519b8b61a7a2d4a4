"""What a compiled function says of itself: `explain()`, and the names of arguments, shapes and errors."""
import inspect
import traceback

from ..core.recorder import TraceError
from ..core.value import Value
from . import rewrite

MANY_ITEMS = 100_000  # compared before every call, which takes some ten microseconds
MANY = 8  # shapes, objects, calls of compile() that are worth a line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet
    from typing import Any

    from ..core.dispatch import Entry
    from ..core.recorder import Guard
    from .compiled import Compiled


def explain(compiled: "Compiled[Any, Any]") -> str:
    """What was compiled and what was not, shape by shape, why, and what it costs."""
    entries = list(compiled.entries.values())
    lines = [f"{compiled.__qualname__}: {len(entries)} of at most {compiled.most_shapes} shapes"]
    lines += _of_all(compiled, entries, compiled.most_shapes)
    if compiled.calls_before > compiled.calls_at_first:
        lines.append(f"  compiling was often of no use: a shape is compiled at its call number {compiled.needed()} from now on, so that "
                     "little more time is lost")
    for entry in entries:
        lines += _of_one(compiled, entry)
    return "\n".join(lines)


def _of_all(compiled: "Compiled[Any, Any]", entries: "list[Entry]", most: int) -> "Iterator[str]":
    """What holds for no shape alone."""
    for why, n in compiled.missed.items():
        yield f"  {n} calls ran as written: {why}"
    if compiled.dropped:
        yield (f"  {compiled.dropped} shapes were dropped, because more than {most} are in use; {compiled.dropped_early} of them "
               "had cost more to compile than they saved. A shape that comes again starts over")
    if compiled.made_before >= MANY and not any(entry.replays for entry in entries):
        yield (f"  compile() was called {compiled.made_before + 1} times with this function, and each time all of it starts over: call it "
               "once, before the loop")
    kept = [entry.kept for entry in entries]
    for i, name in enumerate(names(compiled.function, max(map(len, kept), default=0))):
        given = [arguments[i] for arguments in kept if i < len(arguments)]
        kinds = {shape((x,), {0} if i in compiled.static else set()) for x in given}
        others = {number for x in given for number, _ in _identities(x)}
        if len(kinds) >= MANY:
            yield (f"  the argument {name} has {len(kinds)} of these shapes: other lengths, other text, ints where others are floats, "
                   "or other static numbers")
        elif len(others) >= MANY:
            kind = next(kind for x in given for _, kind in _identities(x))
            yield (f"  the argument {name} is, or holds, another {kind} in nearly every call, and each is a shape of its own: pass the "
                   "same one, or its numbers")


def _of_one(compiled: "Compiled[Any, Any]", entry: "Entry") -> "Iterator[str]":
    name, program = shape(entry.kept, compiled.static), entry.program
    if program is None:
        yield f"  {name}: as written: " + (entry.why or f"called {entry.calls} of {compiled.needed()} times as written before it "
                                                        "is compiled")
    else:
        info = program.info
        trace_ms, compile_ms = entry.timing
        yield (f"  {name}: compiled: {info['nodes']} nodes in {sum(info['instructions'])} instructions, traced in "
               f"{trace_ms:.1f} ms, compiled in {compile_ms:.1f} ms, {(info['bytes'] + info['frame_bytes']) >> 10} KiB")
        if program.dynamic:
            yield (f"    backward(): {program.dynamic}. So the graph is written out and sorted in every call: the same bits, "
                   "several times slower")
        elif info["written_out"]:
            yield (f"    the graph of {info['written_out']} calls was written out, which takes several times as long as the call: "
                   "for a backward() of another result than the first, a second backward(), or _children")
        if entry.compared > MANY_ITEMS:
            yield (f"    {entry.compared:,} items of lists and dicts from outside are compared before every call, to see whether they "
                   "are still the same")
        if not entry.verified and compiled.verify:
            yield "    not compared with the function as written: Python raised an error, or nothing could be compared"
    for why, n in entry.missed.items():
        yield f"    {n} calls ran as written, at its speed: {why}"
    if entry.traced > 1:
        why = f", because {entry.broken} had changed" if entry.broken else ""
        yield f"    traced {entry.traced} times{why}; each took as long as a few calls as written"


def _identities(x: "Any") -> "Iterator[tuple[int, str]]":
    """What makes a shape by its identity, in nested lists: id and type."""
    if isinstance(x, (list, tuple)):
        for item in x:
            yield from _identities(item)
    elif x is not None and not isinstance(x, (bool, int, float, str, Value)):
        yield id(x), type(x).__name__


def names(function: "Callable[..., Any]", n: int) -> "list[str]":
    """Return the names of the first n arguments of a function; "argument i" of those that it does not name."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    return [*names[:n], *(f"argument {i}" for i in range(len(names), n))]


def of_error(error: Exception) -> str:
    """An error of the trace, with the user's line that it comes from."""
    text = str(error) if isinstance(error, TraceError) else f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if rewrite.is_users_file(frame.filename) and frame.filename.endswith(".py")]
    if frames:
        text = f"{frames[-1].filename}:{frames[-1].lineno}: {text}"
    return text


def shape(arguments: "tuple[Any, ...]", static: "AbstractSet[int]") -> str:
    """Return what a compiled function distinguishes of its arguments, such as "(list of 3 Value, float)". static: their indices."""
    def name(x: "Any", is_static: bool = False) -> str:
        if isinstance(x, Value):
            return "Value"
        if is_static or x is None or isinstance(x, (bool, str)):
            return repr(x)
        if isinstance(x, (list, tuple)):
            inner = [name(item) for item in x]
            kind = type(x).__name__
            if inner and len(set(inner)) == 1:
                return f"{kind} of {len(inner)} {inner[0]}"
            return f"{kind}({', '.join(inner[:4])}{', ...' if len(inner) > 4 else ''})"
        return type(x).__name__

    return f"({', '.join(name(x, i in static) for i, x in enumerate(arguments))})"


def of_guard(guard: "Guard") -> str:
    """Return what a guard compares, such as "what weights holds"."""
    kind, holder, name, _ = guard
    if kind == "attribute" or kind == "class":
        return f"{holder.__name__ if isinstance(holder, type) else type(holder).__name__}.{name}"
    if kind in ("list", "items", "keys", "entries", "bytes"):
        return f"what {name} holds"
    return f"{getattr(holder, '__name__', 'a function')}()" if kind in ("function", "cached") else f"{name!r}"
