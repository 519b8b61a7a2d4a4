# cython: embedsignature=False
"""Adam, for both compiled engines and for users' own parameters (`microgpt.py`, "Adam optimizer")."""
import operator

cimport cython
from libc.stdint cimport int64_t

from microgpt.core._csrc cimport (
    MG_OK,
    MG_POW_COMPLEX,
    MG_POW_RANGE,
    MG_ZERO_DIVISION,
    mg_adam_coefs,
    mg_adam_config,
    mg_adam_decay,
    mg_adam_may_stop,
    mg_adam_prepare,
    mg_adam_update,
    mg_clip_gradient,
)
from microgpt.core.model cimport GPT, lend_doubles
from microgpt.core.simd cimport kernels
from microgpt.core.vmem cimport mg_vmem_commit, mg_vmem_release, mg_vmem_reserve


cdef class Moments:
    """n doubles that begin as 0.0, and the buffer of the NumPy views on them. Number `aligned` is at a multiple of 64."""

    def __cinit__(self, Py_ssize_t n, Py_ssize_t aligned=0):
        cdef size_t size
        if n < 0:
            raise ValueError("there cannot be fewer than 0 numbers")
        self.n, self.stride = n, sizeof(double)
        size = (<size_t>n + 8) * sizeof(double)
        if size // sizeof(double) != <size_t>n + 8:  # more bytes than there are addresses
            raise MemoryError()
        if mg_vmem_reserve(&self.memory, size) != MG_OK or mg_vmem_commit(&self.memory, size) != MG_OK:
            raise MemoryError()
        self.data = <double *>self.memory.start + (-aligned & 7)

    def __dealloc__(self):
        mg_vmem_release(&self.memory)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        lend_doubles(buffer, flags, self, self.data, &self.n, &self.stride)


cdef int raise_adam(int status) except -1:
    """What the script raises where mg_adam_update stops with this status, in the words of the running Python."""
    if status == MG_POW_RANGE:
        operator.pow(1e200, 2)
    if status == MG_ZERO_DIVISION:
        operator.truediv(1.0, 0.0)
    if status == MG_POW_COMPLEX:
        raise ValueError("v is negative: its square root is not a real number")
    raise SystemError(f"unknown status {status}")


# What the script does not have, as its update is made without it.
OFF = {"schedule": "linear", "warmup": 0, "weight_decay": 0.0, "clip": None}

cdef int64_t MOST_STEPS = 0x4000000000000000  # 2**62: counting on from here never overflows


