/* The generator of random.Random: the Mersenne Twister MT19937, and how CPython turns its 32-bit words into numbers.
 *
 * M. Matsumoto and T. Nishimura, "Mersenne Twister: a 623-dimensionally equidistributed uniform pseudo-random number
 * generator", ACM TOMACS 8 (1998), and their initialisation of 2002 (init_by_array). The state is 624 words, of which
 * `pos` have been used. */
#include "rng/mt19937.h"

#include "base/libm.h"
#include "base/status.h"

#define N 624
#define M 397

/* ---- the generator ---- */

static inline uint32_t twist(uint32_t high, uint32_t low)
{
    uint32_t word = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (word >> 1) ^ ((0u - (word & 1u)) & 0x9908b0dfu);
}

/* The next 624 words. Two loops, so that neither wraps around and both vectorise. */
static void refill(mg_mt19937 *stream)
{
    uint32_t *key = stream->key;
    for (int i = 0; i < N - M; i++) key[i] = key[i + M] ^ twist(key[i], key[i + 1]);
    for (int i = N - M; i < N - 1; i++) key[i] = key[i - (N - M)] ^ twist(key[i], key[i + 1]);
    key[N - 1] = key[M - 1] ^ twist(key[N - 1], key[0]);
    stream->pos = 0;
}

static inline uint32_t temper(uint32_t y)
{
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static inline uint32_t next_word(mg_mt19937 *stream)
{
    if (stream->pos >= N) refill(stream);
    return temper(stream->key[stream->pos++]);
}

void mg_mt19937_seed(mg_mt19937 *stream, const uint32_t *digits, int64_t num_digits)
{
    uint32_t *key = stream->key;
    key[0] = 19650218u;
    for (uint32_t i = 1; i < N; i++) key[i] = 1812433253u * (key[i - 1] ^ (key[i - 1] >> 30)) + i;

    int i = 1;
    int64_t j = 0;
    for (int64_t k = num_digits > N ? num_digits : N; k > 0; k--) {
        key[i] = (key[i] ^ ((key[i - 1] ^ (key[i - 1] >> 30)) * 1664525u)) + digits[j] + (uint32_t)j;
        if (++i == N) {
            key[0] = key[N - 1];
            i = 1;
        }
        if (++j == num_digits) j = 0;
    }
    for (int k = N - 1; k > 0; k--) {
        key[i] = (key[i] ^ ((key[i - 1] ^ (key[i - 1] >> 30)) * 1566083941u)) - (uint32_t)i;
        if (++i == N) {
            key[0] = key[N - 1];
            i = 1;
        }
    }
    key[0] = 0x80000000u; /* so that the state is never all zeros */
    stream->pos = N;
    stream->has_gauss = 0;
    stream->gauss_next = 0.0;
}

/* ---- CPython's numbers ---- */

/* 53 bits: a word's upper 27 above another's upper 26. Every operation here is exact. */
static inline double next_random(mg_mt19937 *stream)
{
    uint32_t high = next_word(stream) >> 5, low = next_word(stream) >> 6;
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0);
}

double mg_mt19937_random(mg_mt19937 *stream) { return next_random(stream); }

/* random.getrandbits(k), 1 <= k <= 64: the low word first, the last one cut from above. */
static inline uint64_t next_bits(mg_mt19937 *stream, int k)
{
    if (k <= 32) return next_word(stream) >> (32 - k);
    uint64_t low = next_word(stream);
    return low | (uint64_t)(next_word(stream) >> (64 - k)) << 32;
}

uint64_t mg_mt19937_below(mg_mt19937 *stream, uint64_t n)
{
    /* As many bits as n has, not n - 1: for a power of two half of the draws are rejected. */
    int k = 64 - __builtin_clzll(n);
    uint64_t r = next_bits(stream, k);
    while (r >= n) r = next_bits(stream, k);
    return r;
}

/* Without a branch on what is drawn: about a quarter of the words are rejected, and no processor can tell which. */
void mg_mt19937_fill_below(mg_mt19937 *stream, uint64_t n, int64_t count, uint64_t *out)
{
    int64_t i = 0;
    for (; i < count && n - (uint64_t)i > UINT32_MAX; i++) out[i] = mg_mt19937_below(stream, n - (uint64_t)i);
    while (i < count) {
        /* As long as n - i has k bits. */
        int k = 64 - __builtin_clzll(n - (uint64_t)i);
        int64_t end = (int64_t)(n - ((uint64_t)1 << (k - 1))) + 1;
        if (end > count) end = count;
        while (i < end) {
            if (stream->pos >= N) refill(stream);
            int pos = stream->pos;
            for (; pos < N && i < end; pos++) {
                uint64_t r = temper(stream->key[pos]) >> (32 - k);
                out[i] = r;
                i += r < n - (uint64_t)i;
            }
            stream->pos = pos;
        }
    }
}

double mg_mt19937_gauss(mg_mt19937 *stream, double mu, double sigma)
{
    double z;
    if (stream->has_gauss) {
        z = stream->gauss_next;
        stream->has_gauss = 0;
    } else {
        double x2pi = next_random(stream) * 6.283185307179586; /* 2.0 * math.pi */
        double g2rad = sqrt(-2.0 * mg_log(1.0 - next_random(stream)));
        z = mg_cos(x2pi) * g2rad;
        stream->gauss_next = mg_sin(x2pi) * g2rad;
        stream->has_gauss = 1;
    }
    return mu + z * sigma;
}

void mg_mt19937_fill_gauss(mg_mt19937 *stream, double *out, int64_t n, double mu, double sigma)
{
    for (int64_t i = 0; i < n; i++) out[i] = mg_mt19937_gauss(stream, mu, sigma);
}

/* The statuses of mg_mt19937_choice, or 0. */
static int64_t check_weights(const double *cum_weights, int64_t n)
{
    const double total = cum_weights[n - 1];
    if (total <= 0.0) return MG_CHOICE_TOTAL_ZERO;
    return isfinite(total) ? 0 : MG_CHOICE_TOTAL_NOT_FINITE;
}

/* bisect.bisect_right(cum_weights, x, 0, n - 1): the last index is never compared, so rounding cannot pass it. */
static int64_t bisect(const double *cum_weights, double x, int64_t n)
{
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (x < cum_weights[mid])
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

int64_t mg_mt19937_choice(mg_mt19937 *stream, const double *cum_weights, int64_t n)
{
    const int64_t status = check_weights(cum_weights, n); /* before a number is drawn */
    return status ? status : mg_mt19937_choice_by(next_random(stream), cum_weights, n);
}

int64_t mg_mt19937_choice_by(double random, const double *cum_weights, int64_t n)
{
    const int64_t status = check_weights(cum_weights, n);
    return status ? status : bisect(cum_weights, random * (cum_weights[n - 1] + 0.0), n);
}
