"""A chain of ten million nodes is built, differentiated and freed, without recursion."""
from microgpt.core.value import Value

LENGTH = 5_000_000  # of additions, each with a constant of its own: ten million nodes


def chain():
    start = x = Value(1.0)
    for _ in range(LENGTH):
        x = x + 1.0
    assert x.data == LENGTH + 1
    x.backward()
    assert start.grad == 1.0
    return x


x = chain()
del x
print("ok")
