"""draw_graph: every node with its operator, its numbers and its edges; what is too much is counted, not drawn."""
import re
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest

import microgpt
from microgpt import draw_graph, reference
from microgpt.viz.graph import WIDEST, Dot, operator
from microgpt.viz.notebook import value_html

CLASSES = [microgpt.Value, reference.Value]


@pytest.fixture(params=CLASSES, ids=["compiled", "reference"])
def Value(request):
    return request.param


def all_nodes(root):
    seen, stack = {root}, [root]
    while stack:
        for child in stack.pop()._children:
            if child not in seen:
                seen.add(child)
                stack.append(child)
    return seen


def test_operators(Value):
    for x in (2.0, 0.3, 1.0, -3.0, 7.5, 1e-3):
        v, w = Value(x), Value(1.7)
        assert operator(v) == ""
        assert operator(v + w) == operator(v + 1) == operator(1 + v) == operator(v - w) == "+"
        assert operator(v * w) == operator(-v) == operator(v * 2) == operator(v / w) == "*"
        assert operator(v.exp()) == "exp"
        assert operator(v.relu()) == "relu"
        if x != 1:
            assert [operator(v**n) for n in (2, -1, 3, -2)] == ["**2", "**-1", "**3", "**-2"]
        if x > 0 and x != 1:
            assert operator(v.log()) == "log"
            assert [operator(v**n) for n in (0.5, -0.5, 1.25)] == ["**0.5", "**-0.5", "**1.25"]


def test_operators_of_a_whole_model(Value):
    module = microgpt if Value is microgpt.Value else reference
    model = module.GPT(5, n_embd=4, n_head=2, block_size=4)
    loss = module.document_loss([4, 0, 1, 2, 4], model)
    found = {operator(node) for node in all_nodes(loss)}
    assert found == {"", "+", "*", "**-1", "**-0.5", "exp", "log", "relu"}


def test_operator_that_no_longer_follows_from_the_numbers():
    x = reference.Value(2.0)
    y = x * 3
    x.data = 5.0
    assert operator(y) == "?"


def test_text(Value):
    a, b = Value(2.0), Value(-3.0)
    c = a * b + a
    c.backward()
    dot = draw_graph(c)
    assert isinstance(dot, str) and dot.startswith("digraph {") and dot.endswith("}\n")
    nodes = re.findall(r"n(\d+) \[label=<.*?<b>(.*?)</b>.*?data (.*?)</td><td>grad (.*?)<", dot)
    assert nodes == [("0", "+", "-4", "1"), ("1", "*", "-6", "1"), ("2", "value", "2", "-2"), ("3", "value", "-3", "2")]
    edges = re.findall(r'n(\d+) -> n(\d+) \[label="(.*?)"\]', dot)
    assert edges == [("1", "0", "1"), ("2", "0", "1"), ("2", "1", "-3"), ("3", "1", "2")]
    assert "not drawn" not in dot and "nodes are drawn" not in dot


def first_cells(dot):
    return re.findall(r"n\d+ \[label=<.*?<b>(.*?)</b>", dot)


def test_nodes_have_the_names_that_they_are_given(Value):
    a, b = Value(2.0), Value(-3.0)
    c = a * b + a
    assert first_cells(draw_graph(c, labels={"a": a, "c": c})) == ["c: +", "*", "a", "value"]
    rows = {"w": [[a], (b, 1.0)], "again": a, "_hidden": c, "text": "abc", "none": None, "module": re}
    assert first_cells(draw_graph(c, labels=rows)) == ["+", "*", "w[0][0]", "w[1][0]"]
    namespace = {"a": a, "b": b, "c": c, "_": c}
    assert first_cells(draw_graph(c, labels=namespace)) == ["c: +", "*", "a", "b"]
    assert first_cells(draw_graph(a, labels={"<b>\n" + "x" * 99: a})) == ["&lt;b&gt;\\n" + "x" * 33 + "..."]
    assert draw_graph(c, labels={}) == draw_graph(c)


def test_names_of_a_state_dict(Value):
    module = microgpt if Value is microgpt.Value else reference
    model = module.GPT(3, n_embd=2, n_head=1, n_layer=1, block_size=2)
    loss = module.document_loss([2, 0, 2], model)
    named = [cell for cell in first_cells(draw_graph(loss, limit=1000, labels=model.state_dict)) if "[" in cell]
    assert len(named) == len(set(named)) and {"wte[2][1]", "lm_head[0][0]", "layer0.attn_wq[1][0]"} <= set(named)
    assert "value" in first_cells(draw_graph(loss, limit=1000, labels=model.state_dict))  # numbers, which have no name


def test_child_that_stands_twice(Value):
    a = Value(3.0)
    assert draw_graph(a * a).count("n1 -> n0") == 2


def test_limit_says_what_it_left_out(Value):
    total = Value(0.0)
    for i in range(2000):
        total = total + i
    dot = draw_graph(total, limit=7)
    assert len(re.findall(r"n\d+ \[label=<", dot)) == 7
    assert "7 of 4,001 nodes are drawn" in dot
    assert sum(map(int, re.findall(r'label="(\d+) not drawn"', dot))) == 2
    assert len(re.findall(r"n\d+ \[label=<", draw_graph(total))) == 100
    assert draw_graph(Value(1.0), limit=1).count("label=<") == 1


