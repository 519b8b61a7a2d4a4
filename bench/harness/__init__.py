"""Shared code of the benchmarks. Nothing here computes anything of the model.

machine    which package is measured, on which machine, pinned to which core, and what that core can do at most
task       the text, the documents' tokens and the initial parameters, written once for every contender
worker     the child process of one contender, and engine, one of ours;  run_script: the same for an unedited microgpt.py
contender  the parent's side of such a process, and the contenders of each benchmark
edited     programs with a part replaced, and as modules
contest    contenders in turns on one task, judged by their bits
measure    turns, medians, spread, ratios, noise; verdicts on bits
cli        common options, the beginning of each script;  report: its end, JSON files;  table: plain text and Markdown
micro      the same for the benchmarks that pyperf runs
"""
