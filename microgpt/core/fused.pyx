# cython: embedsignature=False
"""The fused engine: explicit forward and backward in compiled kernels, without a graph, with the script's bits.

It works on the parameters and gradients of a `GPT`, so whatever it computes is at once visible as `model.data`,
`model.grad` and `model.params`, and the graph engine may take over at any point.
"""
import operator
from _thread import allocate_lock

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memset

from microgpt.core._csrc cimport (
    MG_CHOICE_TOTAL_NOT_FINITE,
    MG_CHOICE_TOTAL_ZERO,
    MG_INTERRUPTED,
    MG_LEAST_SHARED_WORK,
    MG_LOG_DOMAIN,
    MG_NO_MEMORY,
    MG_NO_THREAD,
    MG_OK,
    MG_STOPPED,
    mg_adam_config,
    mg_config,
    mg_crew_bytes,
    mg_crew_join,
    mg_crew_leave,
    mg_crew_read,
    mg_crew_stop,
    mg_crew_train,
    mg_document_gradient,
    mg_engine_free,
    mg_engine_new,
    mg_engine_set_threads,
    mg_engine_shares,
    mg_engine_sparse_layers,
    mg_next_probabilities,
    mg_part_capacity,
    mg_part_gradients,
    mg_part_losses,
    mg_part_slice_start,
    mg_part_slices,
    mg_position_losses,
    mg_position_losses_of,
    mg_generate,
    mg_mt19937,
    mg_train,
    mg_train_batches,
)
from microgpt.core.adam cimport Adam, raise_adam
from microgpt.core.text_lines cimport exact_str
from microgpt.core.model cimport GPT
from microgpt.core.simd cimport kernels
from microgpt.core.mt19937 cimport MT19937


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)
    Py_ssize_t PyList_GET_SIZE(list items)


cdef int _ask(void *context) noexcept with gil:
    """Whether a signal handler raised (Ctrl-C, as a rule): then its exception is kept, and the work ends."""
    cdef FusedEngine self = <FusedEngine>context
    try:
        PyErr_CheckSignals()
        if self.check is not None:
            self.check()
    except BaseException as error:
        self.interrupt = error
        return 1
    return 0


cdef enum:
    BATCH = 64  # documents for which the GIL is given up at once, at most, or one step's
    MOST_DRAWN = 65536  # tokens that are drawn at once, at most
    ALIGN = 64  # of memory that processes share

# The same in multiplications: what is still to be trained when the documents' iterator raises takes half a second at most.
cdef double MOST_WORK = 2147483648.0

cdef object END = object()

#: What `FusedEngine.set_threads` says of it. Tests set it to 0.
LEAST_SHARED_WORK = MG_LEAST_SHARED_WORK


class CrewStopped(Exception):
    """Another process of the crew has failed, or left: see `FusedEngine.join_crew`."""


cdef double inverse(double temperature) except? -1.0:
    return operator.pow(temperature, -1)  # the script's l / temperature is l * temperature**-1


