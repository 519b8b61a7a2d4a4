"""Numbers between a script's Values and a model."""
import math

import pytest

from microgpt import GPT, Value
from microgpt.core.transfer import are_parameters, from_model, to_model


def test_numbers_go_there_and_back():
    model = GPT(2, 2, 1, 0, 1)
    numbers = [-0.0, math.inf, math.nan, 5e-324, 1e300, 0.1, -3.0, 2.0, 4.0, 5.0]
    values = [Value(x) for x in numbers]
    values = values[::-1]  # their slots need not be in order
    for i, value in enumerate(values):
        value.grad = -i
    to_model(values, model)
    assert [x.hex() for x in model.data.tolist()] == [x.hex() for x in reversed(numbers)]
    assert [x.hex() for x in model.grad.tolist()] == [(-float(i)).hex() if i else "0x0.0p+0" for i in range(10)]
    model.data[:], model.grad[:] = range(10), numbers
    from_model(model, values)
    assert [v.data for v in values] == [*range(10)] and [v.grad.hex() for v in values] == [x.hex() for x in numbers]


class Other(Value):
    pass


@pytest.mark.parametrize("make", [lambda v: v + 1, lambda v: 0.5, lambda v: None, lambda v: Other(1.0), lambda v: Value(1.0, (v,), (2.0,)),
                                  lambda v: v, lambda v: Value.__new__(Value)])  # fmt: skip
def test_what_is_no_parameter_is_refused(make):
    values = [Value(float(i)) for i in range(10)]
    assert are_parameters(values) and are_parameters([])
    wrong = [*values[:9], make(values[3])]
    model = GPT(2, 2, 1, 0, 1)
    before = model.data.tolist()
    assert not are_parameters(wrong)
    for call in (lambda: to_model(wrong, model), lambda: from_model(model, wrong), lambda: to_model(values[:9], model)):
        with pytest.raises(ValueError, match="one for each parameter"):
            call()
    assert model.data.tolist() == before and [v.data for v in values] == [*range(10)]
    with pytest.raises(RuntimeError, match="not been called"):
        to_model(values, GPT.__new__(GPT))
