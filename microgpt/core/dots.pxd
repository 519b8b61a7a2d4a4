# cython: language_level=3
"""Dot products: sums of products of which only the last addition has a slot (DotRows in tape.pxd)."""
from libc.stdint cimport uint32_t

from microgpt.core.tape cimport DotRows, tape


cdef inline uint32_t slot_a(DotRows *dots, uint32_t row, uint32_t i) noexcept nogil:
    cdef size_t k = <size_t>row * dots.a_row + <size_t>i * dots.a_step
    return dots.a_slots[k] if dots.a_slots != NULL else <uint32_t>(dots.a_base + k)


cdef inline uint32_t slot_b(DotRows *dots, uint32_t row, uint32_t i) noexcept nogil:
    cdef size_t k = <size_t>row * dots.b_row + <size_t>i * dots.b_step
    return dots.b_slots[k] if dots.b_slots != NULL else <uint32_t>(dots.b_base + k)


cdef inline DotRows *dots_of(uint32_t slot) noexcept nogil:
    return <DotRows *>tape.node[slot].payload.pointer


cdef inline void operand_bounds(DotRows *dots, uint32_t row, uint32_t *low, uint32_t *high) noexcept nogil:
    """Bounds of the operands' slots: low[0] to high[0] for a, [1] for b."""
    if dots.a_slots == NULL:
        low[0] = slot_a(dots, row, 0)
        high[0] = slot_a(dots, row, dots.n - 1)
    else:
        low[0], high[0] = dots.a_low, dots.a_high
    if dots.b_data == NULL:
        low[1], high[1] = low[0], high[0]
    elif dots.b_slots == NULL:
        low[1] = slot_b(dots, row, 0)
        high[1] = slot_b(dots, row, dots.n - 1)
    else:
        low[1], high[1] = dots.b_low, dots.b_high
