"""What the commands share: the console, the flags of train, and what they ask for."""


def rest_collector() -> None:
    """Let the garbage collector run seldom, in a process of the command's own.

    A run makes few cycles, and the collector would spend a fiftieth of a short one on the modules that are imported.
    """
    import gc

    gc.set_threshold(100_000)
