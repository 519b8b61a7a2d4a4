"""draw_graph: every node with its operator, its numbers and its edges; what is too much is counted, not drawn."""
import re
import shutil
import subprocess

import pytest

import microgpt
from microgpt import draw_graph, reference
from microgpt.drawing import WIDEST, Dot, operator

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
    monkeypatch.setattr("microgpt.drawing.COUNTED", 50)
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
