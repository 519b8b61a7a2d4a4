"""Functions that read their defaults, code and containers from outside, and what changes those, for tests of guards.

Each case returns a function of one list of numbers, and what changes something that it reads.
"""
import array
import builtins
import collections
import linecache
import types

import numpy

from microgpt import Value

W = Value(3.0)


def function_of(source, **names):
    """A function f of source, with globals of its own."""
    file = f"<guards {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    names = {"W": W, "__builtins__": builtins, **names}
    exec(compile(source, file, "exec"), names)
    return names["f"], names


class Object:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def defaults():
    def f(xs, k=2.0):
        return W * k * xs[0]

    return f, lambda: setattr(f, "__defaults__", (5.0,))


def keyword_defaults():
    def f(xs, *, k=2.0):
        return W * k * xs[0]

    return f, lambda: setattr(f, "__kwdefaults__", {"k": 5.0})


def keyword_defaults_in_place():
    def f(xs, *, k=2.0):
        return W * k * xs[0]

    return f, lambda: f.__kwdefaults__.update(k=5.0)


def defaults_of_an_inner_function():
    def g(x, k=2.0):
        return x * k

    return lambda xs: g(W) * xs[0], lambda: setattr(g, "__defaults__", (5.0,))


def content_of_a_default():
    def f(xs, k=[2.0]):  # noqa: B006
        return W * k[0] * xs[0]

    return f, lambda: f.__defaults__[0].__setitem__(0, 5.0)


def code():
    def f(xs):
        return W * 2.0 * xs[0]

    def other(xs):
        return W * 5.0 * xs[0]

    return f, lambda: setattr(f, "__code__", other.__code__)


def code_of_an_inner_function():
    def g(x):
        return x * 2.0

    def other(x):
        return x * 5.0

    return lambda xs: g(W) * xs[0], lambda: setattr(g, "__code__", other.__code__)


def number_in_a_list():
    k = [2.0, 3.0]
    return lambda xs: W * k[0] * xs[0], lambda: k.__setitem__(0, 5.0)


def length_of_a_list():
    k = [2.0, 3.0]

    def f(xs):
        r = W
        for a in k:
            r = r * a
        return r * xs[0]

    return f, lambda: k.append(5.0)


def list_that_is_summed():
    k = [2.0, 3.0]
    return lambda xs: W * sum(k) * xs[0], lambda: k.__setitem__(1, 9.0)


def none_in_a_list():
    k = [None]
    return lambda xs: W * (2.0 if k[0] is None else 3.0) * xs[0], lambda: k.__setitem__(0, 1)


def position_in_a_list():
    k = [1.0, 2.0]
    return lambda xs: W * k.index(2.0) * xs[0], lambda: k.__setitem__(0, 2.0)


def value_in_a_list():
    k = [Value(2.0), Value(3.0)]
    return lambda xs: sum(a * b for a, b in zip(k, xs)) * W, lambda: k.__setitem__(1, Value(9.0))


def values_that_change_places():
    k = [Value(2.0), Value(3.0)]
    return lambda xs: sum(a * b for a, b in zip(k, xs)) * W, k.reverse


def value_in_a_matrix():
    k = [[Value(2.0), Value(3.0)], [Value(1.0), Value(4.0)]]
    return lambda xs: sum(a * b for row in k for a, b in zip(row, xs)) * W, lambda: k[1].__setitem__(0, Value(9.0))


def row_of_a_matrix_in_a_dict():
    k = {"w": [[Value(2.0), Value(3.0)], [Value(1.0), Value(4.0)]]}
    return (lambda xs: sum(a * b for row in k["w"] for a, b in zip(row, xs)) * W,
            lambda: k["w"].__setitem__(1, [Value(9.0), Value(8.0)]))


def list_in_a_tuple():
    k = ([2.0], 1.0)
    return lambda xs: W * k[0][0] * xs[0], lambda: k[0].__setitem__(0, 5.0)


def int_key_of_a_dict():
    k = {0: 2.0}
    return lambda xs: W * k[0] * xs[0], lambda: k.__setitem__(0, 5.0)


def tuple_key_of_a_dict():
    k = {(1, 2): 2.0}
    return lambda xs: W * k[1, 2] * xs[0], lambda: k.__setitem__((1, 2), 5.0)


def key_of_a_users_class():
    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            return True

    k, key = {Key(): 2.0}, Key()
    return lambda xs: W * k[key] * xs[0], lambda: k.__setitem__(key, 5.0)


def new_entry_of_a_dict():
    k = {"a": 2.0}

    def f(xs):
        r = W
        for v in k.values():
            r = r * v
        return r * xs[0]

    return f, lambda: k.__setitem__("b", 5.0)


def entry_that_get_missed():
    k = {"a": 2.0}
    return lambda xs: W * k.get("b", 1.0) * xs[0], lambda: k.__setitem__("b", 5.0)


def entry_that_is_made_later():
    k = {}

    def f(xs):
        try:
            a = k["a"]
        except KeyError:
            a = 1.0
        return W * a * xs[0]

    return f, lambda: k.__setitem__("a", 5.0)


