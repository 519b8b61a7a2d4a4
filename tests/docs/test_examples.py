"""Every example runs and does what it says; the notebook's cells run from top to bottom."""
import ast
import contextlib
import io
import json
import re
import runpy
import sys
import tempfile
import types

import pytest
from conftest import ROOT

import microgpt
from microgpt import reference

EXAMPLES = ROOT / "examples"


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.iterdir() if not path.name.startswith((".", "__"))} == {
        "ten_lines.py", "one_import.py", "two_moons.py", "own_text.py", "tied_embeddings.py", "tour.ipynb", "own_gpt.py", "gru.py",
        "teaching.ipynb", "torch_model.py",  # the proof torch_model of noxfile.py runs it: it needs torch
    }  # fmt: skip


def test_ten_lines_are_the_command(command):
    done = command(EXAMPLES / "ten_lines.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == command("-m", "microgpt.train").stdout
    code = ast.parse((EXAMPLES / "ten_lines.py").read_text(encoding="utf-8")).body[1:]
    assert sum(node.end_lineno - node.lineno + 1 for node in code) <= 11  # ten and the import


SCRIPT = '''
"""A small program in the shape of the original: its own class Value, then a model, a loss and an update."""
import random
random.seed(3)

class Value(reference_of_the_test):
    """What is to be replaced."""

x = [Value(random.gauss(0, 1)) for _ in range(4)]
for step in range(5):
    loss = sum((v * v - 2).exp() / 3 + v.relu() ** 2 for v in x)
    loss.backward()
    for v in x:
        v.data -= 0.01 * v.grad
        v.grad = 0
    print(type(x[0]).__module__ == MODULE, loss.data.hex())
'''


def test_one_import(command, tmp_path):
    """Over a script of the same shape: the class goes, the rest of its lines and all that it prints stay."""
    example = runpy.run_path(str(EXAMPLES / "one_import.py"))
    script = SCRIPT.replace("(reference_of_the_test)", "(__import__('microgpt').reference.Value)")
    own_class = "import microgpt.reference\nMODULE = '__main__'\n" + script
    (tmp_path / "with_class.py").write_text(own_class, encoding="utf-8")
    (tmp_path / "ours.py").write_text("MODULE = 'microgpt.core.value'\n" + script, encoding="utf-8")
    own = command("with_class.py")
    ours = command(EXAMPLES / "one_import.py", "ours.py")
    assert own.returncode == ours.returncode == 0, own.stderr + ours.stderr
    assert ours.stdout == own.stdout and ours.stdout.count("True 0x1.") == 5
    replaced = example["with_our_value"](script).splitlines()
    start = script.splitlines().index("class Value(__import__('microgpt').reference.Value):")
    assert replaced == [*script.splitlines()[:start], "from microgpt import Value", *script.splitlines()[start + 2 :]]
    with pytest.raises(ValueError, match="no class Value"):
        example["with_our_value"]("x = 1\n")


@pytest.mark.slow
def test_two_moons(command):
    done = command(EXAMPLES / "two_moons.py")
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"([\d.]+) % of 400", done.stdout)[1]) > 95
    source = (EXAMPLES / "two_moons.py").read_text(encoding="utf-8").replace("range(steps)", "range(3)")
    outputs = []
    for module in ("microgpt", "microgpt.reference"):
        code = source.replace("from microgpt import", f"from {module} import") + "\nprint(loss.data.hex())\n"
        outputs.append(command("-c", code).stdout)
    assert outputs[0] == outputs[1] and "0x1." in outputs[0]


@pytest.mark.slow
def test_own_text(command, tmp_path):
    done = command(EXAMPLES / "own_text.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own_text.safetensors").exists()
    held_out = [float(x) for x in re.findall(r"held out ([\d.]+),", done.stdout)]
    assert len(held_out) == 4 and held_out[-1] < 0.6 * held_out[0]
    # 999 numbers were there to learn from; most of what is written is one of them.
    assert done.stdout.count("(not in the text)") <= 5
    (tmp_path / "text.txt").write_text("\n".join(f"line {i}" for i in range(40)), encoding="utf-8")
    assert command(EXAMPLES / "own_text.py", "text.txt", "x.safetensors").returncode == 0


