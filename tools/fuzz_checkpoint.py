"""python tools/fuzz_checkpoint.py [COUNT] [SEED]: load damaged checkpoints; each must be refused, or load.

A file is truncated, flipped, overwritten, given other shapes, types, offsets, settings or a huge header, or it is
another program's safetensors file. `Trainer.load` must end in CheckpointError, or, where only a number changed, in a
trainer that still samples or says why not. Anything else, more than 10 seconds, or more than 1 GiB of memory, ends the program with
a traceback and leaves the file behind.
"""
import copy
import json
import os
import random
import signal
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from microgpt import Trainer
from microgpt.storage.checkpoint import CheckpointError

MEMORY, SECONDS = 2**30, 10
DOCS = ["emma", "olivia", "ava", "zoë", "mia"]
NASTY = [None, True, False, 0, -1, 1, 2, 3, 2**31, 2**53, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308,
         float("nan"), float("inf"), "", "x", "a" * 1000, "\ud800", [], [[]], {}, {"a": 1}, [1] * 100,
         "0x1p0", "nan", "9" * 5000]  # fmt: skip
DTYPES = ["F64", "F32", "F16", "BF16", "I64", "U32", "U8", "BOOL", "F8_E4M3", "X", "", None, 5]


def nasty(rng):
    return copy.deepcopy(rng.choice(NASTY))


def good_files():
    """Checkpoints to damage: small ones, of different shapes."""
    found = []
    for settings in (dict(n_embd=2, n_head=1, block_size=2), dict(n_embd=4, n_head=2, n_layer=3, block_size=3),
                     dict(n_embd=1, n_head=1, n_layer=0, block_size=1)):  # fmt: skip
        trainer = Trainer(DOCS, num_steps=9, **settings)
        trainer.run(2)
        trainer.extra["val_fraction"] = 0.25
        found.append(saved(trainer))
    # Format 2: ranges of code points, a seed in hexadecimal, an optimizer whose settings were changed.
    text = "".join(map(chr, range(0xD7F0, 0xD810)))
    trainer = Trainer([text, "ab"], num_steps=9, seed=10**700, n_embd=2, n_head=1, n_layer=1, block_size=2)
    trainer.run(2)
    trainer.adam.learning_rate = 0.5
    found.append(saved(trainer))
    return found


def saved(trainer):
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(Path(folder) / "x")
        return (Path(folder) / "x").read_bytes()


def parts(content):
    """(header as an object, data)"""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    try:
        text = json.dumps(header).encode()
    except UnicodeEncodeError:
        text = json.dumps(header, ensure_ascii=True).encode()
    return struct.pack("<Q", len(text)) + text + data


def truncated(rng, content):
    return content[: rng.randrange(len(content))]


def extended(rng, content):
    return content + rng.randbytes(rng.choice([1, 8, 100, 5000]))


def flipped(rng, content):
    found = bytearray(content)
    end = len(found) if rng.random() < 0.3 else 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(rng.choice([1, 1, 2, 8])):
        found[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(found)


def overwritten(rng, content):
    found, length = bytearray(content), rng.choice([1, 4, 16, 64])
    first = rng.randrange(len(found))
    found[first : first + length] = rng.choice([b"\0" * length, b"\xff" * length, rng.randbytes(length)])
    return bytes(found)


def other_length(rng, content):
    length = rng.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(content), len(content) - 8, rng.randrange(2**24)])
    return struct.pack("<Q", length) + content[8:]


def huge_header(rng, content):
    header, data = parts(content)
    kind = rng.randrange(6)
    if kind == 0:
        header["__metadata__"]["filler"] = "x" * rng.choice([2**20, 2**23, 2**24])
    elif kind == 1:
        text = b"[" * rng.choice([1000, 2**20])
        return struct.pack("<Q", len(text)) + text + data
    elif kind == 2:
        header["__metadata__"]["microgpt"] = "[" * rng.choice([900, 100_000, 2**20])
    elif kind == 3:
        header.update((f"t{i}", {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}) for i in range(20_000))
    elif kind == 4:
        header["__metadata__"]["microgpt"] = json.dumps([[]] * rng.choice([1000, 2_000_000]))
    else:
        text = b'{"a":' + b"9" * rng.choice([5000, 2**22]) + b"}"
        return struct.pack("<Q", len(text)) + text + data
    return joined(header, data)


