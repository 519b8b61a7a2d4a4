"""Can each proof fail? One mistake is put into a copy of the sources, and the proof that is to catch it must fail.

    python tools/seeds.py [--list] [NAME ...]

A seed is a replacement in one file, the proof of tools/prove.py that runs on it, and what its failure has to say.
Exit status 1 if a mistake went unnoticed. Nothing outside a temporary folder is changed.
"""
import argparse
import re
import shutil
import sys
import tempfile
import time
from typing import NamedTuple

import prove
from workshop import Bench, Failed, Skipped, find_pythons


class Seed(NamedTuple):
    name: str
    proof: str
    file: str
    old: str
    new: str
    says: str  # a regular expression
    only: tuple = ()  # the tests that are run, where the proof runs the suite


SEEDS = [
    Seed("a file is missing from the sdist", "sdist", "MANIFEST.in", "graft docs\n", "", "lacks docs/"),
    Seed("a file is missing from the wheel", "contents", "pyproject.toml", ', "names.txt"', "", "lacks microgpt/names.txt"),
    Seed("a file too many in the wheel", "contents", "pyproject.toml", "include-package-data = false", "",
         r"holds microgpt/\w+\.pyx as well"),  # fmt: skip
    Seed("headers' declarations without the headers, in the wheel", "contents", "pyproject.toml", '"*.pyi", ',
         '"*.pyi", "*.pxd", ', r"holds microgpt/\w+\.pxd as well"),  # fmt: skip
    Seed("debugging symbols, which name the folder", "reproducible", "setup.py", '["-g0"]', '["-g"]', "the two differ"),
    Seed("a library outside the policies", "policy", "setup.py", '*NO_FAST_MATH, "-lm"]',
         '*NO_FAST_MATH, "-lm", "-Wl,--no-as-needed", "-lgomp"]', "no policy is met"),  # fmt: skip
    Seed("a sum in another order", "processors", "csrc/kernels/body/rmsnorm.h", "(vec_load(dx + i * LANES) + g) + g",
         "vec_load(dx + i * LANES) + (g + g)", r"scalar, shape \d+, [\w ]+ \[\d+\]: 0x"),  # fmt: skip
    Seed("a sum in another order, on NEON alone", "emulated", "csrc/kernels/body/rmsnorm.h",
         "(vec_load(dx + i * LANES) + g) + g",
         "\n#define TEXT(name) #name\n#define TEXT_OF(name) TEXT(name)\n(TEXT_OF(MG_NAME)[0] == 'n' ? "
         "vec_load(dx + i * LANES) + (g + g) : (vec_load(dx + i * LANES) + g) + g)\n",
         r"(?s)gcc, aarch64 +FAILED.*neon, shape"),  # fmt: skip
    Seed("multiplications fused with additions", "processors", "csrc/kernels/body/table.h", "#include <math.h>\n",
         '#include <math.h>\n#pragma GCC optimize("fp-contract=fast")\n', "fused multiply-add in "),  # fmt: skip
    Seed("bytes in the processor's order", "emulated", "csrc/kernels/body/adam_unresolved.h", "__builtin_bswap64(bytes)", "bytes",
         r"(?s)gcc, s390x +FAILED.*scalar, shape"),  # fmt: skip
    Seed("a file for more than its instruction set", "compilers", "csrc/kernels/body/exact.h", "#if MG_LANES == 4\n    return (unsig",
         "#if defined(__AVX2__)\n    return (unsig", "last: -mavx2 -mfma +FAILED"),  # fmt: skip
    Seed("a kernel that is wrong, in an installed wheel", "installed", "csrc/kernels/body/rmsnorm.h",
         "(vec_load(dx + i * LANES) + g) + g", "vec_load(dx + i * LANES) + (g + g)", r"\d+ failed"),  # fmt: skip
    Seed("an SBOM with a word that CycloneDX does not know", "sbom", "tools/make_sbom.py", '"scope": "required"',
         '"scope": "needed"', "needed"),  # fmt: skip
    Seed("a workflow with a property that does not exist", "lint", ".github/workflows/wheels.yml", "matrix.skip }}",
         "matrix.skipp }}", 'property "skipp" is not defined'),  # fmt: skip
    Seed("an action that is not pinned", "lint", ".github/workflows/wheels.yml",
         "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1", "actions/checkout@v7", "unpinned-uses"),  # fmt: skip
    Seed("memory that is too short", "sanitize", "csrc/base/arena.c", "malloc((size_t)size + ALIGN)",
         "malloc((size_t)size / 2 + ALIGN)", "heap-buffer-overflow", ("tests/exact/test_fused.py",)),  # fmt: skip
    Seed("a sum that overflows", "sanitize", "csrc/fused/workspace.c", "    doc->inv_n = ",
         "    volatile int32_t most = INT32_MAX;\n    most += (int32_t)n;\n    doc->inv_n = ",
         "signed integer overflow", ("tests/exact/test_fused.py",)),  # fmt: skip
    Seed("a reference that is not counted", "debug", "microgpt/core/nodes.pxd",
         "    tape.node[slot].child0 = child\n    tape.node[slot].local_grad0 = local_grad\n    retain(child)\n",
         "    tape.node[slot].child0 = child\n    tape.node[slot].local_grad0 = local_grad\n",
         "the tape is broken at slot", ("tests/exact/test_value.py",)),  # fmt: skip
    Seed("an allocation that is too short", "debug", "microgpt/core/fused.pyx", "PyMem_Malloc(vocab_size * sizeof(double))",
         "PyMem_Malloc(vocab_size * sizeof(double) - 1)", "bad trailing pad byte|Debug memory block",
         ("tests/exact/test_fused.py",)),  # fmt: skip
    Seed("a reference that Cython took and did not give back", "refnanny", "microgpt/core/mt19937.pyx",
         "cdef class MT19937:",
         'cdef extern from *:\n    void take "__Pyx_GOTREF"(object o)\n\n\n'
         "def take_and_keep(x):\n    y = [x]\n    take(y)\n\n\ntake_and_keep(0)\n\n\n"
         "cdef class MT19937:", "References leaked", ("tests/exact/test_mt19937.py",)),  # fmt: skip
    Seed("a number that was never written", "valgrind", "csrc/fused/workspace.c", "doc->targets[p] = p < n ? tokens[p + 1] : 0;",
         "if (p < n) doc->targets[p] = tokens[p + 1];", "(?i)uninitialised"),  # fmt: skip
    Seed("a derivative that is wrong at 0", "fuzz", "microgpt/core/value.pyx", "if x > 0.0:\n            return wrap(new_unary(x",
         "if x >= 0.0:\n            return wrap(new_unary(x", "--program"),  # fmt: skip
    Seed("memory that is not given back", "leaks", "microgpt/core/fused.pyx", "        mg_engine_free(self.engine)\n", "",
         r"objects: grown by \d{7}"),  # fmt: skip
]


