# cython: embedsignature=False
"""The fused engine: explicit forward and backward in compiled kernels, without a graph, with the script's bits.

It works on the parameters and gradients of a `GPT`, so whatever it computes is at once visible as `model.data`,
`model.grad` and `model.params`, and the graph engine may take over at any point.
"""
import operator
from _thread import allocate_lock

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int32_t, int64_t

from microgpt.core._csrc cimport (
    MG_INTERRUPTED,
    MG_LEAST_SHARED_WORK,
    MG_LOG_DOMAIN,
    MG_NO_MEMORY,
    MG_NO_THREAD,
    MG_OK,
    MG_STOPPED,
    mg_adam_config,
    mg_config,
    mg_crew_train,
    mg_document_gradient,
    mg_engine_free,
    mg_engine_new,
    mg_engine_set_threads,
    mg_engine_shares,
    mg_engine_sparse_layers,
    mg_generate,
    mg_mt19937,
    mg_next_probabilities,
    mg_position_losses,
    mg_position_losses_of,
    mg_train,
    mg_train_batches,
)
from microgpt.core.adam cimport Adam, raise_adam
from microgpt.core.encoded cimport Encoded
from microgpt.core.lock cimport mg_is_finalizing
from microgpt.core.model cimport GPT
from microgpt.core.simd cimport kernels
from microgpt.core.mt19937 cimport MT19937, raise_choice


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef int _ask_python(void *context) noexcept with gil:
    cdef FusedEngine self = <FusedEngine>context
    try:
        self.ask()
    except BaseException as error:
        self.interrupt = error
        return 1
    return 0


cdef int _ask(void *context) noexcept nogil:
    """Whether a signal handler raised (usually Ctrl-C): then its exception is kept, and the work ends.

    It ends as well in a daemon thread when the interpreter does, which may be gone, and then cannot be asked.
    """
    return 1 if mg_is_finalizing() else _ask_python(context)


cdef enum:
    TEXTS = 64  # texts that are drawn at once, at most, by one thread
    SHARED_TEXTS = 4096  # and by several
    DOCUMENTS = 256  # that are trained on at once, at most, or one step's: each time costs a copy of the state (train.c)
    ASK_EVERY = 16384  # of a step's documents, while they are read
    MOST_DRAWN = 65536  # tokens that one thread draws at once, at most

# The same in multiplications: what is still to be trained when the documents' iterator raises takes half a second at most.
cdef double MOST_WORK = 2147483648.0

cdef object END = object()

#: What `FusedEngine.set_threads` says of it. Tests set it to 0.
LEAST_SHARED_WORK = MG_LEAST_SHARED_WORK


