#include <math.h>

#include "tests/check.h"
#include "tests/tests.h"

/* What Python's random gives after random.seed(42). */
void test_rng(void)
{
    begin_case("rng");
    mg_mt19937 stream = seeded(42);
    const double uniform[] = {0.6394267984578837, 0.025010755222666936, 0.27502931836911926};
    double got[3];
    for (int i = 0; i < 3; i++) got[i] = mg_mt19937_random(&stream);
    check_array("random()", 3, got, uniform);

    const double none[] = {0.0, 0.0}, huge[] = {1.0, INFINITY}, some[] = {0.0, 1.0, 1.0};
    const mg_mt19937 before = stream;
    check(mg_mt19937_choice(&stream, none, 2) == MG_CHOICE_TOTAL_ZERO, "weights of 0");
    check(mg_mt19937_choice(&stream, huge, 2) == MG_CHOICE_TOTAL_NOT_FINITE, "a weight of inf");
    check(stream.pos == before.pos, "a number was drawn without a choice");
    check(mg_mt19937_choice(&stream, some, 3) == 1, "a choice of weight 0");

    const uint64_t most[] = {5000, 4096, 1, ((uint64_t)1 << 32) + 3};
    for (int i = 0; i < 4; i++) {
        mg_mt19937 each = seeded(7), all = seeded(7);
        uint64_t numbers[1000];
        int64_t count = most[i] < 1000 ? (int64_t)most[i] : 1000;
        mg_mt19937_fill_below(&all, most[i], count, numbers);
        int is_same = 1;
        for (int64_t j = 0; j < count; j++) is_same &= numbers[j] == mg_mt19937_below(&each, most[i] - (uint64_t)j);
        check(is_same && each.pos == all.pos, "numbers below n, n - 1, ... that are drawn at once");
    }
}
