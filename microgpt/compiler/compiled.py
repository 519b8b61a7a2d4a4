"""`compile`: when a call of a user's function runs as written, when it is traced and compared, and when it is replayed."""
import functools
import inspect
import time
import types
import warnings
import weakref
from typing import Generic, ParamSpec, TypeVar, overload  # Generic makes compiled functions keep the types of theirs

from ..core import hooks
from ..core.dispatch import Dispatcher, Entry, plainly
from ..core.replay import Program, Unsupported
from ..core.tracing import Trace
from ..core.value import Value
from . import compare, structure, words
from .record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Literal, TypeAlias

    from ..core.recorder import Guard
    from .record import Recording

    _Arguments: TypeAlias = tuple[Any, ...]

_P = ParamSpec("_P")
_R = TypeVar("_R")

MOST_SHAPES = 64  # of one function; the one used longest ago goes first
CALLS_BEFORE = 2  # of a shape that run as written; the last of them is also traced and compared
FEW_REPLAYS = 8  # a program that was replayed less often than this has cost more than it saved
MOST_IN_VAIN = 8  # programs of so little use, or traces that failed, until a function or a shape is compiled later, or not at all
# Code -> how often `compile` was called with a function of it: in a loop, perhaps.
_made: "weakref.WeakKeyDictionary[types.CodeType, int]" = weakref.WeakKeyDictionary()


class CompileError(TypeError):
    """A function, or one shape of its arguments, cannot be compiled; raised with fallback="error" only."""


