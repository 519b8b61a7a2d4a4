"""`microgpt run` of scripts in more than one file: Values go through functions of the user's other files."""
import os
import sys

import pytest
from test_run import both, changed, python

ACT = [("h.relu()", "gelu(h)"), ("import math\n", "import math\n\nfrom helpers import gelu\n")]
GELU = "def gelu(x):\n    return x * (1 / (1 + (x * -1.702).exp()))\n"
COMPILED = {
    "from": ({"helpers.py": GELU}, ACT),
    "from as": ({"helpers.py": GELU}, [("h.relu()", "act(h)"), ("import math\n", "import math\n\nfrom helpers import gelu as act\n")]),
    "import": ({"helpers.py": GELU}, [("h.relu()", "helpers.gelu(h)"), ("import math\n", "import math\n\nimport helpers\n")]),
    "import as": ({"helpers.py": GELU}, [("h.relu()", "H.gelu(h)"), ("import math\n", "import math\n\nimport helpers as H\n")]),
    "package": ({"nn/__init__.py": "from .act import gelu\n", "nn/act.py": GELU},
                [("h.relu()", "gelu(h)"), ("import math\n", "import math\n\nfrom nn import gelu\n")]),
    "dotted": ({"nn/__init__.py": "", "nn/act.py": GELU},
               [("h.relu()", "nn.act.gelu(h)"), ("import math\n", "import math\n\nimport nn.act\n")]),
    "two deep": ({"helpers.py": "from deeper import scaled\n\n\ndef gelu(x):\n    return scaled(x).relu()\n",
                  "deeper.py": "FACTOR = 0.7\n\n\ndef scaled(x):\n    return x * FACTOR\n"}, ACT),
    "a layer with its own lists": (
        {"helpers.py": "class Norm:\n    def __init__(self, gain):\n        self.gain = gain\n\n    def __call__(self, xs):\n"
         "        mean = sum(xs) / len(xs)\n        return [g * (x - mean) for g, x in zip(self.gain, xs)]\n"},
        [("import math\n", "import math\n\nfrom helpers import Norm\n"), ("parameters = [p for",
         "norm = Norm([Value(1.0) for _ in range(width)])\nparameters = norm.gain + [p for"),
         ('weights["out"]), hidden', 'weights["out"]), norm(hidden)')]),
    "the loss": ({"helpers.py": "def nll(p):\n    return -p.log() + 0.1 * (1 - p) ** 2\n"},
                 [("-softmax(logits)[tokens[i + 1]].log()", "nll(softmax(logits)[tokens[i + 1]])"),
                  ("import math\n", "import math\n\nfrom helpers import nll\n")]),
    "other things beside": ({"helpers.py": "import pickle\n\n\ndef twice(n):\n    return 2 * n\n"},
                            [("steps = 60", "steps = twice(30)"), ("import math\n", "import math\n\nfrom helpers import twice\n")]),
}  # fmt: skip
QUICK = ("from", "dotted")


@pytest.mark.parametrize("files, changes", [pytest.param(*given, id=name, marks=() if name in QUICK else pytest.mark.slow)
                                            for name, given in COMPILED.items()])  # fmt: skip
def test_values_in_functions_of_other_files(tmp_path, files, changes):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    _, ours = both(tmp_path, changed(*changes), flags=["--explain"])
    assert "compiled: Value" in ours.stderr and "traced in" in ours.stderr, ours.stderr


