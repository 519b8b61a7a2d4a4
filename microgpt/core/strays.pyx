# cython: language_level=3
"""Functions of the user's that run during a trace without being recorded: no guard watches what they read.

Operators of users' classes, __getattr__, functions of libraries and the like run functions of which a rewritten function
knows nothing. Where a trace meets any of these it is begun again: with hooks for operators, and while it lasts, its
thread's profiler looks at each function that begins. That takes twice as long.
"""
from types import FunctionType
from weakref import WeakKeyDictionary

cimport cython
from cpython.object cimport PyObject

from microgpt.core.recorder cimport Recorder, current

from microgpt.core.recorder import TraceError

cdef extern from *:
    """
    static int mg_is_profiled(void) { return PyThreadState_Get()->c_profilefunc != NULL; }
    static PyObject *mg_code_of(PyFrameObject *frame) { return (PyObject *)PyFrame_GetCode(frame); }
    static PyObject *mg_module_of(PyObject *f) /* of a function in C; NULL: none, or it is a method */
    {
        PyObject *self = f && PyCFunction_Check(f) ? PyCFunction_GET_SELF(f) : NULL;
        return self && PyModule_Check(self) ? self : NULL;
    }
    """
    ctypedef struct PyFrameObject
    ctypedef int (*Py_tracefunc)(PyObject *, PyFrameObject *, int, PyObject *) except -1
    void PyEval_SetProfile(Py_tracefunc function, PyObject *x)
    bint mg_is_profiled()
    object mg_code_of(PyFrameObject *frame)
    PyObject *mg_module_of(PyObject *f)
    int PyTrace_CALL, PyTrace_C_CALL

is_users_code = None  # compiler.rewrite.is_users_code, set when that module is loaded: code that is to be rewritten

#: Modules whose functions return something else from call to call or change something outside, but for a few.
CHANGING_MODULES = frozenset({"time", "posix", "nt", "_random", "sys", "gc", "_thread", "_socket", "_contextvars", "resource",
                              "_warnings", "atexit", "_signal"})
FIXED = frozenset({"intern", "getsizeof", "_getframe", "fspath", "allocate_lock"})


class Stray(TraceError):
    """A function of the user's runs as it is written."""


class NeedsCare(TraceError):
    """The trace has to begin again, carefully."""


def needs_care():
    """Begin the trace again, unless it is careful."""
    cdef Recorder trace = current()
    if not trace.careful:
        trace.needs_care = True
        raise NeedsCare("this trace has to begin again")


#: Methods of users' classes that are recorded wherever a function calls them, or that Python calls without being asked.
RECORDED = frozenset({"__init__", "__call__", "__repr__", "__str__", "__init_subclass__", "__post_init__", "__set_name__", "__del__",
                      "__class_getitem__", "__reduce__", "__getstate__", "__setstate__", "__reduce_ex__"})
cdef object verdicts_of_classes = WeakKeyDictionary()


def check_class(kind):
    """Begin again if objects of a user's class may run methods that are not recorded."""
    if not kind.__flags__ & 1 << 9 or current().careful:  # Py_TPFLAGS_HEAPTYPE
        return
    found = verdicts_of_classes.get(kind)
    if found is None or found[0] != [vars(base).keys() for base in kind.__mro__]:
        found = [[set(vars(base)) for base in kind.__mro__], may_stray(kind)]
        verdicts_of_classes[kind] = found
    if found[1]:
        needs_care()


cdef bint may_stray(object kind):
    for base in kind.__mro__:
        for name, x in vars(base).items():
            function = getattr(x, "__func__", x)
            if name.startswith("__") and name.endswith("__") and name not in RECORDED and isinstance(function, FunctionType):
                if is_users_code(function.__code__):
                    return True
            getter = getattr(type(x), "__get__", None)
            if isinstance(getter, FunctionType) and is_users_code(getter.__code__):
                return True
    return type(kind) is not type and may_stray(type(kind))


def check_c_function(module, f):
    """Raise TraceError for a function in C that returns something else from call to call, or changes something outside."""
    if module.__name__ in CHANGING_MODULES and f.__name__ not in FIXED:
        raise TraceError(f"{module.__name__}.{f.__name__}() in a compiled function: its result would be that of the trace in every "
                         "call, and what it does would happen when the function is traced")


@cython.final
cdef class Watch:
    """A context in which a stray function is an error, if the trace is careful and no profiler is at work already."""

    cdef dict verdicts  # id of code -> whether it may run unrecorded
    cdef list codes
    cdef bint active

    def __enter__(self):
        self.verdicts, self.codes, self.active = {}, [], current().careful and not mg_is_profiled()
        if self.active:
            PyEval_SetProfile(on_event, <PyObject *>self)
        return self

    def __exit__(self, *_):
        if self.active:
            PyEval_SetProfile(NULL, NULL)
        return False

    cdef bint may_run(self, object code) except -1:
        found = self.verdicts.get(id(code))
        if found is None:
            found = code.co_name == "<module>" or not is_users_code(code)
            self.verdicts[id(code)] = found
            self.codes.append(code)
        return found


cdef int on_event(PyObject *watch, PyFrameObject *frame, int what, PyObject *f) except -1:
    cdef PyObject *module
    cdef Recorder trace
    if what != PyTrace_CALL and what != PyTrace_C_CALL:
        return 0
    trace = current()
    if trace is None or trace.unrecorded:
        return 0
    if what == PyTrace_C_CALL:
        module = mg_module_of(f)
        if module != NULL and not mg_code_of(frame).co_filename.startswith("<frozen importlib"):
            check_c_function(<object>module, <object>f)
        return 0
    code = mg_code_of(frame)
    if not (<Watch>watch).may_run(code):
        raise Stray(f"{code.co_name}() (line {code.co_firstlineno} of {code.co_filename}) runs where it cannot be recorded, so "
                    "that what it reads would be a constant: call it by its name")
    return 0
