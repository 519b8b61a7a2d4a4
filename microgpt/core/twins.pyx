# cython: language_level=3
"""A user's functions and their twins, which record; and what the guards of a function are."""
from dis import get_instructions
from types import CodeType, FunctionType
from weakref import WeakKeyDictionary

from microgpt.core.recorder cimport Recorder, current

from microgpt.core.guards import MISSING
from microgpt.core.outside import add_root, guard, whole
from microgpt.core.reading import reading_all

rewrite = None  # compiler.rewrite.rewritten, set when that module is loaded: a user's function, with operators -> its twin
rewritten_codes = None  # compiler.rewrite.rewritten_codes: the codes of twins
is_user_code = None  # of a function: whether it is to be rewritten


def function_for(f):
    """What is called for a function: its twin that records, or one of a library as it is."""
    cdef Recorder trace = current()
    g = trace.functions.get(f)
    if g is None:
        trace.unrecorded += 1  # reading a source asks the system for files
        try:
            g = (rewrite(f, trace.careful) if is_user_code(f)
                 else f if f.__code__ in rewritten_codes else reading_all(f))
        finally:
            trace.unrecorded -= 1
        trace.functions[f] = g
        if type(g) is FunctionType and g is not f:
            guard_function(f)
    return g


def is_users(f):
    """is_user_code, which asks the system for paths."""
    cdef Recorder trace = current()
    trace.unrecorded += 1
    try:
        return is_user_code(f)
    finally:
        trace.unrecorded -= 1


cdef object global_names = WeakKeyDictionary()  # code -> the globals that it reads, functions within included


cdef set names_in(code):
    found = global_names.get(code)
    if found is None:
        found = set()
        for instruction in get_instructions(code):
            if instruction.opname == "LOAD_GLOBAL" or instruction.opname == "LOAD_NAME":
                found.add(instruction.argval)
        for constant in code.co_consts:
            if type(constant) is CodeType:
                found |= names_in(constant)
        global_names[code] = found
    return found


cdef int guard_function(object f) except -1:
    """What a function reads by name from outside, its code and its defaults."""
    cdef Recorder trace = current()
    held, built_in = f.__globals__, f.__builtins__
    for name in names_in(f.__code__):
        guard("global", held, name, held.get(name, MISSING))
        if name not in held and type(built_in) is dict:
            guard("global", built_in, name, built_in.get(name, MISSING))
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
        try:
            guard("cell", cell, name, cell.cell_contents)
        except ValueError:  # empty
            pass
    guard("function", f, f.__name__, (f.__code__, f.__defaults__, f.__kwdefaults__))
    for default in f.__defaults__ or ():
        trace.outside.append(default)
        add_root(f.__name__, default)
    if f.__kwdefaults__:
        trace.outside.append(f.__kwdefaults__)
        whole(f.__kwdefaults__)
    return 0
