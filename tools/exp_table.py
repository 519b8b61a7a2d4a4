"""Writes csrc/kernels/body/exp_table.h: 2**(j/16) and ln(2)/16 as sums of two doubles.

    python tools/exp_table.py > csrc/kernels/body/exp_table.h
"""
from decimal import Decimal, getcontext
from fractions import Fraction

getcontext().prec = 80

STEPS = 16
HIGH_BITS = 39  # of ln(2)/16: a multiple of it by an integer below 2**14 is a double


def two_doubles(x):
    high = float(Fraction(x))
    return high, float(Fraction(x) - Fraction(high))


def main():
    powers = [two_doubles((Decimal(2).ln() * j / STEPS).exp()) for j in range(STEPS)]
    step = Fraction(Decimal(2).ln() / STEPS)
    scale = 2 ** (HIGH_BITS + 4)  # ln(2)/16 = 0.0433 is between 2**-5 and 2**-4
    high = float(Fraction(round(step * scale), scale))
    low = float(step - Fraction(high))
    print("/* Written by tools/exp_table.py: 2**(j/16), rounded to a double and what is missing to it; ln(2)/16, cut so")
    print(" * that its product with an integer below 2**14 is exact, and what is missing. */")
    print("#ifndef MG_EXP_TABLE_H\n#define MG_EXP_TABLE_H\n")
    print("#if MG_LANES == 8")
    for name, column in (("high", 0), ("low", 1)):
        print(f"static const double exp_table_{name}[{STEPS}] __attribute__((aligned(64))) = {{")
        for i in range(0, STEPS, 4):
            print("    " + ", ".join(pair[column].hex() for pair in powers[i : i + 4]) + ",")
        print("};")
    print("#else /* both, one after the other */")
    print(f"static const double exp_table[{2 * STEPS}] __attribute__((aligned(64))) = {{")
    for pair in powers:
        print(f"    {pair[0].hex()}, {pair[1].hex()},")
    print("};\n#endif")
    print(f"\n#define LN2_16_HIGH {high.hex()}\n#define LN2_16_LOW {low.hex()}")
    print(f"#define INVERSE_LN2_16 {float(1 / step).hex()}\n\n#endif")


if __name__ == "__main__":
    main()
