"""What cannot be compiled: an error in words with the line that it comes from, and the function as written instead."""
import copy
import functools
import inspect
import math
import random
import time

import pytest

import microgpt
from microgpt import Value
from microgpt.compiler import CompileError
from microgpt.compiler.codes import remember, rewritten_codes

W = [Value(0.5 + i / 8) for i in range(4)]
ROWS = [[Value(0.1 * i + j) for j in range(2)] for i in range(4)]
NUMBERS = {0: 1.0, 1: 2.0}
LOG = []
counter = 0


class Settings:
    rate = 1.0


settings = Settings()


@functools.lru_cache(1)
def cached(i):
    return W[i] * 2


def condition_on_argument(t, x):
    return W[0] * x if t[0] == 3 else W[1] * x


def condition_on_data(t, x):
    return W[0] * x if W[0].data > 0 else W[1] * x


def truth_of_argument(t, x):
    return W[0] * x if t[1] else W[1] * x


def membership(t, x):
    return W[0] * x if t[0] in (1, 2) else W[1] * x


def dict_lookup(t, x):
    return W[0] * NUMBERS[t[0]]


def dict_get(t, x):
    return W[0] * NUMBERS.get(t[0], 0.0)


def text(t, x):
    return W[0] * len(f"{t[0]}")


def slice_by_argument(t, x):
    return sum(W[:t[0] + 1]) * x


def count_by_argument(t, x):
    return sum(W[i] for i in range(t[0] + 1)) * x


def int_of_argument(t, x):
    return W[int(t[0])] * x


def float_of_data(t, x):
    return W[0] * float((W[1] * x).data)


def rounded(t, x):
    return W[0] * round(x)


def identity(t, x):
    return W[0] * x if t[0] is t[1] else W[1]


def sorted_by_data(t, x):
    return sorted(W, key=lambda v: v.data)[0] * x


def item_assignment(t, x):
    row = [W[0]] * 4
    row[t[0]] = W[1]
    return row[0] * x


def other_container(t, x):
    return W[range(4)[t[0]]] * x


def rows_of_different_lengths(t, x):
    return sum([ROWS[0], ROWS[1][:1]][t[0]]) * x


def mixed_list(t, x):
    return [W[0], W[1], None][t[0]] * x


def sets_data(t, x):
    W[0].data = W[0].data
    return W[0] * x


def sets_grad(t, x):
    y = W[0] * x
    y.grad = 0.0
    return y


def backward_inside(t, x):
    y = W[0] * x
    y.backward()
    return W[1] * x


def random_numbers(t, x):
    return W[0] * random.random()


def random_gauss(t, x):
    return W[0] * random.gauss(0.0, 1.0)


def clock(t, x):
    return W[0] * (time.time() * 0 + x)


def prints(t, x):
    print("step", end="")
    return W[0] * x


def appends_to_a_global(t, x):
    LOG.append(x)
    return W[0] * x


def sets_an_attribute(t, x):
    settings.last = W[0] * x
    return W[0] * x


def adds_to_an_attribute(t, x):
    settings.rate += 0.0
    return W[0] * x


def sets_a_global(t, x):
    global counter
    counter = 1
    return W[0] * x


def value_from_a_cache(t, x):
    return cached(1) * x


def computed_outside(t, x):
    return OUTSIDE * x


def returns_something_else(t, x):
    return W[0] * x, object()


def returns_a_parameter(t, x):
    return W[0]


def returns_what_is_looked_up(t, x):
    return W[t[0]]


def returns_nothing(t, x):
    return None


def catches_the_error(t, x):
    try:
        return W[int(t[0])] * x
    except TypeError:
        return W[1] * x


def library_callback(t, x):
    return functools.reduce(lambda a, b: a + W[b], [t[0], t[1]], W[0]) * x


def text_of_a_value(t, x):
    return W[0] * x + len(str(W[0] * x)) * 0


def copies(t, x):
    return copy.copy([W[0] * x])[0] + copy.deepcopy(3.0) + 0 * hash((t[0],))


def numbers_of_a_model(t, x):
    return W[0] * float(MODEL.data[0])


def evaluates(t, x):
    return eval("W[0]") * x


OUTSIDE = W[0] * 2
MODEL = microgpt.GPT(vocab_size=3, n_embd=4, n_head=2)

