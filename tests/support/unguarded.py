"""Functions that read from outside what no guard can compare, and what changes it: see guarded_containers."""
import contextvars
import dataclasses
import datetime
import itertools
import sys
import uuid

import numpy
from guarded_containers import Object, W, key_of_a_users_class


def getattr_of_a_class():
    class A:
        k = 2.0

        def __getattr__(self, name):
            return self.k

    o = A()
    return lambda xs: W * o.j * xs[0], lambda: setattr(o, "k", 5.0)


def truth_of_an_object():
    class A:
        k = True

        def __bool__(self):
            return self.k

    o = A()
    return lambda xs: W * (2.0 if o else 3.0) * xs[0], lambda: setattr(o, "k", False)


def equal_dataclasses():
    @dataclasses.dataclass
    class A:
        k: float = 2.0

    o, other = A(), A()
    return lambda xs: W * (2.0 if o == other else 3.0) * xs[0], lambda: setattr(o, "k", 5.0)


def text_of_an_object():
    class A:
        k = 2.0

        def __repr__(self):
            return str(self.k)

    o = A()
    return lambda xs: W * float(f"{o}") * float(str(o)) * xs[0], lambda: setattr(o, "k", 5.0)


def descriptor():
    class D:
        k = 2.0

        def __get__(self, o, kind):
            return self.k

    class A:
        k = D()

    o = A()
    return lambda xs: W * o.k * xs[0], lambda: setattr(A.__dict__["k"], "k", 5.0)


def counter():
    k = itertools.count(1)
    return lambda xs: W * next(k) * xs[0], lambda: None


def generator():
    k = (float(i) for i in range(1, 100))
    return lambda xs: W * next(k) * xs[0], lambda: None


def context_variable():
    k = contextvars.ContextVar("k", default=2.0)
    return lambda xs: W * k.get() * xs[0], lambda: k.set(5.0)


def recursion_limit():
    return lambda xs: W * sys.getrecursionlimit() * xs[0], lambda: None


def the_time():
    return lambda xs: W * datetime.datetime.now().timestamp() * xs[0], lambda: None


def random_numbers_of_numpy():
    return lambda xs: W * float(numpy.random.rand()) * xs[0], lambda: None


def random_numbers_within_a_library():
    return lambda xs: W * float(uuid.uuid4().int) * xs[0], lambda: None


def matched_dict():
    k = {"a": 2.0}

    def f(xs):
        match k:
            case {"a": a}:
                return W * a * xs[0]

    return f, lambda: k.update(a=5.0)


def matched_object():
    o = Object(k=2.0)

    def f(xs):
        match o:
            case Object(k=k):
                return W * k * xs[0]

    return f, lambda: setattr(o, "k", 5.0)


def large_array():
    k = numpy.ones(200_000)
    return lambda xs: W * float(k[0]) * xs[0], lambda: k.__setitem__(0, 5.0)


CASES = [getattr_of_a_class, truth_of_an_object, equal_dataclasses, text_of_an_object, descriptor, key_of_a_users_class, counter,
           generator, context_variable, recursion_limit, the_time, random_numbers_of_numpy, random_numbers_within_a_library,
           matched_dict, matched_object, large_array]