LEFT = {
    "number shown": ("def gelu(x):\n    print(x.grad)\n    return x.relu()\n", "helpers.py, line 2: print() gets a Value or its number"),
    "getattr": ("def gelu(x):\n    return getattr(x, 'relu')()\n", "helpers.py, line 2: getattr() gets a Value"),
    "type": ("def gelu(x):\n    return x.relu() if type(x) else x\n", "Values get into helpers.py, line 2: type() could see"),
    "pickle": ("import pickle\n\n\ndef gelu(x):\n    return x.relu()\n", "Values get into helpers.py, line 1: it imports pickle"),
    "attribute": ("def gelu(x):\n    y = x.relu()\n    y.label = 1\n    return y\n", "helpers.py, line 3: .label is set there"),
    "output": ("def gelu(x):\n    print('gelu')\n    return x.relu()\n", "helpers.py, line 2: print() is called in it"),
    "optimizer": (GELU + "\n\ndef update(ps):\n    for p in ps:\n        p.data -= 0.01 * p.grad\n        p.grad = 0\n",
                  "the optimizer's loop, helpers.py, line 6 (only the script's own file is changed)"),
    "class": ("class Value:\n    pass\n\n\ndef gelu(x):\n    return x.relu()\n", "helpers.py, line 1: there is another class Value"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text, why", LEFT.values(), ids=LEFT)
def test_what_another_file_may_not_do_is_said_by_its_line(tmp_path, text, why):
    (tmp_path / "helpers.py").write_text(text, encoding="utf-8")
    changes = ACT
    if "update" in text:
        changes = [ACT[0], ("import math\n", "import math\n\nfrom helpers import gelu, update\n"),
                   ("    now = rate", "    if step == 3:\n        update(parameters)\n        continue\n    now = rate")]
    _, ours = both(tmp_path, changed(*changes))
    assert "as written" in ours.stderr and why in ours.stderr, ours.stderr


@pytest.mark.slow
def test_methods_of_the_scripts_own_are_not_there_in_another_file(tmp_path):
    (tmp_path / "helpers.py").write_text("def act(x):\n    return x.tanh()\n", encoding="utf-8")
    text = changed(("import math\n", "import math\n\nfrom helpers import act\n"), ("h.relu()", "act(h)"),
                   ("    def __neg__", "    def tanh(self):\n        t = math.tanh(self.data)\n        return Value(t, (self,), "
                    "(1 - t * t,))\n\n    def __neg__"))  # fmt: skip
    _, ours = both(tmp_path, text)
    assert "helpers.py, line 2: .tanh is used there, a method that the script adds to Value" in ours.stderr


@pytest.mark.slow
def test_a_class_in_another_file_is_said(tmp_path):
    whole = changed()
    begin, end = whole.index("class Value"), whole.index("words =")
    (tmp_path / "engine.py").write_text("import math\n\n\n" + whole[begin:end], encoding="utf-8")
    _, ours = both(tmp_path, whole[:begin] + "from engine import Value\n\n\n" + whole[end:])
    assert "its class Value is in another file, engine.py, line 4: only a class in the script itself is replaced" in ours.stderr


LAYER = ("class Layer:\n    def __init__(self, act):\n        self.act, self.scale = act, [Value(1.0) for _ in range(width)]\n\n"
         "    def __call__(self, xs):\n        return [self.act(s * x) for s, x in zip(self.scale, xs)]\n\n\n"
         "layer = Layer(lambda x: x.relu())\nlayers = [layer]\nparameters = layer.scale + [p for")  # fmt: skip


@pytest.mark.parametrize("call", ["layer(hidden)", pytest.param("layers[0](hidden)", marks=pytest.mark.slow)])
def test_objects_that_are_called_and_functions_that_they_hold(tmp_path, call):
    text = changed(("parameters = [p for", LAYER), ('weights["out"]), hidden', f'weights["out"]), {call}'))
    _, ours = both(tmp_path, text, flags=["--explain"])
    assert "compiled: Value" in ours.stderr and "traced in" in ours.stderr, ours.stderr


@pytest.mark.parametrize("layer, why", [
    (LAYER.replace("        return [", "        print(len(xs))\n        return ["), "print() is called in it"),
    (LAYER.replace("lambda x: x.relu()", "show").replace("class Layer", "def show(x):\n    print(1)\n    return x\n\n\nclass Layer"),
     "print() is called in it"),
    (LAYER.replace("lambda x: x.relu()", "show").replace("class Layer", "def show(x):\n    print(x.grad)\n    return x\n\n\nclass Layer"),
     "print() gets a Value"),
    (LAYER + " p in []] + [p for", None),
])  # fmt: skip
def test_what_they_write_is_written_in_every_call(tmp_path, layer, why):
    _, ours = both(tmp_path, changed(("parameters = [p for", layer), ('weights["out"]), hidden', 'weights["out"]), layer(hidden)')))
    assert why is None or "as written" in ours.stderr and why in ours.stderr, ours.stderr


@pytest.mark.slow
def test_a_function_of_pythons_that_shows_is_not_handed_on_unseen(tmp_path):
    show = LAYER.replace("lambda x: x.relu()", "print").replace("return [self.act(s * x) for", "return [self.act(x.grad) or x for")
    _, ours = both(tmp_path, changed(("parameters = [p for", show), ('weights["out"]), hidden', 'weights["out"]), layer(hidden)')))
    assert "runs as written" in ours.stderr, ours.stderr


HIDING = {
    "random": ({"random.py": "def seed(n):\n    pass\n\n\ndef gauss(mean, width):\n    return 0.25\n"}, []),
    "math, by a file that the script imports": (
        {"math.py": "log = exp = lambda x: x * 0.5\n", "helpers.py": "import math\n"},
        [("import math\nimport random\n", "import random\nimport helpers\nmath = helpers.math\n")]),
    "a package": ({"random/__init__.py": "from random.more import gauss\n\nseed = print\n",
                   "random/more.py": "def gauss(mean, width):\n    return 0.5\n"}, []),
}  # fmt: skip


@pytest.mark.parametrize("flags", [(), ("--plain",)], ids=["", "plain"])
@pytest.mark.parametrize("files, changes", HIDING.values(), ids=HIDING)
def test_a_file_that_hides_a_module_of_pythons_is_what_the_script_imports(tmp_path, files, changes, flags):
    """The module itself is loaded already, and what a plan replaces counts on it."""
    if "math.py" in files and "math" in sys.builtin_module_names:
        pytest.skip("no file hides a module that is part of the interpreter")
    folder = tmp_path / "scripts"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "script.py").write_text(changed(*changes), encoding="utf-8")
    plain = python(tmp_path, "scripts/script.py")
    ours = python(tmp_path, "-m", "microgpt.run", *flags, "scripts/script.py")
    assert (ours.stdout, ours.returncode) == (plain.stdout, plain.returncode), ours.stderr
    assert flags or "script.py runs as written: it imports a " in ours.stderr


@pytest.mark.parametrize("beside", ["random/data.txt", "os.py", "string.py"], ids=["a folder", "loaded before", "not imported"])
def test_a_file_that_hides_nothing_changes_nothing(tmp_path, beside):
    folder = tmp_path / "scripts"
    (folder / beside).parent.mkdir(parents=True)
    (folder / beside).write_text("raise SystemExit(5)", encoding="utf-8")
    (folder / "script.py").write_text(changed(("import math\n", "import math\nimport os\n")), encoding="utf-8")
    ours = python(tmp_path, "-m", "microgpt.run", "scripts/script.py")
    assert ours.stdout == python(tmp_path, "scripts/script.py").stdout and "compiled: Value" in ours.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_the_files_of_a_link_are_beside_the_file_that_it_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "helpers.py").write_text(GELU, encoding="utf-8")
    (tmp_path / "real" / "script.py").write_text(changed(*ACT), encoding="utf-8")
    os.symlink("real/script.py", tmp_path / "link.py")
    plain, ours = python(tmp_path, "link.py"), python(tmp_path, "-m", "microgpt.run", "link.py")
    assert (ours.stdout, ours.returncode) == (plain.stdout, 0), ours.stderr
    assert "the loss of the training loop" in ours.stderr
