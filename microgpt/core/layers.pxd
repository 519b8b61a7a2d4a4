# cython: language_level=3
"""The layers of the model as nodes on the tape. All functions need the lock; they run without the GIL, also dry."""
from libc.stdint cimport uint32_t

from microgpt.core.builder cimport Builder, Vector
from microgpt.core.tape cimport DotRows


# What the layers need to know of a model. All parameters are leaves, contiguous from slot `params`.
cdef struct Shape:
    uint32_t vocab_size, n_embd, n_head, n_layer, block_size, head_dim, num_params
    uint32_t params
    double *data  # the numbers of the parameters from lm_head on, as the block being built keeps them
    uint32_t wte, wpe, lm_head, layers  # offsets of the matrices in the parameters
    uint32_t attn_wq, attn_wk, attn_wv, attn_wo, mlp_fc1, mlp_fc2, layer_size  # within a layer


# The keys or values of one layer, [positions, n_embd]; row t is position t.
cdef struct Cache:
    uint32_t base
    uint32_t *slots  # NULL if they are base, base + 1, ...
    double *data
    uint32_t low, high  # bounds of the slots


cdef double sum_of(const double *x, size_t n) noexcept nogil
cdef DotRows *add_dots(Builder *b, uint32_t first, uint32_t rows, uint32_t n, const double *sums, Vector *a,
                       Vector *v) noexcept nogil
cdef void linear_layer(Builder *b, Vector *w, Vector *x, uint32_t nout, uint32_t nin, uint32_t first,
                       double *out) noexcept nogil
cdef Vector rmsnorm_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil
cdef Vector softmax_layer(Builder *b, Vector *x, uint32_t n) noexcept nogil
cdef uint32_t exps_layer(Builder *b, Vector *x, uint32_t n, Vector *exps) noexcept nogil
cdef int keep_weights(Builder *b, Shape *m) noexcept nogil
cdef Vector gpt_layers(Builder *b, Shape *m, uint32_t token_id, uint32_t pos_id, Cache *keys, Cache *values,
                       uint32_t n_before) noexcept nogil