@pytest.mark.slow
def test_tied_embeddings(command):
    """By the graph engine and by the reference: the same losses, to the bit."""
    done = command(EXAMPLES / "tied_embeddings.py", "4")
    assert done.returncode == 0, done.stderr
    assert "3760 parameters, 432 fewer than untied" in done.stdout and "step    4 /    4" in done.stdout
    source = (EXAMPLES / "tied_embeddings.py").read_text(encoding="utf-8")
    ours = "from microgpt import GPT, Adam, Tokenizer, Value, linear, load_docs, rmsnorm, softmax"
    assert ours in source
    twin = source.replace(ours, "from microgpt import Tokenizer, load_docs\n"
                          "from microgpt.reference import GPT, Adam, Value, linear, rmsnorm, softmax")  # fmt: skip
    unused = "{p.data for row in model.state_dict['lm_head'] for p in row}"
    report = f"\nprint(loss.data.hex(), sum(p.data for p in model.params).hex(), {unused} == before)\n"
    outputs = []
    for code in (source, twin):
        code = code.replace("adam = Adam", f"before = {unused}\nadam = Adam")
        done = command("-c", "import sys; sys.argv.append('3')\n" + code.split('"""', 2)[2] + report)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and outputs[0].endswith("True\n")
    # Tied is not untied: the script's own model has another loss.
    model = reference.GPT(27)
    assert model.num_params == 4192 and microgpt.GPT(27).num_params == 4192


#: In place of the package's: the script's class and nothing compiled; values that are saved are kept in memory.
PLAIN = """import types
from microgpt import Tokenizer, load_docs, reference
from microgpt.reference import SGD, Adam, Value, linear, softmax

saved = {}
def load_values(path, named):
    for name, rows in named.items():
        for row, kept in zip(rows, saved[name]):
            for p, q in zip(row, kept):
                p.data = q.data
microgpt = types.SimpleNamespace(compile=lambda f: f, save_values=lambda path, named, optimizer: saved.update(named),
                                 load_values=load_values)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, imports, steps, says", [
    ("own_gpt", "import microgpt\nfrom microgpt import Adam, Tokenizer, Value, linear, load_docs, softmax\n", 4, "sample 5: "),
    ("gru", "import microgpt\nfrom microgpt import SGD, Tokenizer, Value, linear, load_docs, softmax\n", 8, "last loss 0x1."),
])  # fmt: skip
def test_compiled_architectures(command, tmp_path, name, imports, steps, says):
    """With microgpt.compile and by the script's class: the same bits; a whole run learns."""
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert imports in source
    (tmp_path / "plain.py").write_text(source.replace(imports, PLAIN), encoding="utf-8")
    ours, plain = command(EXAMPLES / f"{name}.py", steps), command("plain.py", steps)
    assert ours.returncode == plain.returncode == 0, ours.stderr + plain.stderr
    assert ours.stdout == plain.stdout and says in ours.stdout
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)$", command(EXAMPLES / f"{name}.py").stdout, re.M)]
    assert sum(losses[-3:]) / 3 < losses[0] + 0.3 and min(losses) < 2.7


def code_cells(name):
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored_outputs(cell):
    """What a cell printed and, as text, what it showed; the last bits of a hexadecimal float depend on the libm."""
    streams = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
    shown = ["".join(output["data"]["text/plain"]) for output in cell["outputs"] if output["output_type"] == "execute_result"]
    return ["".join(streams), *(re.sub(r"0x1\.\w+p[+-]\d+", "0x", text).rstrip() for text in shown)]


class Widgets:
    """In place of ipywidgets and IPython.display: a slider is its value, and `interact` calls its function once."""

    def __init__(self, monkeypatch):
        self.shown = []
        modules = {"ipywidgets": types.ModuleType("ipywidgets"), "IPython": types.ModuleType("IPython"),
                   "IPython.display": types.ModuleType("IPython.display")}  # fmt: skip
        modules["IPython"].version_info = (9,)  # matplotlib asks for it
        modules["IPython"].get_ipython = lambda: None
        for name in ("FloatLogSlider", "FloatSlider", "IntSlider"):
            setattr(modules["ipywidgets"], name, self.slider)
        modules["ipywidgets"].interact = lambda function, **arguments: self.shown.append(function(**arguments))
        modules["IPython.display"].display = lambda value, display_id: types.SimpleNamespace(update=self.shown.append)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def slider(self, value, min, max, step=1):
        assert min <= value <= max or (min < 0 and 10**min <= value <= 10**max)  # of a logarithmic one
        return value


