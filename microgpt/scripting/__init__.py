"""`microgpt run`: which parts of a script are the original's, and what replaces them.

trees        compares syntax trees;  names: which names a part reads and sets;  modules: files of the user's that are imported
definitions  what script and files define
flow         where Values and their numbers get to
value_class  whether the script's class may be replaced
loss         takes the loss out of a training loop;  optimizer: the loops that update parameters
plan         decides what is replaced;  plan_cache: keeps that for the next run
runtime      the replacements;  fused_loops: the original's own loops on the fused engine
"""
