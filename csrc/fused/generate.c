/* Texts, drawn token by token, by one thread or several.
 *
 * Each token takes one number of the random stream, so a text begins where the one before it ends, and texts come one after the
 * other. But two sequences of texts that ever begin a text at the same number are the same from there on, and soon they do. So
 * each thread draws the texts of a stretch of numbers, from where one might begin; then it goes on through the next thread's
 * stretch until it begins a text where that thread did. The texts of the first stretch are what one thread draws, and so are
 * those of each next one from that text on. */
#include <stdlib.h>
#include <string.h>

#include "fused/decode.h"
#include "fused/transposed.h"

enum {
    FIRST_TEXTS = 8,        /* that one thread draws, to learn how long texts are */
    LEAST_TEXTS = 16,       /* of a stretch, about */
    MOST_NUMBERS = 1 << 18, /* of all stretches */
    LEAST_SHARED_STEPS = 32 /* least_shared_work of this many steps: most tokens follow a beginning that is known, but not to a thread
                             * that starts */
};

typedef struct {
    mg_engine *e;
    double factor;
    const int32_t *prompt;
    int64_t n, most; /* tokens of the prompt; of a text, at most */
} request;

static void begin_texts(const request *r, mg_decoder *s)
{
    int64_t node = MG_PREFIX_ROOT;
    for (int64_t p = 0; p < r->n; p++) {
        s->text[p] = r->prompt[p];
        s->path[p] = node = mg_prefix_child(&s->tree, node, r->prompt[p]);
    }
}

/* One text after the prompt, BOS included if it ends with that. Its random numbers come from the stream, or, if that is NULL,
 * from `numbers`. *count: its tokens, and so the numbers that it takes. */
static mg_status draw_text(const request *r, mg_decoder *s, mg_mt19937 *stream, const double *numbers, mg_poll *poll,
                           int32_t *out, int64_t *count)
{
    const int64_t vocab_size = r->e->config.vocab_size, bos = vocab_size - 1;
    for (*count = 0; *count < r->most;) {
        const int64_t p = r->n - 1 + *count;
        mg_status status;
        const double *weights = mg_cumulative_weights(r->e, s, r->factor, p, poll, &status);
        if (!weights) return status;
        const int64_t token = stream ? mg_mt19937_choice(stream, weights, vocab_size)
                                     : mg_mt19937_choice_by(numbers[*count], weights, vocab_size);
        if (token < 0) return (mg_status)token;
        out[(*count)++] = (int32_t)token;
        if (token == bos) break;
        if (*count == r->most) break; /* perhaps the block is full */
        s->text[p + 1] = (int32_t)token;
        s->path[p + 1] = mg_prefix_child(&s->tree, s->path[p], (int32_t)token);
    }
    return MG_OK;
}

/* What one thread draws. Places are indices of `numbers`. */
typedef struct {
    int64_t first, drawn, next; /* where its first text begins, the first that it did not draw in its own stretch, and now */
    int32_t *tokens, *counts;   /* from `first` on: the token that each number gives, and how many a text has that begins there, or 0 */
    mg_status status;           /* of the text that begins at `next`, which cannot be drawn; or MG_OK */
    char padding[64];           /* threads write to it */
} stretch;

typedef struct {
    request r;
    const double *numbers;
    int64_t size, num_stretches; /* numbers of a stretch */
    stretch *stretches;
    int joining; /* whether all have drawn theirs, and go on */
} stretches;

static mg_status draw_stretch(void *context, int worker, int64_t item, mg_poll *poll)
{
    const stretches *a = context;
    stretch *s = &a->stretches[item];
    const stretch *after = s + 1;
    const int64_t end = a->joining ? after->drawn : s->first + a->size;
    while (s->next < end && !s->status) {
        if (a->joining && after->counts[s->next - after->first]) break;
        int64_t count;
        s->status = draw_text(&a->r, a->r.e->decoders[worker], NULL, a->numbers + s->next, poll, s->tokens + s->next - s->first,
                              &count);
        if (s->status == MG_INTERRUPTED) return MG_INTERRUPTED;
        if (s->status) break; /* it counts only if one thread comes to this text, and does so again */
        s->counts[s->next - s->first] = (int32_t)count;
        s->next += count;
    }
    if (!a->joining) s->drawn = s->next;
    return MG_OK;
}

/* Texts on their way to the caller. */
typedef struct {
    int64_t wanted, done;
    int64_t numbers; /* that they have taken */
    int32_t *out;
    int64_t *counts;
} texts;

static void add_text(const request *r, texts *t, const int32_t *tokens, int64_t count)
{
    const mg_config *c = &r->e->config;
    int32_t *to = t->out + t->done * c->block_size;
    if (to != tokens) memcpy(to, tokens, (size_t)count * sizeof *to);
    t->counts[t->done++] = count - (count && tokens[count - 1] == c->vocab_size - 1);
    t->numbers += count;
}

