"""All of microgpt.py in ten lines, with this package: python examples/ten_lines.py"""
from microgpt import Trainer, load_docs

trainer = Trainer(load_docs())
print(f"num docs: {len(trainer.docs)}")
print(f"vocab size: {len(trainer.tokenizer)}")
print(f"num params: {len(trainer.model.params)}")
for step in range(1000):
    print(f"step {step + 1:4d} / 1000 | loss {trainer.step():.4f}")
print("\n--- inference (new, hallucinated names) ---")
for i, name in enumerate(trainer.sample(20)):
    print(f"sample {i + 1:2d}: {name}")
