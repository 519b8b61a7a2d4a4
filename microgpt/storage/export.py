"""A model as one C file that samples with the same bits, and as JSON.

The C program does the script's arithmetic operation by operation ("Inference" in `microgpt.py`): the same sums in the same
order, `pow` and `exp` of the C library, and Python's random stream. So it prints what `microgpt sample` prints, where both
use the same C library.
"""
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .checkpoint import State

__all__ = ["as_c", "as_json"]

C_PROGRAM = r"""/* A model of microgpt, made by `microgpt export`. Prints what `microgpt sample` prints, to the bit:
 *
 *     cc -O2 -ffp-contract=off -o model model.c -lm && ./model [SAMPLES [TEMPERATURE [SEED]]]
 *
 * Without SEED the random stream continues that of the saved run. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FAST_MATH__) || (defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0)
#error "this needs plain IEEE doubles: no -ffast-math, no x87 arithmetic"
#endif
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

enum { VOCAB = @VOCAB@, N_EMBD = @N_EMBD@, N_HEAD = @N_HEAD@, N_LAYER = @N_LAYER@, BLOCK = @BLOCK@ };
enum { HEAD = N_EMBD / N_HEAD, BOS = VOCAB - 1, KEY_WORDS = 64 };
static const char *const characters[VOCAB] = {@CHARACTERS@};
/* The script's state_dict, in its order: wte, wpe, lm_head, then each layer. */
static const double weights[] = {
@WEIGHTS@};
static uint32_t mt[624] = {@STATE@};
static int mti = @INDEX@;

/* ---- Python's random ---- */

static uint32_t next_word(void)
{
    if (mti >= 624) {
        for (int k = 0; k < 624; k++) {
            const uint32_t y = (mt[k] & 0x80000000u) | (mt[(k + 1) % 624] & 0x7fffffffu);
            mt[k] = mt[(k + 397) % 624] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        mti = 0;
    }
    uint32_t y = mt[mti++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static double random_double(void)
{
    const uint32_t a = next_word() >> 5, b = next_word() >> 6;
    return (a * 67108864.0 + b) * (1.0 / 9007199254740992.0);
}

/* The words of an integer's magnitude, the lowest first; how many there are, 0 if text is not an integer, or too long. */
static int parse_seed(const char *text, uint32_t *key)
{
    int length = 1;
    key[0] = 0;
    text += *text == '-' || *text == '+';
    if (!*text) return 0;
    for (; *text; text++) {
        if (!strchr("0123456789", *text)) return 0;
        uint64_t carry = (uint64_t)(*text - '0');
        for (int i = 0; i < length; i++, carry >>= 32) key[i] = (uint32_t)(carry += (uint64_t)key[i] * 10);
        if (carry && length == KEY_WORDS) return 0;
        if (carry) key[length++] = (uint32_t)carry;
    }
    return length;
}

/* random.seed(seed) */
static void seed_stream(const uint32_t *key, int length)
{
    mt[0] = 19650218u;
    for (int i = 1; i < 624; i++) mt[i] = 1812433253u * (mt[i - 1] ^ (mt[i - 1] >> 30)) + (uint32_t)i;
    int i = 1, j = 0;
    for (int k = length > 624 ? length : 624; k; k--) {
        mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1664525u)) + key[j] + (uint32_t)j;
        if (++i >= 624) mt[0] = mt[623], i = 1;
        if (++j >= length) j = 0;
    }
    for (int k = 623; k; k--) {
        mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1566083941u)) - (uint32_t)i;
        if (++i >= 624) mt[0] = mt[623], i = 1;
    }
    mt[0] = 0x80000000u;
    mti = 624;
}

/* random.choices(range(VOCAB), weights=probs)[0] */
static int choose(const double *probs)
{
    double cumulated[VOCAB], total = 0.0;
    for (int i = 0; i < VOCAB; i++) cumulated[i] = total = i ? total + probs[i] : probs[0];
    total += 0.0;
    if (!(total > 0.0) || isinf(total)) {
        fprintf(stderr, "the probabilities are not finite\n");
        exit(2);
    }
    const double x = random_double() * total;
    int low = 0, high = VOCAB - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (x < cumulated[middle]) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* ---- the model: sums begin with 0 and go from left to right; a / b is a * b ** -1 ---- */

static void linear(int nout, int nin, const double *w, const double *x, double *out)
{
    for (int o = 0; o < nout; o++) {
        double sum = 0.0;
        for (int i = 0; i < nin; i++) sum += w[o * nin + i] * x[i];
        out[o] = sum;
    }
}

static void softmax(int n, double *x)
{
    double most = x[0], total = 0.0;
    for (int i = 1; i < n; i++)
        if (x[i] > most) most = x[i];
    for (int i = 0; i < n; i++) total += x[i] = exp(x[i] + most * -1.0);
    const double inverse = pow(total, -1.0);
    for (int i = 0; i < n; i++) x[i] *= inverse;
}

static void rmsnorm(const double *x, double *out)
{
    double sum = 0.0;
    for (int i = 0; i < N_EMBD; i++) sum += x[i] * x[i];
    const double scale = pow(sum * pow(N_EMBD, -1.0) + 1e-5, -0.5);
    for (int i = 0; i < N_EMBD; i++) out[i] = x[i] * scale;
}

static double keys[N_LAYER + 1][BLOCK][N_EMBD], values[N_LAYER + 1][BLOCK][N_EMBD];

static void gpt(int token_id, int pos_id, double *logits)
{
    const double *w = weights, *wte = w, *wpe = wte + VOCAB * N_EMBD, *lm_head = wpe + BLOCK * N_EMBD;
    const double *layer = lm_head + VOCAB * N_EMBD;
    double x[N_EMBD], norm[N_EMBD], q[N_EMBD], attended[N_EMBD], added[N_EMBD], hidden[4 * N_EMBD], scores[BLOCK];
    for (int i = 0; i < N_EMBD; i++) x[i] = wte[token_id * N_EMBD + i] + wpe[pos_id * N_EMBD + i];
    rmsnorm(x, x);
    for (int l = 0; l < N_LAYER; l++, layer += 12 * N_EMBD * N_EMBD) {
        const int square = N_EMBD * N_EMBD;
        rmsnorm(x, norm);
        linear(N_EMBD, N_EMBD, layer, norm, q);
        linear(N_EMBD, N_EMBD, layer + square, norm, keys[l][pos_id]);
        linear(N_EMBD, N_EMBD, layer + 2 * square, norm, values[l][pos_id]);
        for (int h = 0; h < N_HEAD; h++) {
            const double scale = pow(pow(HEAD, 0.5), -1.0);
            for (int t = 0; t <= pos_id; t++) {
                double sum = 0.0;
                for (int j = h * HEAD; j < (h + 1) * HEAD; j++) sum += q[j] * keys[l][t][j];
                scores[t] = sum * scale;
            }
            softmax(pos_id + 1, scores);
            for (int j = h * HEAD; j < (h + 1) * HEAD; j++) {
                double sum = 0.0;
                for (int t = 0; t <= pos_id; t++) sum += scores[t] * values[l][t][j];
                attended[j] = sum;
            }
        }
        linear(N_EMBD, N_EMBD, layer + 3 * square, attended, added);
        for (int i = 0; i < N_EMBD; i++) x[i] = added[i] + x[i];
        rmsnorm(x, norm);
        linear(4 * N_EMBD, N_EMBD, layer + 4 * square, norm, hidden);
        for (int i = 0; i < 4 * N_EMBD; i++) hidden[i] = hidden[i] > 0.0 ? hidden[i] : 0.0;
        linear(N_EMBD, 4 * N_EMBD, layer + 8 * square, hidden, added);
        for (int i = 0; i < N_EMBD; i++) x[i] = added[i] + x[i];
    }
    linear(VOCAB, N_EMBD, lm_head, x, logits);
}

/* Whether argument i is missing, or a number without a sign: all of it, up to end. */
static int is_valid(int i, int argc, char **argv, const char *end)
{
    return argc <= i || (strchr(".0123456789", argv[i][0]) && end != argv[i] && !*end);
}

int main(int argc, char **argv)
{
    char *ends[3] = {NULL};
    const long samples = argc > 1 ? strtol(argv[1], &ends[1], 10) : 20;
    const double temperature = argc > 2 ? strtod(argv[2], &ends[2]) : 0.5;
    uint32_t key[KEY_WORDS];
    const int length = argc > 3 ? parse_seed(argv[3], key) : 1;
    int is_right = argc <= 4 && temperature > 0.0 && length;
    for (int i = 1; i < 3; i++) is_right = is_right && is_valid(i, argc, argv, ends[i]);
    if (!is_right) {
        fprintf(stderr, "usage: %s [SAMPLES [TEMPERATURE [SEED]]]\n", argv[0]);
        return 2;
    }
    if (argc > 3) seed_stream(key, length);
    const double inverse = pow(temperature, -1.0);
    for (long s = 1; s <= samples; s++) {
        double probs[VOCAB];
        int token_id = BOS;
        printf("sample %2ld: ", s);
        for (int pos_id = 0; pos_id < BLOCK; pos_id++) {
            gpt(token_id, pos_id, probs);
            for (int i = 0; i < VOCAB; i++) probs[i] *= inverse;
            softmax(VOCAB, probs);
            token_id = choose(probs);
            if (token_id == BOS) break;
            fputs(characters[token_id], stdout);
        }
        putchar('\n');
    }
    if (fflush(stdout) || ferror(stdout)) {
        perror("standard output");
        return 2;
    }
    return 0;
}
"""