CASES = [
    (condition_on_argument, "a comparison of t[0]"),
    (condition_on_data, "a comparison of a number"),
    (truth_of_argument, "a condition on t[1]"),
    (membership, "a comparison of t[0]"),
    (dict_lookup, "can only index lists and tuples, not a dict"),
    (dict_get, "a dict or set looked up by t[0]"),
    (text, "text from t[0]"),
    (slice_by_argument, "a plain index or count from a number computed from t[0]"),
    (count_by_argument, "a plain index or count from a number computed from t[0]"),
    (int_of_argument, "int() of t[0]"),
    (float_of_data, "float() of a number"),
    (rounded, "round() of a number"),
    (identity, "a comparison of t[0]"),
    (sorted_by_data, "a comparison of a number"),
    (item_assignment, "a plain index or count from t[0]"),
    (other_container, "not a range"),
    (rows_of_different_lengths, "rows of different lengths"),
    (mixed_list, "something else than Values alone"),
    (sets_data, "an attribute of a Value is set"),
    (sets_grad, "an attribute of a Value is set"),
    (backward_inside, "backward() in a compiled function"),
    (random_numbers, "random numbers in a compiled function"),
    (random_gauss, "random numbers in a compiled function"),
    (clock, "time.time()"),
    (prints, "print() in a compiled function"),
    (appends_to_a_global, "append() of a list from outside"),
    (sets_an_attribute, "an attribute of a Settings is set"),
    (adds_to_an_attribute, "an attribute is changed"),
    (sets_a_global, "`global counter`"),
    (value_from_a_cache, "keeps its results in a cache"),
    (computed_outside, "computed from others"),
    (returns_something_else, "returns 'object'"),
    (returns_a_parameter, "is not computed"),
    (returns_what_is_looked_up, "is not computed"),
    (returns_nothing, "returns a Value"),
    (catches_the_error, "catches an error"),
    (text_of_a_value, "text from a Value"),
    (copies, "a dict or set looked up by t[0]"),
    (evaluates, "eval()"),
    (numbers_of_a_model, "GPT.data in a compiled function"),
]


def numbers(result):
    return [r.data for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, Value)]


@pytest.mark.parametrize("function, message", CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_says_what_cannot_be_compiled_and_runs_it_as_written(function, message, capsys):
    state = random.getstate()
    expected = numbers(function([1, 0], 0.5))
    random.setstate(state)
    compiled = microgpt.compile(function)
    for _ in range(4):
        random.setstate(state)
        assert numbers(compiled([1, 0], 0.5)) == expected
    assert all(entry.program is None for entry in compiled.entries.values())
    why = compiled.explain()
    assert message in why, why
    random.setstate(state)
    strict = microgpt.compile(function, fallback="error")
    strict([1, 0], 0.5)
    with pytest.raises(CompileError) as error:
        strict([1, 0], 0.5)
    assert message in str(error.value)


def test_names_the_line():
    compiled = microgpt.compile(condition_on_argument, fallback="error", verify=False)
    line = inspect.getsourcelines(condition_on_argument)[1] + 1
    with pytest.raises(CompileError, match=f"test_compile_errors.py:{line}: "):
        compiled([1, 0], 0.5)


def test_functions_without_source():
    namespace = {"W": W}
    exec("def f(x): return W[0] * x", namespace)
    compiled = microgpt.compile(namespace["f"])
    assert [compiled(2.0).data for _ in range(3)] == [W[0].data * 2.0] * 3
    assert "the source of f is not there" in compiled.explain()


def test_code_that_equals_rewritten_code_is_not_rewritten():
    """In Python 3.13 the twin of a short lambda has the code of the lambda."""
    def f(x):
        return x

    code = f.__code__.replace()
    remember(code)
    assert f.__code__ == code and f.__code__ not in rewritten_codes and code in rewritten_codes


def test_two_lambdas_on_one_line():
    f, g = microgpt.compile(lambda x: W[0] * x), microgpt.compile(lambda x: W[1] * x + 1)
    for _ in range(4):
        assert f(2.0).data == W[0].data * 2.0 and g(2.0).data == W[1].data * 2.0 + 1
    f, g = (lambda x: W[0] * x), (lambda x: W[1] * x)
    f, g = microgpt.compile(f), microgpt.compile(g)
    for _ in range(4):
        assert f(2.0).data == W[0].data * 2.0 and g(2.0).data == W[1].data * 2.0


def test_libraries_functions_of_unknown_numbers_are_errors_not_constants():
    compiled = microgpt.compile(lambda x: W[0] * math.gamma(x), verify=False)
    assert compiled(3.0).data == W[0].data * 2.0
    assert "float() of a number" in compiled.explain()


def test_what_has_no_name_is_called_by_that_of_its_function_or_class():
    class Layer:
        def __call__(self, x):
            return x

    made = microgpt.compile(functools.partial(functools.partial(condition_on_data, [1]), 2.0))
    assert repr(made) == "<compiled function condition_on_data>" and made.__module__ == __name__
    with pytest.raises(TypeError, match="condition_on_data"):
        made(1.0, 2.0)
    assert made().data == condition_on_data([1], 2.0).data
    assert microgpt.compile(Layer()).__name__ == "Layer"


@pytest.mark.parametrize("static", [None, 1.5, True, [None]], ids=str)
def test_static_that_is_no_name_or_position(static):
    with pytest.raises(TypeError, match=r"static=.*: names or positions of arguments$"):
        microgpt.compile(condition_on_data, static=static)