cdef double *new_doubles(Py_ssize_t count) except NULL:
    """Return memory for `count` doubles, to be freed by PyMem_Free."""
    cdef double *doubles = <double *>PyMem_Malloc(max(1, count) * sizeof(double))
    if doubles == NULL:
        raise MemoryError()
    return doubles


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
        config = model.config()
        self.poll.ask = _ask
        self.poll.context = <void *>self
        self.engine = mg_engine_new(&config, kernels())
        if self.engine == NULL:
            raise MemoryError()
        self.model = model
        self.documents = Encoded(model.vocab_size, model.block_size)
        self.threads, self.kept = 1, -1

    def __dealloc__(self):
        mg_engine_free(self.engine)

    def __reduce_ex__(self, protocol):
        raise TypeError("a FusedEngine cannot be copied or pickled: its Trainer can be saved")

    cdef int enter(self) except -1:
        """Take the lock, which the caller releases, for work after which BatchPart.add_gradients has nothing to add."""
        self.take()
        self.kept = -1
        return 0

    cdef int take(self) except -1:
        """Take the lock, which the caller releases."""
        if self.engine == NULL:
            raise RuntimeError("FusedEngine.__init__ has not been called")
        if not self.lock.acquire(False):
            raise RuntimeError("this engine is at work in another thread")
        return 0

    cdef int ask(self) except -1:
        """Run signal handlers and `check`, either of which may raise."""
        PyErr_CheckSignals()
        if self.check is not None:
            self.check()
        return 0

    cdef int check_status(self, int status) except -1:
        """Raise what the original would have raised, unless all is well."""
        if status == MG_OK:
            return 0
        if status == MG_INTERRUPTED:
            error, self.interrupt = self.interrupt, None
            raise error
        if status == MG_NO_MEMORY:
            raise MemoryError()
        if status == MG_NO_THREAD:
            from ..errors import NoThreadError

            raise NoThreadError("the system starts no more threads: use fewer")
        if status == MG_STOPPED:
            from ..errors import CrewStopped

            raise CrewStopped
        if status == MG_LOG_DOMAIN:
            from math import log  # a library of its own, which a process that starts can do without

            log(0.0)  # raises in the words of the running Python
        raise_choice(status)
        return raise_adam(status)

    cdef Py_ssize_t one_document(self, tokens) except -1:
        """Make this document the only one in `documents`; return its number of positions."""
        self.documents.clear()
        return self.documents.add(tokens, None)

    def loss_and_grad(self, tokens):
        """`loss = document_loss(tokens, model); loss.backward()`: the loss, a float; adds to `model.grad`.

        tokens: token ids, BOS on both sides; those beyond the block are left out. If it raises, nothing was added.
        """
        cdef double loss = 0.0
        cdef int status
        cdef Py_ssize_t n
        self.enter()
        try:
            n = self.one_document(tokens)
            with nogil:
                status = mg_document_gradient(self.engine, self.model.params_data, self.model.params_grad,
                                              self.documents.tokens, n, &self.poll, &loss)
            self.check_status(status)
            return loss
        finally:
            self.lock.release()

    def position_losses(self, tokens):
        """Return -log of the probability of each next token, a list of floats; `document_loss` is their mean. No gradient.

        tokens: as for `loss_and_grad`. Raises what that raises: ValueError if a probability is 0.
        """
        cdef double *losses = NULL
        cdef int status
        cdef Py_ssize_t p, n
        self.enter()
        try:
            n = self.one_document(tokens)
            losses = new_doubles(n)
            with nogil:
                status = mg_position_losses(self.engine, self.model.params_data, self.documents.tokens, n, &self.poll, losses)
            self.check_status(status)
            return [losses[p] for p in range(n)]
        finally:
            PyMem_Free(losses)
            self.lock.release()

    def set_threads(self, int threads):
        """Let `train`, `position_losses_of` and `sample_texts` use up to this many threads, the calling one included: 1 at first.

        They start when there is work for them, and sleep when there is none. A step that is faster on one thread is not
        shared: one of less than LEAST_SHARED_WORK multiplications in a forward pass.
        """
        cdef double least = LEAST_SHARED_WORK
        cdef int status
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self.take()
        try:
            with nogil:  # threads that end are waited for
                status = mg_engine_set_threads(self.engine, threads, least)
            self.check_status(status)
            self.threads = threads
        finally:
            self.lock.release()

    def shares(self, positions):
        """Return whether a step on documents of this many positions altogether is shared among threads."""
        self.take()
        try:
            return bool(mg_engine_shares(self.engine, positions))
        finally:
            self.lock.release()

    def position_losses_of(self, documents):
        """Return `position_losses` of each of the documents, by all threads. If any raises, nothing is known of the others."""
        cdef int64_t *starts
        cdef double *losses = NULL
        cdef int64_t count, d, p
        cdef int status
        self.enter()
        try:
            self.documents.clear()
            for document in documents:
                self.documents.add(document, None)
            starts, count = self.documents.starts, self.documents.count
            losses = new_doubles(starts[count] - count)
            with nogil:
                status = mg_position_losses_of(self.engine, self.model.params_data, self.documents.tokens, starts, count,
                                               &self.poll, losses)
            self.check_status(status)
            return [[losses[p] for p in range(starts[d] - d, starts[d + 1] - d - 1)] for d in range(count)]
        finally:
            PyMem_Free(losses)
            self.lock.release()

    def train(self, documents, Adam adam not None, list losses not None, dict ids=None, batch_size=1):
        """For each document: the loss, its gradient, one step of adam. Appends each loss to `losses` as it goes.

        batch_size: of how many documents a step is made, which then has the loss (1 / batch_size) * sum(losses). The last
        documents, if there are fewer, are left out.

        documents: an iterable of lists of token ids, as for `loss_and_grad`; or, given ids, a dict from a character to
        its token id, of str. Up to 256 are read before the first is trained on, or as many as a step has. If a step raises, it
        has no effect: parameters, gradients, moments and `losses` are those after the step before it. If `documents`
        itself raises, the complete steps among the documents it gave before are taken first.
        """
        cdef int64_t size
        cdef Py_ssize_t n, most
        cdef double work = 0.0
        adam.ready()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        size = batch_size
        most = max(size, DOCUMENTS // size * size)
        self.enter()
        try:
            self.check_adam(adam)
            if self.crew != NULL and size != self.crew_batch:
                raise ValueError(f"this engine's crew takes steps on {self.crew_batch} documents, not {size}")
            if ids is not None:
                self.documents.use_characters(ids)
            self.documents.clear()
            iterator = iter(documents)
            while True:
                try:
                    document = next(iterator, END)
                    if document is END:
                        break
                    n = self.documents.add(document, ids)
                    if self.documents.count % ASK_EVERY == 0:  # a batch may be so large that it takes long to read
                        self.ask()
                except BaseException:
                    self.train_steps(size, adam, losses)  # those before it are sound
                    raise
                work += 2.0 * n * self.model.num_params
                if self.documents.count == most or (work >= MOST_WORK and self.documents.count % size == 0):
                    self.train_steps(size, adam, losses)
                    work = 0.0
            self.train_steps(size, adam, losses)
        finally:
            self.lock.release()

    cdef train_steps(self, int64_t size, Adam adam, list losses):
        """Take a step on each `size` of `documents`, then empty it. Documents that do not fill a step are dropped."""
        cdef mg_adam_config config
        cdef double *found
        cdef int32_t *tokens = self.documents.tokens
        cdef int64_t *starts = self.documents.starts
        cdef int64_t done = 0, i, step = adam.steps, steps = self.documents.count // size
        cdef int status
        self.documents.clear()
        if steps == 0:
            return
        found = new_doubles(2 * steps + size)  # losses, rates, losses of documents
        try:
            adam.plan(&config, found + steps, steps)
            with nogil:
                if self.crew != NULL:
                    status = mg_crew_train(self.engine, self.crew, &config, step, tokens, starts, steps, &self.poll, found, &done)
                    self.crew_steps += done
                elif size == 1 and not mg_engine_shares(self.engine, (starts[steps] - starts[0]) // steps - 1):
                    status = mg_train(self.engine, &config, step, self.model.params_data, self.model.params_grad, adam.m_data,
                                      adam.v_data, tokens, starts, steps, &self.poll, found, &done)
                else:
                    status = mg_train_batches(self.engine, &config, step, size, self.model.params_data,
                                              self.model.params_grad, adam.m_data, adam.v_data, tokens, starts, steps,
                                              &self.poll, found + 2 * steps, found, &done)
            adam.steps += done
            for i in range(done):
                losses.append(found[i])
            self.check_status(status)
        finally:
            PyMem_Free(found)

    cdef int check_adam(self, Adam adam) except -1:
        if adam.model is not self.model:
            raise ValueError("this Adam belongs to another model")
        return 0

    def _sparse_layers(self):
        """Layers of the last document in which zeros of relu were passed over. For tests."""
        self.take()
        try:
            return mg_engine_sparse_layers(self.engine)
        finally:
            self.lock.release()

    def probabilities(self, tokens, temperature=1.0):
        """Return softmax(logits / temperature) of the token after `tokens`, a list of vocab_size floats.

        tokens: at least one token id, the first usually BOS, and at most as many as the block holds.
        """
        cdef double factor = inverse(temperature)
        cdef double *probs = NULL
        cdef int status
        cdef Py_ssize_t n, vocab_size = self.model.vocab_size
        self.enter()
        try:
            n = self.documents.put_prompt(tokens, 0)
            if n == 0:
                raise ValueError("there are no tokens to follow")
            probs = new_doubles(vocab_size)
            with nogil:
                status = mg_next_probabilities(self.engine, self.model.params_data, factor, self.documents.tokens, n,
                                               &self.poll, probs)
            self.check_status(status)
            return [probs[o] for o in range(vocab_size)]
        finally:
            PyMem_Free(probs)
            self.lock.release()

    def sample(self, MT19937 stream not None, temperature=0.5, max_tokens=None, prompt=()):
        """Draw tokens one after the other, as the script draws a name. Return a list of token ids without BOS.

        It starts from BOS and the tokens of `prompt`, which are not in the result, and ends when BOS is drawn, when
        the block is full, or after max_tokens. If it raises, nothing was drawn from the stream: ZeroDivisionError for a
        temperature of 0, ValueError (random.choices' own) if the probabilities do not add up to a positive number.
        """
        return self.draw(stream, 1, inverse(temperature), max_tokens, prompt, None)[0]

    def sample_texts(self, MT19937 stream not None, n, uchars, temperature=0.5, prompt=(), max_tokens=None):
        """Return what n calls of `sample` draw, each as a str. uchars: the character of each token id.

        If it raises, nothing was drawn from the stream.
        """
        return self.draw(stream, n, inverse(temperature), max_tokens, prompt, tuple(uchars))

    cdef list draw(self, MT19937 stream, Py_ssize_t n, double factor, max_tokens, prompt, tuple characters):
        """Return n samples of at most max_tokens each: lists of token ids, or str if characters are given."""
        cdef int64_t *counts = NULL
        cdef int64_t most
        cdef mg_mt19937 state
        cdef int32_t *tokens
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
            length = self.documents.put_prompt(prompt, self.documents.put((self.model.vocab_size - 1,), 1, 0))
            texts = SHARED_TEXTS if self.threads > 1 else TEXTS  # threads share texts only if there are many
            texts = max(1, min(n, texts, self.threads * (MOST_DRAWN // block_size)))
            self.documents.reserve(length + texts * block_size)
            counts = <int64_t *>new_doubles(texts)
            tokens = self.documents.tokens
            state = stream.ready()[0]  # a copy: another thread that draws meanwhile does not leave it half changed
            while len(found) < n:
                texts = min(texts, n - len(found))
                with nogil:
                    status = mg_generate(self.engine, self.model.params_data, &state, factor, tokens, length, most,
                                         texts, &self.poll, tokens + length, counts)
                self.check_status(status)
                for text in range(texts):
                    drawn = tokens + length + text * block_size
                    if characters is None:
                        found.append([drawn[i] for i in range(counts[text])])
                    else:
                        found.append("".join([characters[drawn[i]] for i in range(counts[text])]))
            stream.state = state
            return found
        finally:
            PyMem_Free(counts)
            self.lock.release()