def other_metadata(rng, content):
    header, data = parts(content)
    about = json.loads(header["__metadata__"]["microgpt"])
    for _ in range(rng.choice([1, 1, 2, 3])):
        parts_of_it = [part for part in (about.get("settings"), about.get("adam")) if isinstance(part, dict) and part]
        target = rng.choice([about, about, *parts_of_it])
        key = rng.choice([*target, "new"])
        if rng.random() < 0.15:
            target.pop(key, None)
        else:
            target[key] = nasty(rng)
    text = json.dumps(about)
    header["__metadata__"]["microgpt"] = text if rng.random() < 0.9 else nasty(rng)
    if rng.random() < 0.05:
        header["__metadata__"] = nasty(rng)
    return joined(header, data)


def other_tensors(rng, content):
    header, data = parts(content)
    name = rng.choice([key for key in header if key != "__metadata__"])
    kind = rng.randrange(7)
    if kind == 0:
        header[name]["shape"] = rng.choice([[], [0], [2**40, 2**40], [-1, 2], [1] * 1000, "x", None, [1.5], [True, 2],
                                            header[name]["shape"][::-1]])  # fmt: skip
    elif kind == 1:
        header[name]["dtype"] = rng.choice(DTYPES)
    elif kind == 2:
        header[name]["data_offsets"] = rng.choice([[0, 0], [0, 2**63], [8, 0], [-8, 8], [0], [], "x", None, [0.5, 1],
                                                   [0, len(data)], [len(data), len(data) + 8]])  # fmt: skip
    elif kind == 3:
        del header[name]
    elif kind == 4:
        header[rng.choice(["x", "", "adam.m.x", "layer9.attn_wq", "__metadata__"])] = header.pop(name)
    elif kind == 5:
        other = rng.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    else:
        header[name] = nasty(rng)
    return joined(header, data)


def foreign(rng, content):
    """Another program's model, with or without our metadata."""
    tensors = {}
    for i in range(rng.randrange(6)):
        shape = tuple(rng.randrange(5) for _ in range(rng.randrange(4)))
        dtype = rng.choice([np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_])
        name = rng.choice(["wte", "wpe", f"transformer.h.{i}.attn.weight", "rng.state", "lm_head"])
        tensors[name] = np.zeros(shape, dtype)
    header, _ = parts(content)
    ours = {"microgpt": header["__metadata__"]["microgpt"]}
    metadata = rng.choice([None, {"format": "pt"}, {"microgpt": "{}"}, ours])
    return save(tensors, metadata=metadata)


def nonsense(rng, content):
    lengths = {text: struct.pack("<Q", len(text)) for text in (b"{}", b"[]", b"null")}
    return rng.choice([b"", b"{}", b"PK\x03\x04", b"\x80\x04\x95", rng.randbytes(rng.randrange(200)),
                       *(length + text for text, length in lengths.items())])  # fmt: skip


DAMAGES = [truncated, extended, flipped, flipped, overwritten, other_length, huge_header, other_metadata,
           other_metadata, other_tensors, other_tensors, foreign, nonsense]  # fmt: skip
RARE = {huge_header: 0.05}  # slow ones are tried this part of their turns


def outcome(path, docs=None, engine="fused"):
    """What comes of a file, in words; an exception if it is nothing that may."""
    try:
        trainer = Trainer.load(path, docs, engine=engine)
    except CheckpointError as error:
        assert "\n" not in str(error) and str(path) in str(error), error
        return "refused"
    try:
        saved(trainer)
    except (ValueError, TypeError) as error:  # extra data that JSON should not hold, such as nan
        assert "extra" in str(error), error
    try:
        trainer.sample(1)
    except (ValueError, ArithmeticError):  # numbers that no sampling can have; it says so
        return "loaded, but cannot sample"
    return "loaded"


def fuzz(count, seed):
    """Try count files; returns how many were refused, loaded, or loaded but could not sample."""
    rng, files, counts = random.Random(seed), good_files(), Counter()
    folder = Path(tempfile.mkdtemp())
    path = folder / "run.safetensors"
    for number in range(count):
        damage = rng.choice(DAMAGES)
        while rng.random() > RARE.get(damage, 1):
            damage = rng.choice(DAMAGES)
        content = damage(rng, rng.choice(files))
        path.write_bytes(content)
        if number % 1000 == 7:
            os.truncate(path, len(content) + 2**40)  # a file that claims a terabyte, and takes none
        if hasattr(signal, "alarm"):
            signal.alarm(SECONDS)  # ends the program
        counts[outcome(path, rng.choice([None, DOCS]), rng.choice(["fused", "fused", "graph"]))] += 1
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    path.unlink()
    folder.rmdir()
    return counts


def main(count=100_000, seed=1):
    import resource
    import time

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    started = time.perf_counter()
    counts = fuzz(int(count), int(seed))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{count} files in {time.perf_counter() - started:.0f} s, at most {peak} MiB resident: "
          + ", ".join(f"{number} {what}" for what, number in counts.most_common()))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
