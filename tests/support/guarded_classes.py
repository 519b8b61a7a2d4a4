"""Functions that read attributes, classes and built-in functions from outside, and what changes those: see guarded_containers."""
import builtins
import functools
import operator
import os
import types

from guarded_containers import Object, W, function_of


def attribute_of_a_class():
    class A:
        k = 2.0

    o = A()
    return lambda xs: W * o.k * xs[0], lambda: setattr(A, "k", 5.0)


def attribute_of_a_base():
    class A:
        k = 2.0

    class B(A):
        pass

    return lambda xs: W * B.k * B().k * xs[0], lambda: setattr(A, "k", 5.0)


def attribute_of_a_class_hidden():
    class A:
        k = 2.0

    o = A()
    return lambda xs: W * o.k * xs[0], lambda: setattr(o, "k", 5.0)


def attribute_made_later():
    o = Object()

    def f(xs):
        try:
            k = o.k
        except AttributeError:
            k = 1.0
        return W * k * xs[0]

    return f, lambda: setattr(o, "k", 5.0)


def slot():
    class A:
        __slots__ = ("k",)

    o = A()
    o.k = 2.0
    return lambda xs: W * o.k * xs[0], lambda: setattr(o, "k", 5.0)


def method_of_a_class():
    class A:
        def g(self, x):
            return x * 2.0

    o = A()
    return lambda xs: o.g(W) * A().g(W) * xs[0], lambda: setattr(A, "g", lambda self, x: x * 5.0)


def method_hidden():
    class A:
        def g(self, x):
            return x * 2.0

    o = A()
    return lambda xs: o.g(W) * xs[0], lambda: setattr(o, "g", lambda x: x * 5.0)


def static_and_class_methods():
    class A:
        @staticmethod
        def s(x):
            return x * 2.0

        @classmethod
        def c(cls, x):
            return x * 2.0

    o = A()
    return lambda xs: o.s(W) * o.c(W) * xs[0], lambda: setattr(A, "c", classmethod(lambda cls, x: x * 5.0))


def method_of_a_base():
    class A:
        def g(self, x):
            return x * 2.0

    class B(A):
        def g(self, x):
            return super().g(x)

    o = B()
    return lambda xs: o.g(W) * xs[0], lambda: setattr(A, "g", lambda self, x: x * 5.0)


def replaced_property():
    class A:
        @property
        def k(self):
            return 2.0

    o = A()
    return lambda xs: W * o.k * xs[0], lambda: setattr(A, "k", property(lambda self: 5.0))


def replaced_call():
    class A:
        def __call__(self, xs):
            return W * 2.0 * xs[0]

    return A(), lambda: setattr(A, "__call__", lambda self, xs: W * 5.0 * xs[0])


def class_of_an_object():
    class A:
        k = 2.0

    class B:
        k = 5.0

    o = A()
    return lambda xs: W * o.k * (2.0 if isinstance(o, A) else 3.0) * xs[0], lambda: setattr(o, "__class__", B)


def attributes_by_name():
    o = Object(k=2.0)
    return (lambda xs: W * getattr(o, "k") * (2.0 if hasattr(o, "j") else 1.0) * getattr(o, "j", 1.0) * xs[0],  # noqa: B009
            lambda: setattr(o, "j", 5.0))


def getters():
    o, k = Object(k=2.0), {"a": 2.0}
    attribute, item = operator.attrgetter("k"), operator.itemgetter("a")
    return (lambda xs: W * attribute(o) * item(k) * operator.getitem(k, "a") * vars(o)["k"] * xs[0],
            lambda: (setattr(o, "k", 5.0), k.update(a=4.0)))


def keywords_of_a_partial():
    def g(x, k=1.0):
        return x * k

    p = functools.partial(g, k=2.0)
    return lambda xs: p(W) * xs[0], lambda: p.keywords.update(k=5.0)


def partial_itself():
    p = functools.partial(lambda xs, k: W * k * xs[0], k=2.0)
    return p, lambda: p.keywords.update(k=5.0)


