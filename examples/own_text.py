"""Train on your own text, validate on a tenth of it, save the model, and sample from the file.

python examples/own_text.py [TEXT [MODEL.safetensors]]

TEXT is UTF-8, one document per line. Without it, the model learns to write numbers in words.
"""
import sys

from microgpt import Trainer, evaluate, load_docs, split_docs

ONES = "one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def numbers() -> list[str]:
    """Return one to nine hundred ninety-nine, in words."""
    below_100 = [*ONES, *TEENS, *(ten + one for ten in TENS for one in ["", *("-" + one for one in ONES)])]
    return [*below_100, *(f"{one} hundred{rest}" for one in ONES for rest in ["", *(" " + r for r in below_100)])]


docs = load_docs(sys.argv[1]) if len(sys.argv) > 1 else numbers()
path = sys.argv[2] if len(sys.argv) > 2 else "own_text.safetensors"
learned, held_out = split_docs(docs, 0.1)
print(f"{len(learned)} documents to learn from, {len(held_out)} held out")

trainer = Trainer(learned, num_steps=2000, n_embd=32, n_head=4, block_size=32, learning_rate=0.01)
while trainer.step_index < trainer.num_steps:
    losses = trainer.run(500)
    found = evaluate(trainer, held_out)
    print(
        f"step {trainer.step_index:4d} | mean loss {sum(losses) / len(losses):.4f} | held out {found.loss:.4f}, "
        f"{found.bits_per_character:.3f} bits per character"
    )
trainer.save(path)

model = Trainer.load(path)
print(f"saved to {path}; from there, what the model writes:")
for line in model.sample(10, temperature=0.6):
    print(" ", line, "" if line in docs else "(not in the text)")
