"""Sums of products that operators make, which become dot products while they are built, against the script's class."""
import ctypes
import random

import pytest
from graphs import ENGINES, assert_same_graph, bits

from microgpt.core.audit import audit, sorted_slots
from microgpt.core.value import Value

NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-300, 1e300, float("inf"), 5e-324)


def number(rng):
    return rng.choice(NUMBERS) if rng.random() < 0.3 else rng.uniform(-2.0, 2.0)


def disturb(V, rng, pool, product, total):
    """Do to a product, a sum or a factor what a program may do, mostly nothing."""
    what, which = rng.randrange(24), rng.choice((product, total))
    if what == 0:
        pool.append(which)
    elif what == 1:
        which.data = number(rng)
    elif what == 2:
        which.grad = rng.choice((0.0, -0.0, 1.0))
    elif what == 3:
        which.backward()
    elif what == 4:
        pool.append(which + pool[0])
    elif what == 5:
        which.__init__(number(rng), (rng.choice(pool),), (number(rng),))
    elif what == 6:
        which.__init__(number(rng))
    elif what == 7:
        rng.choice(pool).data = number(rng)
    elif what == 8:
        pool.append(which._children[0])
    elif what == 9:
        rng.choice(pool).__init__(number(rng))


def chain(V, rng, pool, calm):
    """One sum of products, made in one of the ways in which programs make them."""
    n, way = rng.choice((1, 2, 3, 5, 17, 40)), rng.randrange(4)
    pairs = [(rng.choice(pool), rng.choice(pool)) for _ in range(n)]
    if way == 0:
        return sum(a * b for a, b in pairs)
    if way == 1:
        return sum([a * b for a, b in pairs], rng.choice((0, 0.0, -0.0, 1.5)))
    total = rng.choice((0.0, -0.0, 2.0)) if way == 2 else V(0.0)
    for a, b in pairs:
        product = a * rng.choice((b, 0.5)) if rng.random() < 0.2 else a * b
        if rng.random() < 0.1:
            total = product + total
        elif rng.random() < 0.1:
            total += a
        else:
            total = total + product
        if not calm:
            disturb(V, rng, pool, product, total)
        if rng.random() < 0.5:
            del product
    return total


def program(engine, seed, calm):
    """The Values that a random program holds at its end."""
    rng, V = random.Random(seed), engine.Value
    pool = [V(number(rng)) for _ in range(rng.choice((1, 3, 20)))]
    for _ in range(rng.randrange(1, 12)):
        pool.append(chain(V, rng, pool, calm))
        if rng.random() < 0.3:
            pool.append(float_relu(pool[-1]))
        if rng.random() < 0.2:  # products, too, but nodes of a layer
            pool.append(sum(engine.softmax([V(number(rng) % 1.0) for _ in range(3)])))
        if rng.random() < 0.3:
            pool.pop(rng.randrange(len(pool)))
            pool.append(V(number(rng)))
        if rng.random() < 0.3:
            rng.choice(pool).backward()
    for _ in range(rng.randrange(3)):
        rng.choice(pool).backward()
    return pool


def float_relu(value):
    result = value.relu()
    result.data = float(result.data)  # the script's 0 is an int
    return result


@pytest.mark.parametrize("calm", [True, False])
@pytest.mark.parametrize("first", range(0, 300, 100))
def test_random_sums_of_products(first, calm):
    for seed in range(first, first + 100):
        ours = program(ENGINES["graph"], seed, calm)
        theirs = program(ENGINES["reference"], seed, calm)
        audit()
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            assert (bits(a.data), bits(a.grad)) == (bits(b.data), bits(b.grad)), seed
        for a, b in zip(ours, theirs):
            assert_same_graph(a, b)
        audit()


def sorted_nodes(make):
    """How many nodes backward sorts in a sum of 500 products."""
    w, x = [Value(float(i)) for i in range(500)], [Value(0.5) for _ in range(500)]
    total = make(w, x)
    assert total.data == sum(i * 0.5 for i in range(500))
    return len(sorted_slots(total))