def entry_that_in_asks_for():
    k = {"a": 2.0}
    return lambda xs: W * (2.0 if "b" in k else 1.0) * xs[0], lambda: k.__setitem__("b", 5.0)


def length_of_a_dict():
    k = {"a": 2.0}
    return lambda xs: W * len(k) * xs[0], lambda: k.__setitem__("b", 5.0)


def dict_as_keywords():
    def g(a):
        return W * a

    k = {"a": 2.0}
    return lambda xs: g(**k) * xs[0], lambda: k.__setitem__("a", 5.0)


def dict_in_a_dict():
    k = {"a": 2.0}
    return lambda xs: W * {**k}["a"] * xs[0], lambda: k.__setitem__("a", 5.0)


def copy_of_a_dict():
    k = {"a": 2.0}
    return lambda xs: W * dict(k)["a"] * k.copy()["a"] * xs[0], lambda: k.__setitem__("a", 5.0)


def equal_dicts():
    k, other = {"a": 2.0}, {"a": 2.0}
    return lambda xs: W * (2.0 if k == other else 3.0) * xs[0], lambda: k.__setitem__("a", 5.0)


def text_of_a_list():
    k, table = [1], {"[1]": 2.0, "[2]": 5.0}
    return lambda xs: W * table[f"{k}"] * xs[0], lambda: k.__setitem__(0, 2)


def getitem_by_name():
    k = {"a": 2.0}
    return lambda xs: W * k.__getitem__("a") * dict.__getitem__(k, "a") * xs[0], lambda: k.__setitem__("a", 5.0)


def proxy_of_a_dict():
    k = {"a": 2.0}
    proxy = types.MappingProxyType(k)
    return lambda xs: W * proxy["a"] * xs[0], lambda: k.__setitem__("a", 5.0)


def views_of_a_dict():
    k = {"a": 2.0}
    values, items = k.values(), k.items()

    def f(xs):
        r = W
        for v in values:
            r = r * v
        return r * len(items) * xs[0]

    return f, lambda: k.__setitem__("b", 5.0)


def containers_of_the_library():
    chain, rows, table = collections.ChainMap({}, {"a": 2.0}), collections.UserList([2.0]), collections.UserDict(a=2.0)

    def f(xs):
        r = W * chain["a"] * len(rows) * table["a"]
        for v in rows:
            r = r * v
        return r * (2.0 if 5.0 in list(rows) else 1.0) * xs[0]

    return f, lambda: (rows.append(5.0), table.update(a=3.0), chain.update(a=3.0))


def set_of_ints():
    k = {1, 2}
    return lambda xs: W * (2.0 if 3 in k else 1.0) * xs[0], lambda: k.add(3)


def queue():
    k = collections.deque([1.0, 2.0])
    return lambda xs: W * k[0] * xs[0], lambda: k.__setitem__(0, 5.0)


def array_of_numpy():
    k = numpy.array([2.0, 3.0])
    return lambda xs: W * float(k[0]) * xs[0], lambda: k.__setitem__(0, 5.0)


def sum_of_an_array():
    k = numpy.array([2.0, 3.0])
    return lambda xs: W * float(k.sum()) * xs[0], lambda: k.__setitem__(0, 5.0)


def transposed_array():
    k = numpy.array([[2.0, 3.0]])
    return lambda xs: W * float(k.T[0, 0]) * k.shape[0] * xs[0], lambda: k.__setitem__((0, 0), 5.0)


def shape_of_an_array():
    k = numpy.array([2.0, 3.0])
    return lambda xs: W * len(k) * xs[0], lambda: k.resize((1, 2), refcheck=False)


def array_of_python():
    k = array.array("d", [2.0, 3.0])
    return lambda xs: W * k[0] * xs[0], lambda: k.__setitem__(0, 5.0)


def list_of_an_object():
    o = Object(k=[2.0])
    return lambda xs: W * o.k[0] * xs[0], lambda: o.k.__setitem__(0, 5.0)


CASES = [defaults, keyword_defaults, keyword_defaults_in_place, defaults_of_an_inner_function, content_of_a_default, code,
         code_of_an_inner_function, number_in_a_list, length_of_a_list, list_that_is_summed, none_in_a_list, position_in_a_list,
         value_in_a_list, values_that_change_places, value_in_a_matrix, row_of_a_matrix_in_a_dict, list_in_a_tuple,
         int_key_of_a_dict, tuple_key_of_a_dict, new_entry_of_a_dict, entry_that_get_missed, entry_that_is_made_later,
         entry_that_in_asks_for, length_of_a_dict, dict_as_keywords, dict_in_a_dict, copy_of_a_dict, equal_dicts, text_of_a_list,
         getitem_by_name, proxy_of_a_dict, views_of_a_dict, containers_of_the_library, set_of_ints, queue, array_of_numpy,
         sum_of_an_array, transposed_array, shape_of_an_array, array_of_python, list_of_an_object]