def _literal(text: str) -> str:
    """Return a C string literal with the UTF-8 bytes of text."""
    return '"' + "".join(f"\\{byte:03o}" if not 32 <= byte < 127 or byte in b'"\\?' else chr(byte) for byte in text.encode()) + '"'


def _rows(items: "Sequence[str]", per_line: int) -> str:
    return "".join(f"    {', '.join(items[i : i + per_line])},\n" for i in range(0, len(items), per_line))


def _finite_parameters(state: "State") -> "list[float]":
    """Return the parameters. Raises ValueError if one is not finite: neither C nor JSON has a literal for it."""
    from math import isfinite

    numbers: list[float] = state.params.tolist()
    if not all(map(isfinite, numbers)):
        raise ValueError("the model has parameters that are not finite: the run has diverged")
    return numbers


def as_c(state: "State", shown: "Callable[[str], str]" = str) -> str:
    """Return a C program that samples from a saved run.

    Parameters
    ----------
    state : State
        What `microgpt.storage.checkpoint.load` returned.
    shown : callable
        How the program writes a character.

    Raises
    ------
    ValueError
        For a model whose parameters are not finite.
    """
    numbers, config, words = _finite_parameters(state), state.config, state.rng[1]
    parts = {
        "VOCAB": len(state.uchars) + 1, "N_EMBD": config.n_embd, "N_HEAD": config.n_head, "N_LAYER": config.n_layer,
        "BLOCK": config.block_size, "CHARACTERS": ", ".join([*(_literal(shown(ch)) for ch in state.uchars), '""']),
        "WEIGHTS": _rows([x.hex() for x in numbers], 5), "STATE": ", ".join(f"{word}u" for word in words[:624]),
        "INDEX": words[624],
    }  # fmt: skip
    program = C_PROGRAM
    for name, value in parts.items():
        program = program.replace(f"@{name}@", str(value))
    return program


def as_json(state: "State") -> str:
    """Return a model as JSON: its sizes, its characters in the order of their token ids, its weights by name as rows.

    Numbers have as many digits as it takes to read the same double back. Raises ValueError as `as_c` does.
    """
    from ..config import split_parameters

    _finite_parameters(state)
    config = state.config
    matrices = split_parameters(state.params, config.shapes(len(state.uchars) + 1))
    model: dict[str, Any] = {
        "n_embd": config.n_embd, "n_head": config.n_head, "n_layer": config.n_layer, "block_size": config.block_size,
        "characters": state.uchars, "bos": len(state.uchars),
        "weights": {name: matrix.tolist() for name, matrix in matrices.items()},
    }  # fmt: skip
    return json.dumps(model, separators=(",", ":")) + "\n"