def builtin_hidden_by_a_global():
    f, names = function_of("def f(xs): return W * abs(-2.0) * xs[0]\n")
    return f, lambda: names.update(abs=lambda x: 5.0)


def global_made_later():
    f, names = function_of("def f(xs):\n try: return W * K * xs[0]\n except NameError: return W * 9.0 * xs[0]\n")
    return f, lambda: names.update(K=2.0)


def global_deleted():
    f, names = function_of("def f(xs):\n try: return W * K * xs[0]\n except NameError: return W * 9.0 * xs[0]\n", K=2.0)
    return f, lambda: names.pop("K")


def replaced_builtin():
    mine = {**vars(builtins)}
    f, _ = function_of("def f(xs): return W * abs(-2.0) * xs[0]\n", __builtins__=mine)
    return f, lambda: mine.update(abs=lambda x: 5.0)


def function_of_a_module():
    module = types.ModuleType("module")
    module.g = lambda x: x * 2.0
    return lambda xs: module.g(W) * xs[0], lambda: setattr(module, "g", lambda x: x * 5.0)


def function_with_a_cache():
    k = [2.0]

    @functools.lru_cache
    def g(x):
        return x * k[0]

    return lambda xs: W * g(2.0) * xs[0], lambda: (k.__setitem__(0, 5.0), g.cache_clear())


def environment():
    os.environ["MICROGPT_TEST"] = "2"
    return lambda xs: W * float(os.environ["MICROGPT_TEST"]) * xs[0], lambda: os.environ.update(MICROGPT_TEST="5")


def key_of_sorted():
    table = {"a": 1.0, "b": 2.0}

    def key(name):
        return table[name]

    return (lambda xs: W * (2.0 if sorted(["a", "b"], key=key)[0] == "a" else 3.0) * len(max(["a", "bb"], key=len)) * xs[0],
            lambda: table.update(a=5.0))


def operator_of_a_class():
    class A:
        def __init__(self):
            self.k = 2.0

        def __add__(self, x):
            return x * self.k

    o = A()
    return lambda xs: (o + W) * xs[0], lambda: setattr(o, "k", 5.0)


def reflected_operator():
    class A:
        def __init__(self):
            self.k = 2.0

        def __rmatmul__(self, x):
            return x[0] * self.k

    o = A()
    return lambda xs: ([W] @ o) * xs[0], lambda: setattr(o, "k", 5.0)


def operators_in_a_list():
    class A:
        def __init__(self):
            self.k = 2.0

        def __neg__(self):
            return W * self.k

        def __contains__(self, x):
            return x > self.k

        def __eq__(self, x):
            return x == self.k

        def __sub__(self, x):
            return W * self.k * x

    objects = [A()]

    def f(xs):
        o = objects[0]
        r = -o * (2.0 if 3.0 in o else 5.0) * (2.0 if o == 2.0 else 5.0)
        o -= 2.0
        return r * o * xs[0]

    return f, lambda: setattr(objects[0], "k", 4.0)


def length_and_items_of_a_class():
    class A:
        def __init__(self):
            self.k = 2

        def __len__(self):
            return self.k

        def __iter__(self):
            yield float(self.k)

    o = A()
    return lambda xs: W * len(o) * sum(o) * list(o)[0] * [x for x in o][0] * xs[0], lambda: setattr(o, "k", 5)


CASES = [attribute_of_a_class, attribute_of_a_base, attribute_of_a_class_hidden, attribute_made_later, slot, method_of_a_class,
         method_hidden, static_and_class_methods, method_of_a_base, replaced_property, replaced_call, class_of_an_object,
         attributes_by_name, getters, keywords_of_a_partial, partial_itself, builtin_hidden_by_a_global, global_made_later,
         global_deleted, replaced_builtin, function_of_a_module, function_with_a_cache, environment, key_of_sorted,
         operator_of_a_class, reflected_operator, operators_in_a_list, length_and_items_of_a_class]
