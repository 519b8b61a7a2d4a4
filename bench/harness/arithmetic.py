"""The arithmetic of a training step, counted from the model's shape and not measured."""


def num_params(vocab_size, n_embd, n_layer, block_size):
    """Return the number of parameters."""
    return (2 * vocab_size + block_size) * n_embd + 12 * n_layer * n_embd * n_embd


def flops(positions, vocab_size, n_embd, n_layer, block_size):
    """Return the additions, multiplications and divisions of one document: forward, backward and Adam.

    Each weight is multiplied and added once forward and twice backward per position; so is each pair of positions
    that attend to one another, for each of n_embd, in the scores and in the weighted sum. Adam takes 14 operations
    per parameter, a square root counted as one. Softmax and rmsnorm, a few per cent, are left out.
    """
    weights = 12 * n_layer * n_embd * n_embd + vocab_size * n_embd
    pairs = positions * (positions + 1) // 2
    forward = 2 * positions * weights + 4 * n_layer * n_embd * pairs
    return 3 * forward + 14 * num_params(vocab_size, n_embd, n_layer, block_size)