def sum_of(w, x):
    return sum(a * b for a, b in zip(w, x))


def loop(w, x):
    total = 0
    for a, b in zip(w, x):
        total = total + a * b
    return total


def augmented(w, x):
    total = 0.0
    for a, b in zip(w, x):
        total += a * b
    return total


@pytest.mark.parametrize("make", [sum_of, loop, augmented])
def test_a_sum_of_products_is_one_node_or_one_for_all_but_the_last(make):
    assert sorted_nodes(make) == (1 if make is sum_of else 3)


def test_what_is_held_is_not_folded():
    held = []
    assert sorted_nodes(lambda w, x: sum(held.append(a * b) or held[-1] for a, b in zip(w, x))) == 1000


def test_the_nodes_are_there_when_they_are_asked_for():
    w, x = [Value(2.0), Value(3.0)], [Value(5.0), Value(7.0)]
    total = sum(a * b for a, b in zip(w, x)) + w[0]
    total.backward()
    head = total._children[0]
    first, last = head._children
    assert (first.data, last.data, last.grad) == (10.0, 21.0, 1.0)
    assert last._children == (w[1], x[1]) and last._local_grads == (7.0, 3.0)
    product, zero = first._children
    assert product._children == (w[0], x[0]) and (zero.data, zero.grad, zero._children) == (0.0, 1.0, ())


def products_of_a_layer(engine):
    """Nodes of a layer that was written out: what counts for them are the references to the layer."""
    V = engine.Value
    x = [V(0.5), V(0.25)]
    _, product = engine.linear(x, [[V(3.0), V(7.0)]])[0]._children
    total = 0 + product
    return [total + x[0] * x[1], product, *x]


def folded(engine, factors):
    """A sum of the squares of these, which the sum that is made after it turns into one dot product."""
    total = sum(x * x for x in factors)
    assert (0 + engine.Value(1.0)).data == 1.0
    return total


def a_gradient_set_to_zero(engine):
    a, b = engine.Value(3.0), engine.Value(5.0)
    total = folded(engine, [a, b, a])
    total.backward()
    total.grad = 0.0  # but not those of the nodes below
    total = total + a * a
    return [total + b * b, a, b]


def gradients_in_another_order(engine):
    """x is a factor of the outer sum and of the inner one: what it gets from the inner one comes second."""
    V = engine.Value
    x, w = V(0.1), [V(1e16), V(1.0), V(1.0), V(0.5)]  # so large that the order matters
    others = [V(0.7), V(0.9)]
    inner = sum(a * b for a, b in zip([V(1.0), V(1.0), V(1.0)], [others[0], x, others[1]]))
    outer = sum(a * b for a, b in zip(w, [x, inner, x, others[0]]))
    (outer * 1.0).backward()
    return [outer, x, *w]


def a_sum_whose_slot_is_used_again(engine):
    a, b = engine.Value(3.0), engine.Value(5.0)
    total = folded(engine, [a, b])
    product = a * b
    total + b * b
    last = total * product
    del total, product
    last = folded(engine, [a, b]) + last
    last.backward()
    return [last, a, b]


def a_sum_initialised_again(engine):
    V = engine.Value
    a, b = V(3.0), V(5.0)
    before = 0 + a * b
    before = before + a * a
    before + b * b
    product = a * b
    total = before + product
    total.__init__(2.0, (a,), (1.5,))
    last = total + b * b
    last.backward()
    return [last, total, before, product, a, b]


@pytest.mark.parametrize("make", [products_of_a_layer, a_gradient_set_to_zero, gradients_in_another_order,
                                  a_sum_whose_slot_is_used_again, a_sum_initialised_again])  # fmt: skip
def test_what_is_not_to_be_folded(make):
    ours, theirs = make(ENGINES["graph"]), make(ENGINES["reference"])
    audit()
    for a, b in zip(ours, theirs, strict=True):
        assert (bits(a.data), bits(a.grad)) == (bits(b.data), bits(b.grad))
    for a, b in zip(ours, theirs, strict=True):
        assert_same_graph(a, b)
    audit()


