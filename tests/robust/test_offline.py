"""Nothing here talks to a network, at import or when it runs; nothing is started, nothing is written unasked."""
import subprocess
import sys

from conftest import environment

WATCH = """
import sys
seen = set()
def watch(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "subprocess.", "os.system", "os.exec",
                         "os.posix_spawn", "os.fork")):
        seen.add(event)
    # 0o3: the access mode of os.open; files are written where the user says, which is nowhere here.
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o3 and not str(arguments[0]).startswith("/dev/"):
        seen.add(f"open {arguments[0]} to write")
sys.addaudithook(watch)
"""


def test_no_network_no_processes_no_files(tmp_path):
    code = WATCH + """
from microgpt import Trainer, Value, load_docs, simd_info
from microgpt.train import main
a = Value(2.0)
(a * 3.0).backward()
for engine in ("fused", "graph", "reference"):
    trainer = Trainer(["emma", "ava"], num_steps=2, engine=engine, n_embd=4, n_head=2, block_size=4)
    trainer.run()
    trainer.sample(2)
    if engine != "reference":
        trainer.model.data
assert len(load_docs()) > 1000
sys.argv = ["train", "--steps", "2", "--quiet", "--n-embd", "4"]
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted(seen), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-B", "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert not list(tmp_path.iterdir())


def test_the_watch_sees_a_socket():
    code = WATCH + "import socket\nsocket.socket().close()\nprint(sorted(seen))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['socket.__new__']\n"