@cython.no_gc_clear
cdef class FusedEngine:
    # The first line is the signature, in the form in which Python reads it: inspect.signature(FusedEngine).
    """FusedEngine(model)\n--\n
Trains a `GPT` on whole documents, and samples from it (the script's training and inference loops).

One call at a time: a second thread that calls meanwhile gets a RuntimeError. Engines of different models may work in
parallel. The instruction set is the one in use when the engine is made. `set_threads` lets a call use several threads of
its own: the results are the same.
"""

    def __cinit__(self):
        self.lock = allocate_lock()

    def __init__(self, GPT model not None):
        cdef mg_config config
        if self.engine != NULL:
            raise TypeError("a FusedEngine is initialised once")
        model.ready()
        config.vocab_size = model.vocab_size
        config.n_embd = model.n_embd
        config.n_head = model.n_head
        config.n_layer = model.n_layer
        config.block_size = model.block_size
        self.poll.ask = _ask
        self.poll.context = <void *>self
        self.engine = mg_engine_new(&config, kernels())
        if self.engine == NULL:
            raise MemoryError()
        self.model = model
        self.threads = 1

    def __dealloc__(self):
        self.end_crew()
        mg_engine_free(self.engine)
        PyMem_Free(self.tokens)

    def __reduce_ex__(self, protocol):
        raise TypeError("a FusedEngine cannot be copied or pickled: its Trainer can be saved")

    cdef int enter(self) except -1:
        """Take the lock, which the caller releases."""
        if self.engine == NULL:
            raise RuntimeError("FusedEngine.__init__ has not been called")
        if not self.lock.acquire(False):
            raise RuntimeError("this engine is at work in another thread")
        return 0

    cdef int reserve(self, Py_ssize_t count) except -1:
        """Reserve memory for count tokens."""
        if count > self.tokens_capacity:
            grown = PyMem_Realloc(self.tokens, 2 * count * sizeof(int32_t))
            if grown == NULL:
                raise MemoryError()
            self.tokens = <int32_t *>grown
            self.tokens_capacity = 2 * count
        return 0

    cdef Py_ssize_t encode_document(self, document, Py_ssize_t at) except -1:
        """Put a document's tokens at self.tokens[at:], no more than the block holds; its number of positions."""
        cdef Py_ssize_t i, token, n = len(document) - 1, vocab_size = self.model.vocab_size
        if n == 0:
            raise ZeroDivisionError("division by zero")  # the script's 1 / n
        if n < 0:
            raise ValueError("a document needs two tokens at least: BOS on both sides")
        if n > self.model.block_size:
            n = self.model.block_size
        self.reserve(at + n + 1)
        for i in range(n + 1):
            token = document[i]
            if not 0 <= token < vocab_size:
                raise ValueError(f"token {token} is not in the vocabulary (0 to {vocab_size - 1})")
            self.tokens[at + i] = <int32_t>token
        return n

    cdef raise_status(self, int status):
        """Raise what the original would have raised."""
        if status == MG_INTERRUPTED:
            error, self.interrupt = self.interrupt, None
            raise error
        if status == MG_NO_MEMORY:
            raise MemoryError()
        if status == MG_NO_THREAD:
            raise RuntimeError("the system starts no more threads: use fewer")
        if status == MG_STOPPED:
            raise CrewStopped
        if status == MG_LOG_DOMAIN:
            from math import log  # a library of its own, which a process that starts can do without

            log(0.0)  # raises in the words of the running Python
        if status == MG_CHOICE_TOTAL_ZERO:
            raise ValueError("Total of weights must be greater than zero")
        if status == MG_CHOICE_TOTAL_NOT_FINITE:
            raise ValueError("Total of weights must be finite")
        raise_adam(status)

    cdef bint knows(self, dict ids) noexcept:
        """Whether the table was filled from exactly these characters and token ids."""
        cdef Py_ssize_t position = 0, i = 0
        cdef PyObject *ch
        cdef PyObject *token
        if self.entries is None or PyList_GET_SIZE(self.entries) != 2 * len(ids):
            return False
        while PyDict_Next(ids, &position, &ch, &token):
            if PyList_GET_ITEM(self.entries, i) != ch or PyList_GET_ITEM(self.entries, i + 1) != token:
                return False
            i += 2
        return True

    cdef int build_char_table(self, dict ids) except -1:
        """Fill the table of the first 256 characters' token ids, -1 for those that are not in ids."""
        cdef Py_ssize_t token
        if self.knows(ids):
            return 0
        self.entries, self.ids = None, ids.copy()
        for code in range(256):
            token = self.ids.get(chr(code), -1)
            if not -1 <= token < self.model.vocab_size - 1:
                raise ValueError(f"token {token} is not in the vocabulary (0 to {self.model.vocab_size - 1})")
            self.char_table[code] = <int32_t>token
        self.entries = [part for item in self.ids.items() for part in item]
        return 0

    cdef Py_ssize_t encode_text(self, document, Py_ssize_t at) except -1:
        """The same for BOS, the characters of a str by self.ids, and BOS."""
        cdef str text = exact_str(document)
        cdef Py_ssize_t i = at, length = len(text), n = min(length, self.model.block_size), token
        cdef int32_t bos = <int32_t>(self.model.vocab_size - 1)
        cdef Py_UCS4 ch
        self.reserve(at + n + 2)
        self.tokens[at] = bos
        for ch in text:
            token = self.char_table[ch] if ch < 256 else self.ids.get(chr(ch), -1)
            if not 0 <= token < bos:
                raise ValueError(f"character {chr(ch)!r} (U+{<long>ch:04X}) at index {i - at} is not in the vocabulary")
            i += 1
            if i - at <= n:
                self.tokens[i] = <int32_t>token
        if n < self.model.block_size:
            n += 1
            self.tokens[at + n] = bos
        return n

    cdef Py_ssize_t encode(self, document, bint is_text, Py_ssize_t at) except -1:
        return self.encode_text(document, at) if is_text else self.encode_document(document, at)

    def loss_and_grad(self, tokens):
        """`loss = document_loss(tokens, model); loss.backward()`: the loss, a float; adds to `model.grad`.

        tokens: token ids, BOS on both sides; those beyond the block are left out. If it raises, nothing was added.
        """
        cdef double loss = 0.0
        cdef int status
        cdef Py_ssize_t n
        self.enter()
        try:
            n = self.encode_document(tokens, 0)
            with nogil:
                status = mg_document_gradient(self.engine, self.model.params_data, self.model.params_grad,
                                              self.tokens, n, &self.poll, &loss)
            if status != MG_OK:
                self.raise_status(status)
            return loss
        finally:
            self.lock.release()

    def position_losses(self, tokens):
        """-log of the probability of each next token, a list of floats whose mean `document_loss` is; no gradient.

        tokens: as for `loss_and_grad`. Raises what that raises: ValueError if a probability is 0.
        """
        cdef double *losses = NULL
        cdef int status
        cdef Py_ssize_t p, n
        self.enter()
        try:
            n = self.encode_document(tokens, 0)
            losses = <double *>PyMem_Malloc(n * sizeof(double))
            if losses == NULL:
                raise MemoryError()
            with nogil:
                status = mg_position_losses(self.engine, self.model.params_data, self.tokens, n, &self.poll, losses)
            if status != MG_OK:
                self.raise_status(status)
            return [losses[p] for p in range(n)]
        finally:
            PyMem_Free(losses)
            self.lock.release()

    def set_threads(self, int threads):
        """Let `train` and `position_losses_of` use up to this many threads, the calling one included: 1 at first.

        They start when there is work for them, and sleep when there is none. A step that is faster on one thread is not
        shared: one of less than LEAST_SHARED_WORK multiplications in a forward pass.
        """
        cdef double least = LEAST_SHARED_WORK
        cdef int status
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self.enter()
        try:
            with nogil:  # threads that end are waited for
                status = mg_engine_set_threads(self.engine, threads, least)
            if status != MG_OK:
                self.raise_status(status)
            self.threads = threads
        finally:
            self.lock.release()

    def shares(self, positions):
        """Return whether a step on documents of so many positions altogether is shared among threads."""
        self.enter()
        try:
            return bool(mg_engine_shares(self.engine, positions))
        finally:
            self.lock.release()

    def position_losses_of(self, documents):
        """Return `position_losses` of each of the documents, by all threads. If any raises, nothing is known of the others."""
        cdef int64_t *starts = NULL
        cdef double *losses = NULL
        cdef int64_t count = 0, d, p
        cdef int status
        self.enter()
        try:
            documents = list(documents)
            starts = <int64_t *>PyMem_Malloc((len(documents) + 1) * sizeof(int64_t))
            if starts == NULL:
                raise MemoryError()
            starts[0] = 0
            for document in documents:
                starts[count + 1] = starts[count] + self.encode_document(document, starts[count]) + 1
                count += 1
            losses = <double *>PyMem_Malloc(max(1, starts[count] - count) * sizeof(double))
            if losses == NULL:
                raise MemoryError()
            with nogil:
                status = mg_position_losses_of(self.engine, self.model.params_data, self.tokens, starts, count, &self.poll,
                                               losses)
            if status != MG_OK:
                self.raise_status(status)
            return [[losses[p] for p in range(starts[d] - d, starts[d + 1] - d - 1)] for d in range(count)]
        finally:
            PyMem_Free(losses)
            PyMem_Free(starts)
            self.lock.release()

    def train(self, documents, Adam adam not None, list losses not None, dict ids=None, batch_size=1):
        """For each document: the loss, its gradient, one step of adam. Appends each loss to `losses` as it goes.

        batch_size: of how many documents a step is made, which then has the loss (1 / batch_size) * sum(losses). The last
        documents, if there are fewer, are left out.

        documents: an iterable of lists of token ids, as for `loss_and_grad`; or, given ids, a dict from a character to
        its token id, of str. Up to 64 are asked for before the first of them is trained on, or as many as a step has. If it
        raises within a step, that step has no effect: parameters, gradients, moments and `losses` are those after
        the one before it. If `documents` itself raises, the whole steps that it gave before are done first.
        """
        cdef int64_t *starts = NULL
        cdef int64_t count = 0, size
        cdef Py_ssize_t n, most
        cdef double work = 0.0
        adam.ready()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        size = batch_size
        most = max(size, BATCH // size * size)
        self.enter()
        try:
            self.check_adam(adam)
            if self.crew != NULL and size != self.crew_batch:
                raise ValueError(f"this engine's crew takes steps on {self.crew_batch} documents, not {size}")
            if ids is not None:
                self.build_char_table(ids)
            starts = <int64_t *>PyMem_Malloc((most + 1) * sizeof(int64_t))
            if starts == NULL:
                raise MemoryError()
            starts[0] = 0
            iterator = iter(documents)
            while True:
                try:
                    document = next(iterator, END)
                    if document is END:
                        break
                    n = self.encode(document, ids is not None, starts[count])
                except BaseException:
                    self.train_steps(starts, count // size, size, adam, losses)  # those before it are sound
                    raise
                starts[count + 1] = starts[count] + n + 1
                count += 1
                work += 2.0 * n * self.model.num_params
                if count == most or (work >= MOST_WORK and count % size == 0):
                    self.train_steps(starts, count // size, size, adam, losses)
                    count, work = 0, 0.0
            self.train_steps(starts, count // size, size, adam, losses)
        finally:
            PyMem_Free(starts)
            self.lock.release()

    cdef train_steps(self, int64_t *starts, int64_t steps, int64_t size, Adam adam, list losses):
        """Take these steps, each on `size` of the documents in self.tokens."""
        cdef mg_adam_config config
        cdef double *found
        cdef int64_t done = 0, i, step = adam.steps
        cdef int status
        if steps == 0:
            return
        found = <double *>PyMem_Malloc((2 * steps + size) * sizeof(double))  # losses, rates, losses of documents
        if found == NULL:
            raise MemoryError()
        try:
            adam.plan(&config, found + steps, steps)
            with nogil:
                if self.crew != NULL:
                    status = mg_crew_train(self.engine, self.crew, &config, step, self.tokens, starts, steps, &self.poll, found,
                                           &done)
                    self.crew_steps += done
                elif size == 1 and not mg_engine_shares(self.engine, (starts[steps] - starts[0]) // steps - 1):
                    status = mg_train(self.engine, &config, step, self.model.params_data, self.model.params_grad, adam.m_data,
                                      adam.v_data, self.tokens, starts, steps, &self.poll, found, &done)
                else:
                    status = mg_train_batches(self.engine, &config, step, size, self.model.params_data,
                                              self.model.params_grad, adam.m_data, adam.v_data, self.tokens, starts, steps,
                                              &self.poll, found + 2 * steps, found, &done)
            adam.steps += done
            for i in range(done):
                losses.append(found[i])
            if status != MG_OK:
                self.raise_status(status)
        finally:
            PyMem_Free(found)

    def part_losses(self, documents, dict ids not None, int64_t batch_size, check=None):
        """The losses of some documents of a batch, of which other processes have the rest: a list of floats.

        documents, ids: as for `train`. check: called now and then; what it raises ends the call.
        """
        cdef int64_t count = len(documents), i
        cdef int64_t *starts = NULL
        cdef double *losses = NULL
        cdef int status
        self.enter()
        try:
            self.build_char_table(ids)
            starts = <int64_t *>PyMem_Malloc((count + 1) * sizeof(int64_t))
            losses = <double *>PyMem_Malloc((count + 1) * sizeof(double))
            if starts == NULL or losses == NULL:
                raise MemoryError()
            starts[0], self.part = 0, 0
            for i in range(count):
                starts[i + 1] = starts[i] + self.encode_text(documents[i], starts[i]) + 1
            self.check = check
            with nogil:
                status = mg_part_losses(self.engine, self.model.params_data, self.model.params_grad, self.tokens, starts, count,
                                        batch_size, &self.poll, losses)
            if status != MG_OK:
                self.raise_status(status)
            self.part = count
            return [losses[i] for i in range(count)]
        finally:
            self.check = None
            PyMem_Free(starts)
            PyMem_Free(losses)
            self.lock.release()

    def part_gradients(self, int64_t first, int64_t end):
        """Add the gradients of the documents of `part_losses`, the last first, to `model.grad`, for some slices of parameters.

        Cannot be interrupted.
        """
        cdef int status
        self.enter()
        try:
            if not 0 <= first <= end <= self.num_slices:
                raise ValueError(f"first and end must be from 0 to {self.num_slices}, not {first} and {end}")
            with nogil:
                status = mg_part_gradients(self.engine, self.part, first, end, self.model.params_grad)
            if status != MG_OK:
                self.raise_status(status)
        finally:
            self.lock.release()

    def part_slices(self, int64_t processes):
        """Cut the parameters into slices for so many processes; the indices at which they begin, and the number of parameters."""
        cdef int64_t i
        cdef int status
        self.enter()
        try:
            status = mg_part_slices(self.engine, processes, &self.num_slices)
            if status != MG_OK:
                self.raise_status(status)
            return [mg_part_slice_start(self.engine, i) for i in range(self.num_slices + 1)]
        finally:
            self.lock.release()

    def part_capacity(self):
        """How many documents as long as the block one call of `part_losses` should have at most, for the sake of memory."""
        return mg_part_capacity(self.engine, self.model.block_size)

    def crew_bytes(self, int64_t batch_size):
        """How many bytes of memory the processes of a crew share: see `join_crew`."""
        cdef mg_config config
        config.vocab_size, config.n_embd, config.n_head = self.model.vocab_size, self.model.n_embd, self.model.n_head
        config.n_layer, config.block_size = self.model.n_layer, self.model.block_size
        return mg_crew_bytes(&config, batch_size) + ALIGN

    def join_crew(self, memory, int64_t rank, int64_t processes, int64_t batch_size,
                  Adam adam not None, check=None):
        """Let `train` take its steps together with other processes, which have engines of the same model.

        memory: of crew_bytes, and the same for all. rank: which of the processes this is, from 0 up; it first writes the state
        into the memory, and only then may the others train. check: called now and then while the engine works; what it raises
        ends the step for all. All processes give `train` the same documents; if one of them raises, or leaves, `train` raises
        CrewStopped on the others, and all must leave.

        The model and adam change only by `read_crew`.
        """
        cdef Py_buffer buffer
        cdef uintptr_t start
        cdef mg_crew *crew
        adam.ready()
        self.enter()
        try:
            self.check_adam(adam)
            self.end_crew()
            PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE)
            try:
                if buffer.len < self.crew_bytes(batch_size):
                    raise ValueError(f"{buffer.len} bytes of memory are too few")
                start = (<uintptr_t>buffer.buf + ALIGN - 1) // ALIGN * ALIGN
                crew = mg_crew_join(self.engine, <void *>start, rank, processes, batch_size, self.model.params_data,
                                    self.model.params_grad, adam.m_data, adam.v_data)
                if crew == NULL:
                    raise MemoryError()
            except BaseException:
                PyBuffer_Release(&buffer)
                raise
            self.crew, self.crew_memory, self.crew_batch, self.crew_steps, self.check = crew, buffer, batch_size, 0, check
        finally:
            self.lock.release()

    cdef void end_crew(self) noexcept:
        if self.crew != NULL:
            mg_crew_leave(self.crew)
            PyBuffer_Release(&self.crew_memory)
            self.crew, self.check = NULL, None

    def read_crew(self, Adam adam not None):
        """Set model and adam to the state after the last step of the crew that `train` has returned from."""
        adam.ready()
        self.enter()
        try:
            self.check_adam(adam)
            if self.crew != NULL and self.crew_steps:
                with nogil:
                    mg_crew_read(self.engine, self.crew, self.model.params_data, adam.m_data, adam.v_data)
                    memset(self.model.params_grad, 0, self.model.num_params * sizeof(double))
        finally:
            self.lock.release()

    def stop_crew(self):
        """End the step that is under way for all processes, unless it can no longer fail."""
        self.enter()
        try:
            if self.crew != NULL:
                mg_crew_stop(self.crew)
        finally:
            self.lock.release()

    def leave_crew(self):
        """Stop the step that other processes may have begun, and train alone from now on."""
        self.enter()
        try:
            self.end_crew()
        finally:
            self.lock.release()

    cdef int check_adam(self, Adam adam) except -1:
        if adam.model is not self.model:
            raise ValueError("this Adam belongs to another model")
        return 0

    cdef Py_ssize_t encode_prompt(self, prompt, Py_ssize_t at) except -1:
        """Put tokens at self.tokens[at:]; how many there are then."""
        cdef Py_ssize_t i, token, n = len(prompt)
        if n > self.model.block_size - at:
            raise ValueError(f"{operator.add(at, n)} tokens do not fit the block of {self.model.block_size}")
        self.reserve(at + n)
        for i in range(n):
            token = prompt[i]
            if not 0 <= token < self.model.vocab_size:
                raise ValueError(f"token {token} is not in the vocabulary (0 to {self.model.vocab_size - 1})")
            self.tokens[at + i] = <int32_t>token
        return at + n

    def _sparse_layers(self):
        """Layers of the last document in which zeros of relu were passed over. For tests."""
        self.enter()
        try:
            return mg_engine_sparse_layers(self.engine)
        finally:
            self.lock.release()

    def probabilities(self, tokens, temperature=1.0):
        """softmax(logits / temperature) of what follows `tokens`: a list of vocab_size floats.

        tokens: one token id or more, the first of them BOS as a rule, no more than the block holds.
        """
        cdef double factor = inverse(temperature)
        cdef double *probs = NULL
        cdef int status
        cdef Py_ssize_t n, vocab_size = self.model.vocab_size
        self.enter()
        try:
            n = self.encode_prompt(tokens, 0)
            if n == 0:
                raise ValueError("there are no tokens to follow")
            probs = <double *>PyMem_Malloc(vocab_size * sizeof(double))
            if probs == NULL:
                raise MemoryError()
            with nogil:
                status = mg_next_probabilities(self.engine, self.model.params_data, factor, self.tokens, n,
                                               &self.poll, probs)
            if status != MG_OK:
                self.raise_status(status)
            return [probs[o] for o in range(vocab_size)]
        finally:
            PyMem_Free(probs)
            self.lock.release()

    def sample(self, MT19937 stream not None, temperature=0.5, max_tokens=None, prompt=()):
        """Tokens drawn one after the other, as the script draws a name: a list of token ids without BOS.

        It starts from BOS and the tokens of `prompt`, which are not in the result, and ends when BOS is drawn, when
        the block is full, or after max_tokens. If it raises, nothing was drawn from the stream: ZeroDivisionError for a
        temperature of 0, ValueError (random.choices' own) if the probabilities do not add up to a positive number.
        """
        return self.draw(stream, 1, inverse(temperature), max_tokens, prompt, None)[0]

    def sample_texts(self, MT19937 stream not None, n, uchars, temperature=0.5, prompt=(), max_tokens=None):
        """What n calls of `sample` draw, each as a str: the characters of its tokens, which uchars has in the order of ids.

        If it raises, nothing was drawn from the stream.
        """
        return self.draw(stream, n, inverse(temperature), max_tokens, prompt, tuple(uchars))

    cdef list draw(self, MT19937 stream, Py_ssize_t n, double factor, max_tokens, prompt, tuple characters):
        """n samples, each of max_tokens at most: lists of token ids, or, given characters, str."""
        cdef int64_t counts[BATCH]
        cdef int64_t most
        cdef mg_mt19937 state
        cdef int32_t *drawn
        cdef int status
        cdef Py_ssize_t length, texts, text, i, block_size
        cdef list found = []
        self.enter()
        try:
            if characters is not None and len(characters) < self.model.vocab_size - 1:
                raise ValueError(f"{len(characters)} characters are too few for {self.model.vocab_size - 1} token ids")
            most = block_size = self.model.block_size
            if max_tokens is not None:
                most = max(0, min(most, PyNumber_Index(max_tokens)))
            self.reserve(1)
            self.tokens[0] = <int32_t>(self.model.vocab_size - 1)
            length = self.encode_prompt(prompt, 1)
            texts = max(1, min(n, BATCH, MOST_DRAWN // block_size))
            self.reserve(length + texts * block_size)
            state = stream.ready()[0]  # a copy: another thread that draws meanwhile does not leave it half changed
            while len(found) < n:
                texts = min(texts, n - len(found))
                with nogil:
                    status = mg_generate(self.engine, self.model.params_data, &state, factor, self.tokens, length, most,
                                         texts, &self.poll, self.tokens + length, counts)
                if status != MG_OK:
                    self.raise_status(status)
                for text in range(texts):
                    drawn = self.tokens + length + text * block_size
                    if characters is None:
                        found.append([drawn[i] for i in range(counts[text])])
                    else:
                        found.append("".join([characters[drawn[i]] for i in range(counts[text])]))
            stream.state = state
            return found
        finally:
            self.lock.release()