class Compiled(Dispatcher, Generic[_P, _R]):
    """A function that is compiled once for each shape of its arguments. Made by `compile`."""

    __name__: str
    __qualname__: str
    most_shapes, calls_at_first = MOST_SHAPES, CALLS_BEFORE

    if TYPE_CHECKING:  # the call itself is compiled

        def __call__(self, *arguments: _P.args, **named: _P.kwargs) -> _R: ...

    def __init__(
        self,
        function: "Callable[_P, _R]",
        static: "str | int | Iterable[str | int]",
        verify: "Literal['first', 'always', False]",
        fallback: "Literal['eager', 'error']",
        with_grad: bool,
    ) -> None:
        self.__wrapped__ = function
        self.__compiled_function__ = function
        code = getattr(function, "__code__", None)
        self.made_before = _made.get(code, 0) if code is not None else 0
        if code is not None:
            _made[code] = self.made_before + 1
        named: Any = function
        while isinstance(named, functools.partial):  # it has no name, and its text is not about what it calls
            named = named.func
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(self, name, getattr(named, name, getattr(type(named), name, None)))
        self.verify, self.fallback = verify, fallback
        self._known_signature: tuple[tuple[Any, ...], inspect.Signature] | None = None
        super().__init__(function, self._positions(static), with_grad)
        self.always_verify = verify == "always"
        self._careful = False  # how this function is traced: see core/strays.pyx
        self._in_vain = 0  # traces that failed and programs of little use since `calls_before` was raised
        self.calls_before = CALLS_BEFORE  # with verify=False and "always", half of it
        self.dropped = self.dropped_early = 0  # shapes beyond MOST_SHAPES; those whose program was of little use
        self.missed: dict[str, int] = {}  # why calls ran as written that no shape counts -> how many

    def _positions(self, static: "str | int | Iterable[str | int]") -> "list[int]":
        """Names or positions of arguments as positions."""
        if isinstance(static, (str, int)):
            static = (static,) if static != "" else ()
        elif not hasattr(static, "__iter__"):
            raise TypeError(f"static={static!r}: names or positions of arguments")
        positions: list[int] = []
        for which in static:
            if isinstance(which, bool) or not isinstance(which, (str, int)):
                raise TypeError(f"static={which!r}: names or positions of arguments")
            parameters = self._signature.parameters
            names = list(parameters)
            if isinstance(which, str):
                if which not in names:
                    raise ValueError(f"static={which!r}: {self.__name__}() has no such argument ({', '.join(names)})")
                if parameters[which].kind not in (parameters[which].POSITIONAL_ONLY, parameters[which].POSITIONAL_OR_KEYWORD):
                    raise ValueError(f"static={which!r}: only arguments that can be passed by position can be static")
                which = names.index(which)
            starred = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values())
            if which < 0 or (which >= len(names) and not starred):
                raise ValueError(f"static={which!r}: {self.__name__}() has {len(names)} arguments, counted from 0")
            positions.append(which)
        return positions

    @property
    def _signature(self) -> inspect.Signature:
        """The function's signature, read again if its defaults were replaced."""
        parts, known = _parts(self.__wrapped__), self._known_signature
        if known is None or len(known[0]) != len(parts) or not parts or any(x is not y for x, y in zip(known[0], parts)):
            known = self._known_signature = (parts, inspect.signature(self.__wrapped__))
        return known[1]

    def __get__(self, instance: object, owner: "type | None" = None) -> "Any":
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<compiled function {self.__qualname__}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # like a function: by its name

    def positional(self, arguments: "_Arguments", named: "Mapping[str, Any]") -> "_Arguments | None":
        """A call's arguments without names, defaults filled in where they are needed for that; None: they have to be named."""
        bound = self._signature.bind(*arguments, **named)
        if bound.kwargs:
            bound.apply_defaults()
        if bound.kwargs:
            self._missed("a keyword-only argument was passed: only arguments that can be passed by position can be compiled")
            return None
        return bound.args

    def traced_call(self, arguments: "_Arguments", named: "Mapping[str, Any]") -> "Any":
        """A call within the trace of another compiled function."""
        return hooks.called(self.function)(*arguments, **named)

    def _missed(self, why: str) -> None:
        """Count a call that runs as written, whatever its shape."""
        self._refuse(why)
        self.missed[why] = self.missed.get(why, 0) + 1

    # ---- calls that are not replayed ----

    def first_call(self, signature: bytes, arguments: "_Arguments", odd: bool) -> "Any":
        """A shape that is not known yet, or arguments that no program is for."""
        if odd:
            self._missed(structure.odd_argument(arguments) or "a Value that is computed from others as argument: pass what it is "
                         "computed from")
            return self.function(*arguments)
        entry = self._new_entry(signature, arguments)
        for forgotten in self.evict(self.most_shapes):
            self.dropped += 1
            if forgotten.program is not None and forgotten.replays < FEW_REPLAYS:
                self.dropped_early += 1
                self._one_in_vain()
        return self.later_call(entry, signature, arguments)

    def _one_in_vain(self) -> None:
        """A trace that failed, or a program that was hardly replayed: after some of them a shape is compiled at a later call."""
        self._in_vain += 1
        if self._in_vain == MOST_IN_VAIN:
            self._in_vain = 0
            self.calls_before = min(2 * self.calls_before, 1 << 16)

    def _new_entry(self, signature: bytes, kept: "_Arguments") -> Entry:
        """Another entry for a shape; threads that replay the one before keep its program, guards and results together."""
        entry = Entry()
        entry.kept = kept
        self.entries[signature] = entry
        self.touch(entry)
        return entry

    def _discarded(self, entry: Entry, signature: bytes, broken: "Guard") -> Entry:
        """The entry of a shape whose program no longer holds: it is traced again, but not for ever."""
        retraced = entry.retraced + 1 if entry.replays < FEW_REPLAYS else 0
        name, traced = words.of_guard(broken), entry.traced
        entry = self._new_entry(signature, entry.kept)
        entry.calls, entry.retraced, entry.broken, entry.traced = self.needed() - 1, retraced, name, traced
        if retraced > MOST_IN_VAIN:
            entry.why = f"{name} changes from call to call: pass it as an argument"
            self._refuse(entry.why)
        return entry

    def needed(self) -> int:
        """The call of a shape in which it is traced."""
        return self.calls_before if self.verify == "first" else self.calls_before // 2

    def later_call(self, entry: Entry, signature: bytes, arguments: "_Arguments") -> "Any":
        if entry.program is not None:
            broken = entry.check_guards()
            if broken is not None:
                entry = self._discarded(entry, signature, broken)
            else:
                return self._verified_call(entry, signature, arguments)
        entry.calls += 1
        if entry.why is not None or entry.calls < self.needed():
            return self.function(*arguments)
        if self.verify is False:
            compiled = self._compile(entry, signature, arguments)
            return self.function(*arguments) if compiled is None else self._replayed(compiled, arguments)
        compiled = self._compile(entry, signature, arguments)
        if compiled is not None:
            return self._verified_call(compiled, signature, arguments)
        try:
            return self.function(*arguments)
        except Exception as error:
            if entry.traced < MOST_IN_VAIN:  # these arguments are at fault: try again with others
                entry.calls, entry.why = entry.calls - 1, None
            else:
                entry.why = f"it raises an error ({type(error).__name__}) wherever it could be traced"
            raise

    def _replayed(self, entry: Entry, arguments: "_Arguments") -> "Any":
        results = self.replay_now(entry, arguments)
        if results is None:
            return self.function(*arguments)
        entry.replays += 1
        return results[0] if entry.results is None else self.put_together(entry, results, arguments)

    def _verified_call(self, entry: Entry, signature: bytes, arguments: "_Arguments") -> "Any":
        """Both as written and replayed: the result of the function as written, if they agree or not."""
        lengths = None if self.with_grad else [(x, len(x)) for argument in arguments for x in structure.lists_in(argument, [])]
        program = entry.program  # another thread may replace it while this one runs the function
        results = self.replay_now(entry, arguments)
        result = plainly(self.function, arguments)
        entry.verified = False
        if results is None or program is None:  # Python should have raised an error
            return result
        grown: list[list[Any]] = []
        if entry.results is None:
            found = results[0]
        else:
            found, grown = self._built(entry, results)
        appended = [] if lengths is None else [x[n:] for x, n in lengths]
        difference = compare.difference(program, arguments, (result, appended), (found, grown), results[0])
        entry.verified = difference is None
        if difference:
            broken = entry.check_guards()
            if broken is None:
                self._report(entry, difference)
            else:  # another thread changed what the function reads between the two
                self._discarded(entry, signature, broken)
        return result

    # ---- compiling ----

    def _compile(self, entry: Entry, signature: bytes, arguments: "_Arguments") -> "Entry | None":
        """Trace and compile: an entry with the program, or None, and the entry says why."""
        before = time.perf_counter()
        entry.traced += 1
        try:
            trace, results, roots, shape, guards = self._trace(arguments)
            traced = time.perf_counter()
            program = Program(trace, results, roots, self.with_grad)
        except Unsupported as error:
            self._give_up(entry, str(error), None)
            return None
        except Exception as error:
            self._give_up(entry, None, error)
            return None
        compiled = Entry()
        compiled.program, compiled.guards, compiled.results = program, guards, shape
        compiled.retraced, compiled.traced, compiled.broken = entry.retraced, entry.traced, entry.broken
        compiled.timing = (1e3 * (traced - before), 1e3 * (time.perf_counter() - traced))
        compiled.kept, compiled.calls = entry.kept, entry.calls
        self.entries[signature] = compiled  # other threads see all of it, or nothing
        self.touch(compiled)
        return compiled

    def _give_up(self, entry: Entry, why: "str | None", error: "Exception | None") -> None:
        entry.program = None
        entry.why = why if error is None else words.of_error(error)
        self._one_in_vain()
        self._refuse(entry.why, error)

    def _refuse(self, why: "str | None", error: "Exception | None" = None) -> None:
        if self.fallback == "error":
            raise CompileError(f"{self.__name__}() cannot be compiled: {why}") from error

    def _trace(self, arguments: "_Arguments") -> "Recording":
        """Record the call; once more and with care, if that is what the function needs."""
        trace = Trace()
        trace.careful = self._careful
        try:
            return record(trace, self.function, arguments, self.with_grad, self.static)
        except Exception:
            if not trace.needs_care:
                raise
        trace, self._careful = Trace(), True
        trace.careful = True
        return record(trace, self.function, arguments, self.with_grad, self.static)

    def _built(self, entry: Entry, results: "Sequence[Any]") -> "tuple[Any, list[list[Any]]]":
        """A result, and what is appended to each list argument."""
        shape, grown, are_values = entry.results
        if not self.with_grad:
            results = [Value(x) if is_value else x for x, is_value in zip(results, are_values)]
        return structure.build(shape, results), [structure.build(items, results) for items in grown]

    def put_together(self, entry: Entry, results: "Sequence[Any]", arguments: "_Arguments") -> "Any":
        result, grown = self._built(entry, results)
        if grown:
            lists = [inner for x in arguments for inner in structure.lists_in(x, [])]
            for inner, items in zip(lists, grown):
                inner.extend(items)
        return result

    # ---- comparing ----

    def _report(self, entry: Entry, difference: str) -> None:
        """Never replay a program again that differs from the function as written, and warn."""
        entry.program = None
        entry.why = f"the compiled program differs from the function as written: {difference}"
        self._refuse(entry.why)
        warnings.warn(f"microgpt.compile: {self.__name__}(): {entry.why}. It runs as written. Please report this",
                      RuntimeWarning, stacklevel=4)

    def explain(self) -> str:
        """What was compiled and what was not, for every shape that was called, why, and what it costs: text."""
        return words.explain(self)


