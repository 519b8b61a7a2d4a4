"""Sweeps over a few documents, and what their tests share."""
import json

DOCS = ["emma", "ava", "mia", "olivia", "noah", "liam"]
GRID = {"num_steps": 12, "learning_rate": [0.01, 0.05], "seed": range(3)}


def by_settings(results):
    """What must be the same of two sweeps: the bits of each run, by its settings."""
    return {json.dumps(r.settings): (r.final_loss.hex(), r.loss.hex(), r.val_loss, r.error) for r in results}


def run_main(capfd, *arguments):
    """Call the command; return (status, stdout, stderr)."""
    from microgpt.sweep import main

    status = main([*arguments])
    return status, *capfd.readouterr()
