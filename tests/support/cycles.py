"""Cycles of Values: graphs that a second `__init__` closes, each made by a function of (Value, its module)."""

CYCLES = {
    "itself": lambda V, m: cycle(V(1.0), lambda x: x),
    "an operator": lambda V, m: cycle(V(1.0), lambda x: x * 2.0),
    "a layer": lambda V, m: cycle(V(1.0), lambda x: m.softmax(m.linear([x, V(1.0)], [[V(2.0), x]] * 3))[1]),
    "a layer that is looked into": lambda V, m: cycle(V(1.0), lambda x: looked(m.linear([x, x], [[x, x]])[0])),
    "many children": lambda V, m: cycle(V(1.0), lambda x: V(1.0, (x, x, V(2.0), x), (1.0, 2.0, 3.0, 4.0))),
    "two that cross": lambda V, m: cross(V(1.0), V(2.0), m),
    "a long way": lambda V, m: cycle(V(1.0), lambda x: chain(x, 300)),
}


def cycle(x, use):
    y = use(x)
    x.__init__(0.5, (y,), (0.5,))
    return x, y


def cross(x, y, m):
    z = m.rmsnorm([x, y])
    x.__init__(0.5, (z[0], z[1]), (0.5, 2.0))
    y.__init__(0.7, (z[1], x, y), (0.5, 2.0, 3.0))
    return x, z[0]


def chain(x, n):
    for _ in range(n):
        x = x + 1.0
    return x


def looked(x):
    x._children[0]._children  # noqa: B018
    return x