@cython.no_gc_clear  # m_data and v_data point into the moments
cdef class Adam:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(Adam).
    """Adam(params, learning_rate=0.01, beta1=0.85, beta2=0.99, eps=1e-08, num_steps=..., schedule='linear', warmup=0, weight_decay=0.0, clip=None)\n--\n
Adam over a `GPT` or any sequence of Values, with the script's arithmetic.

Parameters
----------
params : GPT or sequence of Value
    What is updated. A sequence is read once. A Value that occurs twice is updated twice per step, the second time
    with a gradient of 0 and moments of its own, as by the script's loop.
learning_rate, beta1, beta2, eps : float
    Settings, which may be read and set at any time.
num_steps : int or None
    The learning rate falls to 0 over this many steps; None: it is constant. By default 1000 for a `GPT` and None for a
    sequence.
schedule : {"linear", "constant", "cosine"}
    How it falls, after the warmup.
warmup : int
    Updates over which the rate rises first: see `reference.scheduled_rate`.
weight_decay : float
    As in AdamW: before Adam's own step every parameter becomes data - rate * weight_decay * data.
clip : float or None
    The largest norm of the gradient: see `reference.clip_gradients`. None: no limit.

Attributes
----------
m, v : float64 arrays [number of parameters]
    The moments, as NumPy views without a copy.
step_index : int
    The updates done so far.

Raises
------
TypeError
    An item of params is not a Value.

The bits are those of `reference.Adam`.
"""

    def __init__(self, params, double learning_rate=0.01, double beta1=0.85, double beta2=0.99, double eps=1e-8,
                 num_steps=..., schedule="linear", warmup=0, double weight_decay=0.0, clip=None):
        cdef Py_ssize_t count
        cdef object leaves = None
        if self.ready_is_known():
            raise TypeError("an Adam is initialised once")
        is_model = isinstance(params, GPT)
        if num_steps is ...:
            num_steps = 1000 if is_model else None
        self._set_num_steps(num_steps)
        self.schedule, self.warmup, self.clip = schedule, warmup, clip
        if self.constant and self.schedule_name == "cosine":
            raise ValueError("the cosine schedule needs num_steps")
        if is_model:
            (<GPT>params).ready()
            count = (<GPT>params).num_params
        else:
            from .optim import Leaves

            leaves = Leaves(params)
            count = len(leaves)
        self.config.learning_rate, self.config.beta1, self.config.beta2 = learning_rate, beta1, beta2
        self.config.eps, self.config.weight_decay = eps, weight_decay
        aligned = 0 if leaves is None else leaves.first_aligned
        self.m_moments, self.v_moments = Moments(count, aligned), Moments(count, aligned)
        self.m_data, self.v_data = self.m_moments.data, self.v_moments.data
        if is_model:
            self.model = params
        else:
            self.leaves = leaves

    cdef bint ready_is_known(self):
        return self.model is not None or self.leaves is not None

    cdef int ready(self) except -1:
        """Raise RuntimeError where __init__ has not run to its end: a subclass may forget it."""
        if not self.ready_is_known():
            raise RuntimeError("Adam.__init__ has not been called")
        return 0

    cdef int plan(self, mg_adam_config *config, double *rates, Py_ssize_t count) except -1:
        """The settings of the next count updates as they are now: other threads may set them meanwhile.

        rates: room for count numbers, to which config may point.
        """
        cdef Py_ssize_t i, step = self.steps
        config[0] = self.config
        cdef bint constant = self.constant or self.schedule_name == "constant"
        if self.warmup_steps == 0 and not constant and self.schedule_name == "linear":
            return 0
        if self.warmup_steps == 0 and constant:
            for i in range(count):
                rates[i] = config.learning_rate
        else:
            from microgpt.reference import scheduled_rate

            num_steps, schedule, warmup = self.num_steps, self.schedule_name, self.warmup_steps
            for i in range(count):
                rates[i] = scheduled_rate(step + i, config.learning_rate, num_steps, schedule, warmup)
        config.rates, config.first_rate = rates, step
        return 0

    def rate(self, Py_ssize_t step_index):
        """Return the learning rate of an update, counted from 0."""
        from microgpt.reference import scheduled_rate

        self.ready()
        return scheduled_rate(step_index, self.config.learning_rate, self.num_steps, self.schedule_name, self.warmup_steps)

    cdef int prepare(self, mg_adam_coefs *coefs) except -1:
        """The coefficients of this step; raise what the script would before it touches a parameter."""
        cdef mg_adam_config config
        cdef double rate
        cdef int status
        self.plan(&config, &rate, 1)
        if config.rates == NULL and config.num_steps == 0:
            operator.truediv(self.steps, 0)
        status = mg_adam_prepare(&config, self.steps, coefs)
        if status != MG_OK:
            raise_adam(status)
        return 0

    def step(self):
        """Move every parameter against its gradient, and clear the gradients. The GIL is released.

        Raises what the script would: ZeroDivisionError if num_steps is 0, a beta is 1, or v and eps are both 0;
        OverflowError if a gradient's square overflows. The parameters before the one at fault are updated then, those
        after it are not. Other than in the script, a negative v (beta2 > 1, or written by hand) is a ValueError at
        once, not a complex number later.
        """
        self._step(False)

    def _step(self, bint libm):
        """libm: ask the C library for every power, as the script does, to compare with."""
        cdef mg_adam_coefs coefs
        cdef int status
        self.ready()
        if self.model is None:
            self.leaves.adam_step(self, libm)
            return
        self.prepare(&coefs)
        config = self.model.config()
        with nogil:
            mg_clip_gradient(&config, coefs.clip, self.model.params_grad)
            mg_adam_decay(&coefs, self.model.num_params, self.model.params_data)
            status = mg_adam_update(kernels(), &coefs, self.model.num_params, self.model.params_data,
                                    self.model.params_grad, self.m_data, self.v_data, libm)
        if status != MG_OK:
            raise_adam(status)
        self.steps += 1

    def may_stop_midway(self):
        """Return whether `step` may raise with some parameters updated. Raises what `step` raises before it changes any."""
        cdef mg_adam_coefs coefs
        cdef int found
        self.ready()
        if self.model is None:
            raise TypeError("this Adam has no model")
        self.prepare(&coefs)
        with nogil:
            found = mg_adam_may_stop(kernels(), &coefs, self.model.num_params, self.model.params_grad, self.v_data)
        return bool(found)

    @property
    def m(self):
        """The first moments: a NumPy view, [num_params] float64, without a copy."""
        from numpy import frombuffer

        self.ready()
        return frombuffer(self.m_moments)

    @property
    def v(self):
        """The second moments: a NumPy view, [num_params] float64, without a copy."""
        from numpy import frombuffer

        self.ready()
        return frombuffer(self.v_moments)

    @property
    def learning_rate(self):
        return self.config.learning_rate

    @learning_rate.setter
    def learning_rate(self, double value):
        self.config.learning_rate = value

    @property
    def beta1(self):
        return self.config.beta1

    @beta1.setter
    def beta1(self, double value):
        self.config.beta1 = value

    @property
    def beta2(self):
        return self.config.beta2

    @beta2.setter
    def beta2(self, double value):
        self.config.beta2 = value

    @property
    def eps(self):
        return self.config.eps

    @eps.setter
    def eps(self, double value):
        self.config.eps = value

    @property
    def num_steps(self):
        return None if self.constant else self.config.num_steps

    @num_steps.setter
    def num_steps(self, value):
        self._set_num_steps(value)

    cdef int _set_num_steps(self, value) except -1:
        cdef Py_ssize_t number = 0
        if value is not None:
            number = value
        self.config.num_steps, self.constant = number, value is None
        return 0

    @property
    def schedule(self):
        return self.schedule_name

    @schedule.setter
    def schedule(self, value):
        if value != "linear":
            from microgpt.config import check_schedule

            value = check_schedule(value)
        self.schedule_name = value

    @property
    def warmup(self):
        return self.warmup_steps

    @warmup.setter
    def warmup(self, value):
        cdef Py_ssize_t number = value
        if number < 0:
            raise ValueError(f"warmup must be at least 0, not {value}")
        self.warmup_steps = number

    @property
    def weight_decay(self):
        return self.config.weight_decay

    @weight_decay.setter
    def weight_decay(self, double value):
        self.config.weight_decay = value

    @property
    def clip(self):
        return self.config.clip or None

    @clip.setter
    def clip(self, value):
        if value is not None:
            from microgpt.config import check_clip

            value = check_clip(value)
        self.config.clip = value or 0.0

    @property
    def params(self):
        """The Values that are updated, a list."""
        self.ready()
        return list(self.leaves.values if self.model is None else self.model.params)

    @property
    def step_index(self):
        return self.steps

    @step_index.setter
    def step_index(self, Py_ssize_t value):
        if value > MOST_STEPS:
            raise ValueError(f"step_index ({value}) must be at most 2**62")
        self.steps = value

    def __reduce_ex__(self, protocol):
        raise TypeError("an Adam cannot be copied or pickled: save its Trainer, or its state by microgpt.save_values")

    def __repr__(self):
        if not self.ready_is_known():
            return f"<{type(self).__name__}, not initialised>"
        more = "".join(f"{name}={getattr(self, name)!r}, " for name, off in OFF.items() if getattr(self, name) != off)
        return (f"Adam(learning_rate={self.learning_rate}, beta1={self.beta1}, beta2={self.beta2}, eps={self.eps}, "
                f"num_steps={self.num_steps}, {more}step_index={self.step_index})")
