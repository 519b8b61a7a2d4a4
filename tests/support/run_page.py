"""Run every code block of a page of the documentation in the current folder, in order.

    python tests/support/run_page.py PAGE.md [LANGUAGE ...]

```python         runs in one namespace per page; a block of ```text right after it is what it prints
```python >>>     is a doctest
```bash           commands, each of which must succeed; long runs are shortened
```console        `$ COMMAND` and what it prints on stdout

In expected output a line of `...` stands for any lines, and `...` within a line for any text. Blocks whose first line is
`# needs: PACKAGE` and blocks of other languages are not run, nor those of languages not given. An error names the line of the page.
"""
import contextlib
import doctest
import gc
import io
import linecache
import os
import re
import shlex
import subprocess
import sys
import traceback

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SHORTER = {"5000": "60", "100000": "60", "1000": "30", "100": "20"}


def blocks(page):
    """[(line, language, text)] of the code blocks of a page's text."""
    return [(page[: m.start()].count("\n") + 2, m[1], m[2]) for m in BLOCK.finditer(page)]


def matches(expected, found):
    """Whether output is what a page shows, in which `...` stands for anything."""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.(?:\n|$)|\.\.\.", expected.rstrip("\n"), flags=re.M)]
    return re.fullmatch(".*?".join(parts), found.rstrip("\n"), re.S) is not None


def must_match(expected, found):
    if not matches(expected, found):
        raise AssertionError(f"the page shows\n{expected}\nbut this is printed:\n{found}")


def shell(line, shorten):
    """stdout of a command line of a page; it must succeed."""
    words, target = shlex.split(line, comments=True), None
    if ">" in words:
        words, target = words[: words.index(">")], words[-1]
    if shorten:
        words = [SHORTER.get(word, word) for word in words]
    if words[0] == "microgpt":
        words[:1] = ["python", "-m", "microgpt"]
    if words[0] == "python":
        words[0] = sys.executable
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", stdin=subprocess.DEVNULL)
    if done.returncode:
        raise AssertionError(f"{line}: exit status {done.returncode}\n{done.stderr}")
    if target:
        with open(target, "w", encoding="utf-8") as file:
            file.write(done.stdout)
    return done.stdout


def run_python(text, expected, namespace, name):
    """Run a block; its source is known under that name to what reads the source of functions."""
    linecache.cache[name] = len(text), None, text.splitlines(True), name
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, name, "exec"), namespace)
    if expected is not None:
        must_match(expected, out.getvalue())


def run_doctest(text, namespace):
    test = doctest.DocTestParser().get_doctest(text, namespace, "page", None, 0)
    out = io.StringIO()
    if doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=out.write, clear_globs=False).failed:
        raise AssertionError(out.getvalue())


def run_console(text):
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        line, _, expected = part.partition("\n")
        must_match(expected, shell(line, shorten=False))


def run(page, languages):
    """Run the blocks of a page's text that are in these languages; return their number."""
    namespace, count = {"__name__": "__main__"}, 0
    found = blocks(page)
    for i, (line, language, text) in enumerate(found):
        if text.startswith("# needs: ") or language not in languages:
            continue
        after = found[i + 1] if i + 1 < len(found) else None
        expected = None
        if after and after[1] == "text" and after[0] == line + text.count("\n") + 3:
            expected = after[2]
        try:
            if language == "python" and text.startswith(">>>"):
                run_doctest(text, namespace)
            elif language == "python":
                run_python(text, expected, namespace, f"page_line_{line}.py")
            elif language == "bash":
                for command in text.replace("\\\n", " ").splitlines():
                    if shlex.split(command, comments=True):
                        shell(command, shorten=True)
            else:
                run_console(text)
        except Exception as error:
            traceback.print_exc()
            raise SystemExit(f"line {line}: {error}") from None
        count += 1
    return count


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"
    gc.disable()  # as in oracle.py
    with open(sys.argv[1], encoding="utf-8") as file:
        print(run(file.read(), sys.argv[2:] or ("python", "bash", "console")), "blocks")