class SeededBench(Bench):
    """A bench on which every copy of the sources has the mistake in it. Environments of tools are another's."""

    seed = library = None

    def venv(self, name, *requirements, python=None):
        owner = self.library if name in ("tools", "tests", "lint", "sbom") else super()
        return owner.venv(name, *requirements, python=python)

    def copy(self, name):
        folder = super().copy(name)
        file = folder / self.seed.file
        text = file.read_text(encoding="utf-8")
        if self.seed.old not in text:
            raise SystemExit(f"{self.seed.name}: {self.seed.file} does not hold {self.seed.old!r} any more")
        file.write_text(text.replace(self.seed.old, self.seed.new), encoding="utf-8")
        return folder


def leaks(bench):
    """tests/robust/test_leaks.py, which is part of the suite and no proof of its own."""
    prove.run_tests(bench, "", "tests/robust/test_leaks.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="seeds, or proofs, to try")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    chosen = [seed for seed in SEEDS if not args.names or {seed.name, seed.proof} & set(args.names)]
    unnoticed, pythons = 0, find_pythons([sys.executable])
    library = Bench(tempfile.mkdtemp(prefix="seeds-"), pythons)
    for seed in chosen:
        if args.list:
            print(f"{seed.proof:12} {seed.name}")
            continue
        folder, start = tempfile.mkdtemp(prefix="seed-"), time.monotonic()
        bench = SeededBench(folder, pythons, ci=True)
        bench.seed, bench.library, bench.only = seed, library, seed.only
        try:
            (leaks if seed.proof == "leaks" else prove.PROOFS[seed.proof][0])(bench)
            result = "UNNOTICED"
        except Skipped as reason:
            result = f"skipped: {reason}"
        except Failed as error:
            match = re.search(seed.says, str(error))
            result = "caught" if match else f"FAILED OTHERWISE\n{error}"
        unnoticed += not result.startswith(("caught", "skipped"))
        shutil.rmtree(folder)
        print(f"{seed.proof:12} {seed.name}: {result} ({time.monotonic() - start:.0f} s)", flush=True)
    shutil.rmtree(library.folder)
    sys.exit(unnoticed > 0)


if __name__ == "__main__":
    main()