def test_large_graph_is_counted_up_to_a_bound(monkeypatch):
    monkeypatch.setattr("microgpt.viz.graph.COUNTED", 50)
    v = reference.Value(1.0)
    for _ in range(100):
        v = v + 1
    assert "3 of more than 50 nodes are drawn" in draw_graph(v, limit=3)


def test_special_numbers(Value):
    for x in (float("inf"), float("nan"), -0.0, 1e300):
        assert "digraph" in draw_graph(Value(x) * 2 + 1)


def test_what_cannot_be_drawn(Value):
    with pytest.raises(TypeError, match="draw_graph draws a Value, not int"):
        draw_graph(3)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        draw_graph(Value(1.0), limit=0)


def test_dot_accepts_the_text(Value):
    """By the program dot where it is there; the text itself is checked above."""
    if not shutil.which("dot"):
        pytest.skip("Graphviz is not installed")
    a = Value(2.0)
    for dot in (draw_graph((a * 3 + a**2).exp().log().relu()), draw_graph(a + a * a, limit=2)):
        svg = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=True).stdout
        assert svg.count('class="node"') == dot.count("label=<") + dot.count("not drawn")


def test_picture_or_a_clear_message(monkeypatch, Value):
    import sys

    dot = draw_graph(Value(2.0) * 3)
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match=r"pip install 'microgpt-exact\[plot\]'"):
        dot.svg()
    assert dot._repr_svg_() is None and repr(dot) == str(dot)
    monkeypatch.undo()
    import graphviz

    if shutil.which("dot"):
        assert "<svg" in dot.svg() and dot._repr_svg_() == dot.svg()
        wide = Value(1.0)
        for _ in range(12):
            wide = wide.exp().log()
        for picture, fits in ((dot.svg(), True), (draw_graph(wide).svg(), False)):
            shown, drawn = (float(re.search(p, picture)[1]) for p in (r' width="(\d+)pt"', r'viewBox="\S+ \S+ (\S+)'))
            assert shown == pytest.approx(drawn, abs=1) if fits else drawn > 900 and shown == WIDEST

    def missing(*arguments, **options):
        raise graphviz.ExecutableNotFound(["dot"])

    monkeypatch.setattr(graphviz.Source, "pipe", missing)
    with pytest.raises(OSError, match="program dot of Graphviz"):
        dot.svg()
    assert Dot("x")._repr_svg_() is None


def test_children_without_a_local_gradient(Value):
    """The script's class takes any children and local gradients, and its zip stops at the shorter."""
    a, b, c = Value(1.0), Value(2.0), Value(3.0)
    for node, edges, name in (
        (Value(1, [a], []), [None], "?"),
        (Value(1, [a, b], [5]), [5, None], "?"),
        (Value(6, [a, b, c], [1, 1, 1]), [1, 1, 1], "?"),
        (Value(1, [a], [1, 2]), [1], "?"),
        (Value(2, [a, b], []), [None, None], "?"),
        (Value(4.0, [], [1]), [], ""),
    ):
        assert operator(node) == name
        dot = draw_graph(node)
        found = re.findall(r'n(\d+) -> n0(?: \[label="(.*?)"\])?', dot)
        assert [number for number, _ in found] == [str(i + 1) for i in range(len(edges))]
        assert [label for _, label in found] == ["" if x is None else str(x) for x in edges]
        assert dot.count("label=<") == 1 + len(edges)
        html = value_html(node)
        assert html.count("no local gradient") == edges.count(None)
    # They are children all the same: a cut drawing counts them.
    dot = draw_graph(Value(1, [a, b, c], [1]), limit=2)
    assert "2 not drawn" in dot and "2 of 4 nodes are drawn" in dot
    if shutil.which("dot"):
        assert "no" not in subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=True).stderr


def test_numbers_that_are_no_floats():
    """The script's class keeps whatever it is given."""
    assert "digraph" in draw_graph(reference.Value(10**5000))
    for x in (10**400, True, np.float32(0.1), np.int64(3), Fraction(1, 3)):
        v = reference.Value(x)
        assert operator(v) == "" and "digraph" in draw_graph(v) and "digraph" in draw_graph(v + v)
        assert "data" in value_html(v + v)
    assert "data 0.1<" in draw_graph(reference.Value(np.float32(0.1)))
    odd = reference.Value("<b>&")
    assert "data &lt;b&gt;&amp;<" in draw_graph(odd)
    assert "'&lt;b&gt;&amp;'" in value_html(odd).replace("&#x27;", "'")
    assert "&lt;b&gt;&amp; (local gradient" in value_html(reference.Value(1.0, (odd,), (1,)))


def test_limit_may_be_a_numpy_number(Value):
    assert draw_graph(Value(1.0) + 2.0, limit=np.int64(1)) == draw_graph(Value(1.0) + 2.0, limit=1)
    for limit in (2.5, "3", None, True):
        with pytest.raises(TypeError, match="limit must be a whole number"):
            draw_graph(Value(1.0), limit=limit)


def test_text_that_dot_cannot_read_is_shown_as_text():
    if not shutil.which("dot"):
        pytest.skip("Graphviz is not installed")
    broken = Dot("digraph {")
    with pytest.raises(ValueError, match="dot cannot draw this graph: .*syntax error") as error:
        broken.svg()
    assert "\n" not in str(error.value)
    assert broken._repr_svg_() is None
