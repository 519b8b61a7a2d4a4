"""What the scripts of this folder share. Nothing here computes anything of the model.

machine   which package is measured, on what, pinned to which core
task      the text, the documents' tokens and the first parameters, written once for every contender
worker    the child process in which one contender runs;  run_script: the same for an unedited microgpt.py
contender the parent's side of such a process
measure   interleaved rounds, medians, spread, ratios, and what to distrust
bits      whether two lists of losses are equal
table     plain text and Markdown;  report: JSON files;  progress: stderr
"""