@pytest.mark.slow
@pytest.mark.parametrize("name, pictures", [("tour.ipynb", 3), ("teaching.ipynb", 2)])
def test_notebook_cells_run_from_top_to_bottom(monkeypatch, tmp_path, name, pictures):
    """As a notebook would: one namespace, the last expression of each cell shown in whatever form it offers.

    The outputs that a notebook is stored with are those of its cells. It leaves no temporary file.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    widgets, namespace, shown = Widgets(monkeypatch), {"__name__": "__main__"}, []
    for cell in code_cells(name):
        source = "".join(cell["source"])
        tree, outputs = ast.parse(source), stored_outputs(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not source.endswith(";") else None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(tree, "cell", "exec"), namespace)
            value = last and eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
        if "interact(" not in source:
            assert cell["execution_count"] and printed.getvalue() == outputs[0], source
        if value is not None:
            assert [re.sub(r"0x1\.\w+p[+-]\d+", "0x", repr(value)).rstrip()] == outputs[1:], source
            forms = [f"_repr_{kind}_" for kind in ("svg", "png", "html") if hasattr(value, f"_repr_{kind}_")]
            shown.append(next(filter(None, (getattr(value, form)() for form in forms)), repr(value)))
    assert sum(isinstance(picture, bytes) and picture.startswith(b"\x89PNG") for picture in shown) == pictures
    assert not [*tmp_path.iterdir()]
    if name == "tour.ipynb":
        assert len(shown) >= 9 and not widgets.shown
    else:  # four calls of interact, and the curve after each 500 of 3000 steps
        assert len(widgets.shown) == 4 + 6


@pytest.mark.parametrize("name", ["tour.ipynb", "teaching.ipynb"])
def test_notebook_is_stored_with_its_pictures(name):
    cells = code_cells(name)
    kinds = [kind for cell in cells for output in cell["outputs"] for kind in output.get("data", ())]
    assert kinds.count("image/svg+xml") >= 1 and kinds.count("image/png") == 3
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert (EXAMPLES / name).stat().st_size < 300_000


# ---- the programs of the README and of the docs ----


def programs(path):
    """The Python blocks of a page or of the notebook."""
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in code_cells(path.name)]
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def test_readme_programs_run(command):
    found = programs(ROOT / "README.md")
    assert len(found) >= 2
    for program in found:
        done = command("-c", program)
        assert done.returncode == 0 and done.stdout, done.stderr


def nodes_below(root):
    seen, stack = {root: None}, [root]
    while stack:
        for child in stack.pop()._children:
            if child not in seen:
                seen[child] = None
                stack.append(child)
    return list(seen)


PAGES = [ROOT / "README.md", EXAMPLES / "tour.ipynb", *sorted((ROOT / "docs").rglob("*.md"))]


def test_small_graphs_show_gradients_that_live():
    """The first example a reader sees had a relu of a negative number: gradients of 0 teach nothing."""
    from microgpt.viz.graph import operator

    found = 0
    for path in PAGES:
        for program in programs(path):
            statements = [] if program.startswith((">>>", "%")) else ast.parse(program).body
            start = next((i for i, x in enumerate(statements) if ast.unparse(x).startswith("a, b = (Value(")), None)
            if start is None:
                continue
            for module in (microgpt, reference):
                namespace = {"Value": module.Value}
                exec(compile(ast.Module(statements[start : start + 2], []), str(path), "exec"), namespace)
                namespace["c"].backward()
                for node in nodes_below(namespace["c"]):
                    assert node.grad != 0, (path, node.data)
                    if operator(node) == "relu":
                        assert node.data > 0, path
                        found += 1
    assert found >= 8  # in the README, the notebook, docs/tutorial/derivatives.md and docs/howto/look-inside.md, for both classes
