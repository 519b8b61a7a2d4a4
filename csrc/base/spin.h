/* Looking again and again at what another thread or process will write. */
#ifndef MG_BASE_SPIN_H
#define MG_BASE_SPIN_H

/* Between two looks: the processor saves energy, and serves its other thread. */
static inline void mg_pause_spinning(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
