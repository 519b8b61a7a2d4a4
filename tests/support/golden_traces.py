"""Golden traces: what the original prints and computes in a dozen small runs, recorded once and kept in golden/.

    for name in CONFIGURATIONS: config, text, trace = load_trace(name)

The live reference in the same process is the oracle of every test; the recorded traces are a second net, for the day
when the reference itself changes. Their last bits belong to the C library that made them (exp, log, pow, sin and cos
are not correctly rounded, and differ between libraries and processors). So each file carries a fingerprint of that
library, and where another one is running `load_trace` records the trace again instead of reading it.

golden/make_golden.py writes the files.
"""
import hashlib
import json
import math
import struct
from functools import cache
from pathlib import Path

import oracle

from microgpt.data import BUNDLED

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

# Texts, as in a file of documents, one a line.

NAMES = "\n".join(Path(BUNDLED).read_text(encoding="utf-8").split("\n")[::100]) + "\n"

ONE_LETTER = "a\naa\naaa\naaaaa\naaaaaaaa\n"

NON_ASCII = """\
crème brûlée
smörgåsbord
τυρί και μέλι
борщ со сметаной
寿司とお茶
kawa\u0301 po turecku
🍞🧀🍷
"""

SENTENCES = """\
the river rose in the night and took the small bridge with it
nobody had crossed it for years, except for the cat
in the morning the miller counted his planks twice
then he sat down & wrote a letter: "dear county, ..."
"""

FEW = "ada\ngrace\n\n  alan \nkonrad"

# The original's settings; a configuration below says what it has otherwise, and its text.

DEFAULTS = dict(
    steps=12, seed=42, n_embd=16, n_head=4, n_layer=1, block_size=16, samples=5,
    learning_rate=0.01, beta1=0.85, beta2=0.99, eps_adam=1e-8, init_std=0.08, temperature=0.5,
)

CONFIGURATIONS = {
    "default": (NAMES, {}),
    "short_block": (NAMES, dict(block_size=4, steps=20)),
    "three_layers_odd_heads": (NAMES, dict(n_embd=15, n_head=3, n_layer=3, block_size=8, steps=4, samples=2)),
    "wide": (NAMES, dict(n_embd=40, n_head=5, block_size=8, steps=3, samples=1)),
    "no_layers": (NAMES, dict(n_embd=5, n_head=5, n_layer=0)),
    "one_step": (NAMES, dict(steps=1, n_head=1)),
    "smallest": (NAMES, dict(n_embd=1, n_head=1, block_size=1, steps=20)),
    "one_letter": (ONE_LETTER, dict(n_embd=4, n_head=2, steps=10)),
    "non_ascii": (NON_ASCII, dict(n_embd=12, n_head=4, steps=9)),
    "long_documents": (SENTENCES, dict(n_embd=8, n_head=8, n_layer=2, block_size=24, steps=5, samples=2)),
    "other_settings": (FEW, dict(
        seed=-7, n_embd=10, n_head=2, n_layer=2, learning_rate=0.03, beta1=0.9, beta2=0.999, eps_adam=1e-6,
        init_std=0.2, temperature=1.3,
    )),
}


def configuration(name):
    """(config, text) of a configuration, config with all its settings."""
    text, settings = CONFIGURATIONS[name]
    return DEFAULTS | settings, text


def digest(numbers):
    """SHA-256 over numbers as little-endian float64."""
    numbers = [float(x) for x in numbers]
    return hashlib.sha256(struct.pack(f"<{len(numbers)}d", *numbers)).hexdigest()


def record(text, config):
    """The trace of a run of the original, which microgpt.reference computes, a dict:

    input_sha256, num_params; losses: `float.hex` of each; init_sha256, grads_sha256_stepN for the first, second and
    last step (before Adam clears them) and params_sha256 at the end: digests in the order of `params`; stdout: what
    the original prints.
    """
    docs = [l.strip() for l in text.strip().split("\n") if l.strip()]
    settings = {name: value for name, value in config.items() if name != "steps"}
    run = oracle.run(docs, config["steps"], **settings)
    return {
        "input_sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "num_params": len(run.params),
        "init_sha256": digest(run.initial),
        "losses": [loss.hex() for loss in run.losses],
        **{f"grads_sha256_step{step}": digest(grads) for step, grads in run.grads},
        "params_sha256": digest(run.params),
        "stdout": run.printed(len(docs)),
    }


# The functions of the C library that the original calls: `**` is pow; Random.gauss calls log, cos and sin. (sqrt, which
# it also calls, is correctly rounded everywhere.) libm_arguments.json holds arguments for each at which the exact
# result is next to the middle between two doubles, where an approximation decides the last bit.
LIBM = {
    "exp": math.exp,
    "log": math.log,
    "cos": math.cos,
    "sin": math.sin,
    **{f"pow {y}": lambda x, y=y: x**y for y in (2.0, 0.5, -1.0, -0.5, -1.5, -2.0)},
}


def libm_arguments():
    """Function -> its arguments, a list of float."""
    arguments = json.loads((GOLDEN / "libm_arguments.json").read_text(encoding="ascii"))
    return {name: [float.fromhex(x) for x in xs] for name, xs in arguments.items()}


def libm_arguments_digest():
    return digest(x for xs in libm_arguments().values() for x in xs)


@cache
def libm_fingerprint():
    """SHA-256 over the bits of every function in LIBM at its arguments, and of the powers of beta1 and beta2."""
    results = [LIBM[name](x) for name, xs in libm_arguments().items() for x in xs]
    results += [beta**t for beta in (0.85, 0.99, 0.9, 0.999) for t in range(1, 51)]
    return digest(results)


def golden_file(name):
    """What belongs into a configuration's file here and now, a dict.

    libm_arguments tells a fingerprint of other arguments, which is out of date, from that of another library.
    """
    return {
        "libm_arguments": libm_arguments_digest(),
        "libm": libm_fingerprint(),
        "config": configuration(name)[0],
        "trace": live_trace(name),
    }


@cache
def live_trace(name):
    """A configuration's trace as microgpt.reference makes it here and now."""
    config, text = configuration(name)
    return record(text, config)


def read_file(name, folder=GOLDEN):
    """A configuration's golden file, a dict as `golden_file` makes it."""
    try:
        return json.loads((folder / f"{name}.json").read_text(encoding="ascii"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no golden trace {name}: run tests/golden/make_golden.py") from None


def load_trace(name, folder=GOLDEN):
    """(config, text, trace) of one configuration: from its file if this C library made it, else recorded again."""
    config, text = configuration(name)
    file = read_file(name, folder)
    if (file["config"], file["libm_arguments"]) != (config, libm_arguments_digest()):
        raise ValueError(f"golden trace {name} is of other settings or libm arguments: run tests/golden/make_golden.py")
    return config, text, file["trace"] if file["libm"] == libm_fingerprint() else live_trace(name)