/* Take the texts from the stretches as far as they are known. Returns the numbers that they have taken. */
static int64_t collect(const stretches *a, texts *t)
{
    int64_t at = 0;
    for (int64_t i = 0; t->done < t->wanted;) {
        const stretch *s = &a->stretches[i], *after = s + 1;
        if (i + 1 < a->num_stretches && at >= after->first && at < after->drawn && after->counts[at - after->first]) {
            i++;
            continue;
        }
        if (at >= s->next) break;
        const int64_t count = s->counts[at - s->first];
        add_text(&a->r, t, s->tokens + at - s->first, count);
        at += count;
    }
    return at;
}

/* Whether the threads have drawn so much of use that they took less time than one. */
static int has_paid(const stretches *a, int64_t taken)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < a->num_stretches; i++) {
        const int64_t length = a->stretches[i].next - a->stretches[i].first;
        if (length > longest) longest = length;
    }
    return taken > longest + longest / 4;
}

/* Numbers of a stretch for the texts that are left; 0: one thread draws the next text. It is a multiple of the longest text's,
 * because of texts that end with the block the next thread's first one begins where one does. */
static int64_t plan(const request *r, const texts *t)
{
    const mg_engine *e = r->e;
    const int64_t threads = mg_pool_threads(e->pool);
    if (threads == 1 || t->done < FIRST_TEXTS || t->numbers == 0) return 0;
    const double mean = (double)t->numbers / (double)t->done, left = mean * (double)(t->wanted - t->done);
    if (left * (double)e->at.num_params < LEAST_SHARED_STEPS * e->least_shared_work) return 0;
    const int64_t share = (int64_t)(left < MOST_NUMBERS ? left : MOST_NUMBERS) / threads, size = share / r->most * r->most;
    return (double)size < LEAST_TEXTS * mean ? 0 : size;
}

/* Draw texts by all threads. *pays: whether to do so again. */
static mg_status draw_by_threads(const request *r, int64_t size, mg_mt19937 *stream, mg_poll *poll, texts *t, int *pays)
{
    const int64_t threads = mg_pool_threads(r->e->pool), most = r->most;
    /* The last text of a stretch, and the last before the next thread's, may go beyond its end. */
    const int64_t all = threads * size + 2 * most, each = 2 * size + 2 * most;
    double *numbers = malloc((size_t)all * sizeof *numbers);
    stretch *found = calloc((size_t)threads, sizeof *found);
    int32_t *tokens = malloc((size_t)(threads * each) * sizeof *tokens);
    int32_t *counts = calloc((size_t)(threads * each), sizeof *counts);
    mg_status status = numbers && found && tokens && counts ? MG_OK : MG_NO_MEMORY;
    if (!status) {
        mg_mt19937 ahead = *stream;
        for (int64_t i = 0; i < all; i++) numbers[i] = mg_mt19937_random(&ahead);
        for (int64_t i = 0; i < threads; i++)
            found[i] = (stretch){.first = i * size, .next = i * size, .tokens = tokens + i * each, .counts = counts + i * each};
        stretches a = {*r, numbers, size, threads, found, 0};
        status = mg_pool_run(r->e->pool, draw_stretch, &a, threads, poll);
        a.joining = 1;
        if (!status) status = mg_pool_run(r->e->pool, draw_stretch, &a, threads - 1, poll);
        if (!status) {
            const int64_t taken = collect(&a, t);
            for (int64_t i = 0; i < taken; i++) mg_mt19937_random(stream);
            *pays = has_paid(&a, taken);
        }
    }
    free(numbers);
    free(found);
    free(tokens);
    free(counts);
    return status;
}

mg_status mg_generate(mg_engine *e, const double *params, mg_mt19937 *stream, double factor, const int32_t *tokens,
                      int64_t n, int64_t max_tokens, int64_t wanted, mg_poll *poll, int32_t *out, int64_t *counts)
{
    const int64_t block_size = e->config.block_size, room = block_size - n + 1;
    const request r = {e, factor, tokens, n, max_tokens < room ? max_tokens : room};
    texts t = {.wanted = wanted, .out = out, .counts = counts};
    const mg_mt19937 start = *stream;
    int64_t decoders = 0;
    int pays = 1;
    mg_status status = mg_transpose(e, params, poll);
    for (int64_t i = 0; i < wanted; i++) counts[i] = 0;
    while (t.done < wanted && !status) {
        const int64_t size = pays ? plan(&r, &t) : 0, needed = size ? mg_pool_threads(e->pool) : 1;
        if (needed > decoders) {
            status = mg_reserve_decoders(e, needed);
            for (; decoders < needed && !status; decoders++) begin_texts(&r, e->decoders[decoders]);
        }
        if (!status && size) {
            status = draw_by_threads(&r, size, stream, poll, &t, &pays);
        } else if (!status) {
            int32_t *to = out + t.done * block_size;
            int64_t count;
            status = draw_text(&r, e->decoders[0], stream, NULL, poll, to, &count);
            if (!status) add_text(&r, &t, to, count);
        }
    }
    if (status) *stream = start;
    return status;
}
