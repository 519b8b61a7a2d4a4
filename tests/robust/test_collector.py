"""Objects that the garbage collector is taking apart, called by what runs meanwhile.

Weak references to garbage are cleared, and finalizers run, before the collector takes cycles apart. But an object that it does
not track, such as a NumPy array, is freed meanwhile, and the callbacks of weak references to it run; and gc lists
what has been taken apart and is not freed yet.
"""
import pytest
from children import child

PROGRAM = """
import gc, sys, weakref
import numpy
from microgpt import Adam, Value, compile

gc.disable()

class Box:
    pass

def compiled():
    w, box, items = [Value(0.5), Value(1.5)], Box(), [1.0, 2.0]
    box.scale, box.numbers = 3.0, {"a": 0.25}
    def loss(x):
        return w[0] * x + w[1] * box.scale * items[0] * box.numbers["a"]
    function = compile(loss)
    function(2.0), function(2.0)
    box.function = function
    entries = list(function.entries.values())
    return [function, *entries, *(entry.program for entry in entries)]

def optimizer():
    values = [Value(1.0) for i in range(3)]
    made = Adam(values, learning_rate=0.5)
    for value in values:
        value.grad = 1.0
    return [made, values, made]

MAKE = {"Compiled": compiled, "Entry": compiled, "Guards": compiled, "Program": compiled, "Adam": optimizer}
USE = {
    "Compiled": lambda it: it(2.0).data,
    "Entry": lambda it: (it.check_guards(), it.program),
    "Guards": lambda it: it.hold(),
    "Program": lambda it: (it.bounds, it.derived),
    "Adam": lambda it: (it.step(), it.params[2].data),
}
which, found = sys.argv[1], []

def use(_):
    for it in gc.get_objects():
        if type(it).__name__ == which:
            try:
                found.append(USE[which](it))
            except (TypeError, AttributeError) as error:  # what a dict or a function that was taken apart makes of it
                found.append(str(error))

def make():
    array = numpy.zeros(1)
    last = MAKE[which]()
    last += [last, array]
    return weakref.ref(array, use)

keep = make()
gc.collect()
print(*found)
"""


@pytest.mark.parametrize("which, says", [("Compiled", "'NoneType'"), ("Entry", "Program object"), ("Guards", "False"),
                                         ("Program", "([], [])"), ("Adam", "(None, 0.5000")])
def test_what_the_collector_takes_apart_can_be_called(tmp_path, which, says):
    (tmp_path / "program.py").write_text(PROGRAM)  # a function is compiled from its source
    assert says in child("import runpy, sys; runpy.run_path(sys.argv[2], run_name='__main__')", which, tmp_path / "program.py")
