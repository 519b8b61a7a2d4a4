"""`microgpt run`: which parts of a script are the original's, and what replaces them.

`trees` compares syntax trees, `flow` finds which names a statement reads and sets, `loss` extracts the loss of a training
loop, `plan` decides what is replaced, `runtime` holds the replacements.
"""
