"""The C interface, csrc/microgpt.h. What is inside of csrc is declared where it is used: vmem.pxd, libm.pxd, calls.pxd, recorder.pxd."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "microgpt.h" nogil:
    ctypedef enum mg_status:
        MG_OK
        MG_NO_MEMORY
        MG_LOG_DOMAIN
        MG_EXP_RANGE
        MG_POW_RANGE
        MG_POW_ZERO
        MG_INTERRUPTED
        MG_UNKNOWN_ISA
        MG_UNSUPPORTED_ISA
        MG_ZERO_DIVISION
        MG_POW_COMPLEX
        MG_NO_THREAD
        MG_STOPPED
        MG_CHOICE_TOTAL_ZERO
        MG_CHOICE_TOTAL_NOT_FINITE

    ctypedef struct mg_mt19937:
        uint32_t key[624]
        int pos
        int has_gauss
        double gauss_next

    void mg_mt19937_seed(mg_mt19937 *stream, const uint32_t *digits, int64_t num_digits)
    double mg_mt19937_random(mg_mt19937 *stream)
    uint64_t mg_mt19937_below(mg_mt19937 *stream, uint64_t n)
    void mg_mt19937_fill_below(mg_mt19937 *stream, uint64_t n, int64_t count, uint64_t *out)
    double mg_mt19937_gauss(mg_mt19937 *stream, double mu, double sigma)
    void mg_mt19937_fill_gauss(mg_mt19937 *stream, double *out, int64_t n, double mu, double sigma)
    int64_t mg_mt19937_choice(mg_mt19937 *stream, const double *cum_weights, int64_t n)

    ctypedef struct mg_kernels:
        pass

    const mg_kernels *mg_select_kernels(const char *name, mg_status *status)
    const char *mg_compiled_isa(int index)
    int mg_supports_isa(int index)
    const char *mg_kernels_name(const mg_kernels *kernels)
    int mg_kernels_lanes(const mg_kernels *kernels)
    const char *mg_compiler()
    int mg_kernels_vector_math(const mg_kernels *kernels)
    int mg_kernels_square_root(const mg_kernels *kernels)
    int mg_kernels_half_units(const mg_kernels *kernels)
    const char *mg_kernel(const mg_kernels *kernels, int index, const void **address)

    ctypedef struct mg_config:
        int64_t vocab_size, n_embd, n_head, n_layer, block_size

    ctypedef struct mg_adam_config:
        double learning_rate, beta1, beta2, eps
        int64_t num_steps
        const double *rates
        int64_t first_rate
        double weight_decay, clip

    ctypedef struct mg_adam_coefs:
        double beta1, one_minus_beta1, beta2, one_minus_beta2, m_scale, v_scale, lr_t, eps, weight_decay, clip
        int vectorizable, may_have_subnormals, fetch_ahead

    mg_status mg_adam_prepare(const mg_adam_config *config, int64_t step, mg_adam_coefs *coefs)
    void mg_clip_gradient(const mg_config *config, double clip, double *grad)
    void mg_adam_decay(const mg_adam_coefs *coefs, int64_t n, double *data)
    int mg_adam_may_stop(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, const double *grad, const double *v)
    mg_status mg_adam_update(const mg_kernels *kernels, const mg_adam_coefs *coefs, int64_t n, double *data, double *grad,
                             double *m, double *v, int libm)

    ctypedef struct mg_poll:
        int (*ask)(void *context) noexcept nogil
        void *context
        int64_t work
        double asked

    ctypedef struct mg_engine:
        pass

    mg_engine *mg_engine_new(const mg_config *config, const mg_kernels *kernels)
    void mg_engine_free(mg_engine *engine)
    mg_status mg_engine_set_threads(mg_engine *engine, int threads, double least_work)
    int mg_engine_shares(const mg_engine *engine, int64_t positions)
    double MG_LEAST_SHARED_WORK
    int64_t mg_engine_sparse_layers(const mg_engine *engine)
    mg_status mg_document_gradient(mg_engine *engine, const double *params, double *grad, const int32_t *tokens, int64_t n,
                                   mg_poll *poll, double *loss)
    mg_status mg_position_losses(mg_engine *engine, const double *params, const int32_t *tokens, int64_t n, mg_poll *poll,
                                 double *losses)

    mg_status mg_position_losses_of(mg_engine *engine, const double *params, const int32_t *tokens, const int64_t *starts,
                                    int64_t documents, mg_poll *poll, double *losses)

    mg_status mg_train_batches(mg_engine *engine, const mg_adam_config *config, int64_t step, int64_t batch_size,
                               double *params, double *grad, double *m, double *v, const int32_t *tokens,
                               const int64_t *starts, int64_t batches, mg_poll *poll, double *document_losses,
                               double *losses, int64_t *done)
    mg_status mg_part_losses(mg_engine *engine, const double *params, const double *grad, const int32_t *tokens,
                             const int64_t *starts, int64_t documents, int64_t batch_size, mg_poll *poll, double *losses)
    mg_status mg_part_gradients(mg_engine *engine, int64_t documents, int64_t first, int64_t end, double *grad)
    mg_status mg_part_slices(mg_engine *engine, int64_t processes, int64_t *count)
    int64_t mg_part_slice_start(const mg_engine *engine, int64_t slice)
    int64_t mg_part_capacity(const mg_engine *engine, int64_t positions)

    ctypedef struct mg_crew:
        pass

    int64_t mg_crew_bytes(const mg_config *config, int64_t batch_size)
    mg_crew *mg_crew_join(const mg_engine *engine, void *memory, int64_t rank, int64_t processes, int64_t batch_size,
                          const double *params, const double *grad, const double *m, const double *v)
    mg_status mg_crew_train(mg_engine *engine, mg_crew *crew, const mg_adam_config *config, int64_t step,
                            const int32_t *tokens, const int64_t *starts, int64_t batches, mg_poll *poll, double *losses,
                            int64_t *done)
    void mg_crew_read(const mg_engine *engine, const mg_crew *crew, double *params, double *m, double *v)
    void mg_crew_stop(mg_crew *crew)
    void mg_crew_leave(mg_crew *crew)
    mg_status mg_train(mg_engine *engine, const mg_adam_config *config, int64_t step, double *params, double *grad, double *m,
                       double *v, const int32_t *tokens, const int64_t *starts, int64_t documents, mg_poll *poll,
                       double *losses, int64_t *done)

    mg_status mg_generate(mg_engine *engine, const double *params, mg_mt19937 *stream, double factor, const int32_t *tokens,
                  int64_t n, int64_t max_tokens, int64_t texts, mg_poll *poll, int32_t *out, int64_t *counts)
    mg_status mg_next_probabilities(mg_engine *engine, const double *params, double factor, const int32_t *tokens, int64_t n,
                                    mg_poll *poll, double *probs)
