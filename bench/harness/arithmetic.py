"""How much arithmetic a training step is: counted from the model's shape, not measured."""


def num_params(vocab_size, n_embd, n_layer, block_size):
    return (2 * vocab_size + block_size) * n_embd + 12 * n_layer * n_embd * n_embd


def flops(positions, vocab_size, n_embd, n_layer, block_size):
    """Additions, multiplications and divisions of one document: forward, backward and Adam.

    A weight is multiplied and added once forward and twice backward, for each position; so is each pair of positions
    that attend to one another, for each of n_embd, in the scores and in the mix. Adam takes 14 operations a
    parameter, a square root counted as one. Softmax and rmsnorm, a few per cent, are left out.
    """
    weights = 12 * n_layer * n_embd * n_embd + vocab_size * n_embd
    pairs = positions * (positions + 1) // 2
    forward = 2 * positions * weights + 4 * n_layer * n_embd * pairs
    return 3 * forward + 14 * num_params(vocab_size, n_embd, n_layer, block_size)


def least_bytes(vocab_size, n_embd, n_layer, block_size):
    """The least that goes to and from memory once the parameters do not fit into a cache: a weight is read forward and
    backward, its gradient written and read, and Adam reads and writes the weight and both moments: ten doubles."""
    return 10 * 8 * num_params(vocab_size, n_embd, n_layer, block_size)
