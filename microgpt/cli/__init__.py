"""What the commands share: the console, the flags of train, and what they ask for."""


def rest_collector() -> None:
    """Let the garbage collector run seldom, in a process of the command's own.

    A run makes few cycles, and the collector would spend a fiftieth of a short one on the modules that are imported.
    """
    import gc

    gc.set_threshold(100_000)


def spare_collector() -> None:
    """Spare the garbage collector the objects that there are, at the end of a process of the command's own.

    Python collects twice while it exits, and visits all that modules have made. Nothing of a command waits for that: files
    are closed when their work is done.
    """
    import gc

    gc.freeze()
