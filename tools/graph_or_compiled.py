"""Would `microgpt.compile` serve the graph engine? python tools/graph_or_compiled.py [n_embd [STEPS]]

Trains on the bundled names with document_loss, as the graph engine does, and with the script's loss compiled, alternating;
prints the time a step, with and without the order that the graph engine records, how long compiling takes, and the memory
of the programs. docs/develop/graph-engine.md has the figures.
"""
import gc
import random
import resource
import statistics
import sys
import time

import microgpt
from microgpt import GPT, Adam, gpt, softmax


def documents(steps):
    docs = microgpt.load_docs()
    random.Random(42).shuffle(docs)
    tokenizer = microgpt.Tokenizer(docs)
    return tokenizer.vocab_size, [tokenizer.encode(docs[i % len(docs)]) for i in range(steps)]


def loss_of(model):
    @microgpt.compile(verify=False)
    def loss(tokens):
        keys, values = [[] for _ in range(model.n_layer)], [[] for _ in range(model.n_layer)]
        losses = []
        for position in range(min(model.block_size, len(tokens) - 1)):
            probs = softmax(gpt(tokens[position], position, keys, values, model))
            losses.append(-probs[tokens[position + 1]].log())
        return (1 / len(losses)) * sum(losses)

    return loss


def graph_loss(model, sort):
    def loss(tokens):
        value = microgpt.document_loss(tokens, model)
        if sort:
            _ = value._children  # forgets the order that was recorded while the graph was built
        return value

    return loss


def train(loss, model, documents):
    """The seconds at which each step was done."""
    optimizer, done = Adam(model, num_steps=len(documents)), []
    start = time.perf_counter()
    for tokens in documents:
        loss(tokens).backward()
        optimizer.step()
        done.append(time.perf_counter() - start)
    return done


def main(arguments):
    n_embd, steps = int(arguments[0]) if arguments else 16, int(arguments[1]) if len(arguments) > 1 else 1000
    vocab_size, tokens = documents(steps)
    words = ("graph", "sorted", "compiled")
    total, per_step, programs, losses = {word: [] for word in words}, {word: [] for word in words}, None, []
    for _ in range(3):
        for word in total:
            model = GPT(vocab_size, n_embd=n_embd, rng=random.Random(7))
            compiled = loss_of(model) if word == "compiled" else None
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            done = train(compiled or graph_loss(model, word == "sorted"), model, tokens)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            total[word].append(done[-1])
            per_step[word].append(statistics.median(b - a for a, b in zip(done[steps // 2:], done[steps // 2 + 1:])))
            losses.append(model.data.tobytes())
            if word == "compiled":
                entries = list(compiled.entries.values())
                timing = sum(sum(entry.timing) for entry in entries)
                kib = sum(entry.program.info["bytes"] for entry in entries) >> 10
                programs = (len(entries), min(timing, programs[1]), kib, programs[3]) if programs else (len(entries), timing, kib, grown)
            gc.collect()
    if len(set(losses)) != 1:
        print("the parameters differ")
        return 1
    shapes, milliseconds, kib, grown = programs
    in_order = min(per_step["sorted"])
    graph, compiled = min(per_step["graph"]), min(per_step["compiled"])
    print(f"n_embd {n_embd}, {steps} steps over the names, {shapes} shapes; the same parameters, bit for bit")
    print(f"a step:        graph {1e6 * graph:.0f} us, compiled {1e6 * compiled:.0f} us (Adam included)")
    print(f"without the recorded order: graph {1e6 * in_order:.0f} us")
    print(f"all steps:     graph {1e3 * min(total['graph']):.0f} ms, compiled {1e3 * min(total['compiled']):.0f} ms")
    print(f"compiling:     {milliseconds:.0f} ms, {milliseconds / shapes:.1f} ms a shape; {kib} KiB of programs, memory grew by "
          f"{grown} KiB")
    print(f"compiled is ahead after {milliseconds / 1e3 / (graph - compiled):.0f} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
