"""Which code was rewritten: a function of such code records already, and is called as it is."""
import types
import weakref

__all__ = ["remember", "rewritten_codes"]


class _Codes:
    """A set of code objects that may die, by identity: the code of a twin may be equal to that of its function as written."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[types.CodeType]] = {}

    def add(self, code: types.CodeType) -> None:
        key, refs = id(code), self._refs
        refs[key] = weakref.ref(code, lambda ref: refs.pop(key, None) if refs.get(key) is ref else None)

    def __contains__(self, code: types.CodeType) -> bool:
        ref = self._refs.get(id(code))
        return ref is not None and ref() is code


rewritten_codes = _Codes()


def remember(code: types.CodeType) -> None:
    """Note that code was rewritten, and with it all that is in it: functions made while it runs."""
    rewritten_codes.add(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            remember(constant)