@overload
def compile(
    function: "Callable[_P, _R]",
    *,
    static: "str | int | Iterable[str | int]" = (),
    verify: "Literal['first', 'always', False]" = "first",
    fallback: "Literal['eager', 'error']" = "eager",
    grad: bool = True,
) -> "Compiled[_P, _R]": ...
@overload
def compile(
    function: None = None,
    *,
    static: "str | int | Iterable[str | int]" = (),
    verify: "Literal['first', 'always', False]" = "first",
    fallback: "Literal['eager', 'error']" = "eager",
    grad: bool = True,
) -> "Callable[[Callable[_P, _R]], Compiled[_P, _R]]": ...
def compile(
    function: "Callable[_P, _R] | None" = None,
    *,
    static: "str | int | Iterable[str | int]" = (),
    verify: "Literal['first', 'always', False]" = "first",
    fallback: "Literal['eager', 'error']" = "eager",
    grad: bool = True,
) -> "Compiled[_P, _R] | Callable[[Callable[_P, _R]], Compiled[_P, _R]]":
    """Compile a function of your own over `Value`: the same bits, replayed in compiled code.

    The function is run as written for the first two calls of each shape of its arguments; in the second it is traced as
    well, and what was compiled is compared with it, bit for bit. From the third call on the program is replayed.

    Ints and floats in arguments (and in lists of them) may differ from call to call; lengths, text, bools and objects make
    a shape. Leaf Values from outside are read and differentiated as they are at each call. At most 64 shapes are kept.

    static: names or positions (from 0) of int or float arguments of which each value makes a shape.  verify: "first"; "always", which runs
    both every time; False.  fallback: "eager" runs as written what cannot be compiled (`explain()` says why), "error"
    raises CompileError.  grad=False: for inference. Values in arguments count as numbers, results have no graph, and the
    function may append to lists that it is given.
    """
    if verify not in ("first", "always", False):
        raise ValueError(f'verify={verify!r}: "first", "always" or False')
    if fallback not in ("eager", "error"):
        raise ValueError(f'fallback={fallback!r}: "eager" or "error"')
    if function is None:
        return lambda f: compile(f, static=static, verify=verify, fallback=fallback, grad=grad)
    if isinstance(function, Compiled):
        function = function.__wrapped__
    if not callable(function):
        raise TypeError(f"compile() takes a function, not {type(function).__name__!r}")
    return Compiled(function, static, verify, fallback, bool(grad))


def _parts(function: "Any") -> "tuple[Any, ...]":
    """What the signature of a function depends on; empty: something else is called."""
    function = inspect.unwrap(function)
    if not isinstance(function, (types.FunctionType, types.MethodType)):
        function = vars(type(function)).get("__call__")
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        return ()
    named = function.__kwdefaults__ or {}
    return (function.__code__, function.__defaults__, *named, *named.values())