# ---- operands that live on ----

add_borrowed = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p)(("PyNumber_Add", ctypes.pythonapi))


def add(a, b):
    """The sum of two Values, or numbers, each alone in a list, to which an operator sees no reference but its caller's.

    So it takes them for operands that are about to be dropped, and folds at once.
    """
    return add_borrowed(id(a[0]), id(b[0]))


def partial_sums(engine, n, zero=0):
    """The products and all partial sums of a sum of n products, each in a list of its own, and the factors."""
    V = engine.Value
    factors = [V(0.1 * i) for i in range(1, 4)]
    products = [[factors[i % 3] * factors[(i + 1) % 3]] for i in range(n)]
    sums = [[zero]]
    for product in products:
        sums.append([add(sums[-1], product)])
    return products, sums[1:], factors


def read_data(engine, products, sums, factors):
    assert [bits(v[0].data) for v in products + sums] == [
        bits(v[0].data) for kind in partial_sums(ENGINES["reference"], len(products))[:2] for v in kind]


def read_gradients(engine, products, sums, factors):
    sums[-1][0].backward()


def twice(engine, products, sums, factors):
    sums[-1][0].backward()
    sums[0][0].backward()
    sums[-1][0].backward()


def ask_for_children(engine, products, sums, factors):
    left, right = sums[-1][0]._children
    assert left is (sums[-2][0] if len(sums) > 1 else products[0][0])
    assert len(sums) == 1 or right is products[-1][0]


def initialise_the_sum(engine, products, sums, factors):
    sums[-1][0].__init__(2.0, (factors[0],), (1.5,))
    sums[-1][0].backward()


def initialise_the_product(engine, products, sums, factors):
    products[-1][0].__init__(2.0, (factors[0],), (1.5,))
    sums[-1][0].backward()


def set_the_product(engine, products, sums, factors):
    products[-1][0].data = 7.0
    (products[-1][0] * sums[-1][0]).backward()


def drop_the_sum(engine, products, sums, factors):
    del sums[-1]


def drop_the_operands(engine, products, sums, factors):
    del products[-1], sums[:-1]


def give_the_operands_to_a_node(engine, products, sums, factors):
    sums.append([engine.Value(1.0, (products[-1][0], sums[-1][0], sums[0][0]), (1.0, 2.0, 3.0))])
    sums[-1][0].backward()


def give_the_operands_to_a_layer(engine, products, sums, factors):
    operands = [products[-1][0], sums[0][0]]
    sums.extend([v] for v in engine.linear(operands, [list(factors[:2])]))
    sums[-1][0].backward()


def go_on_with_an_operand(engine, products, sums, factors):
    sums.append([add(sums[0], products[-1])])
    sums.append([add(sums[-1], products[-1])])
    sums[-1][0].backward()


USES = [read_data, read_gradients, twice, ask_for_children, initialise_the_sum, initialise_the_product, set_the_product,
        drop_the_sum, drop_the_operands, give_the_operands_to_a_node, give_the_operands_to_a_layer, go_on_with_an_operand]  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 40])
@pytest.mark.parametrize("use", USES)
def test_operands_that_live_on(use, n):
    ours, theirs = ([engine, *partial_sums(engine, n)] for engine in (ENGINES["graph"], ENGINES["reference"]))
    use(*ours)
    use(*theirs)
    audit()
    ours, theirs = ([v for held in products + sums for v in held] + factors for _, products, sums, factors in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        assert (bits(a.data), bits(a.grad)) == (bits(b.data), bits(b.grad))
    for a, b in zip(ours, theirs, strict=True):
        assert_same_graph(a, b)
    audit()


@pytest.mark.parametrize("which", [0, 1])
def test_a_hash_that_was_asked_for_stays(which):
    a, b = Value(3.0), Value(5.0)
    total, product = [add([0], [a * b])], [a * b]
    total = [add(total, [b * b])]
    asked = (total, product)[which]
    before = hash(asked[0])
    last = add(total, product)
    assert hash(asked[0]) == before
    assert last._children == (total[0], product[0])
    audit()
