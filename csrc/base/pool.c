/* Each job is open from when it is set up until its caller finds no item left. A worker that comes late finds it closed
 * and waits for the next. So the caller waits for items that were begun, never for a thread that the system does not run. */
#include "base/pool.h"

#include <fenv.h>
#include <stdlib.h>

#include "base/thread.h"

/* A thread's share of a job's items, on cache lines of its own: others take from it when they have done theirs. */
typedef struct {
    int64_t next, end;
    mg_poll poll; /* of workers: asks whether the job was stopped */
    char padding[128];
} share;

typedef struct {
    mg_pool *pool;
    int worker;
    mg_thread thread;
} member;

struct mg_pool {
    int threads;
    int started; /* threads that run; members[0] is the caller's */
    int forks;   /* when they were started */
    member *members;
    share *shares;
    mg_mutex mutex;
    mg_condition begun, ended;
    /* The job: written before it is open, read while it is. */
    mg_pool_work work;
    void *context;
    int interruptible;
    fenv_t environment; /* rounding and subnormal numbers are as in the caller's thread */
    /* Atomic. */
    int open, inside; /* inside: workers that may be at work */
    int stopped;      /* the first status that is not MG_OK */
    int quit;
    int sleepers;       /* workers that wait for `begun` */
    int caller_sleeps;  /* whether the caller waits for `ended` */
    int64_t generation; /* jobs begun */
};

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, value) __atomic_store_n(&(x), value, __ATOMIC_SEQ_CST)
#define ADD(x, value) __atomic_fetch_add(&(x), value, __ATOMIC_SEQ_CST)

/* How often to look before sleeping: some 20 to 100 microseconds. */
enum { SPINS = 1000 };

static inline void pause_spinning(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int job_was_stopped(void *pool) { return LOAD(((mg_pool *)pool)->stopped) != MG_OK; }

static void stop(mg_pool *p, mg_status status)
{
    int none = MG_OK;
    __atomic_compare_exchange_n(&p->stopped, &none, status, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Items of the open job, those of this worker's share first, until none is left. */
static void do_items(mg_pool *p, int worker, mg_poll *poll)
{
    for (int i = 0; i < p->threads; i++) {
        share *s = &p->shares[(worker + i) % p->threads];
        while (!LOAD(p->stopped)) {
            if (LOAD(s->next) >= s->end) break;
            const int64_t item = ADD(s->next, 1);
            if (item >= s->end) break;
            const mg_status status = p->work(p->context, worker, item, poll);
            if (status) stop(p, status);
        }
    }
}

/* Wait until more jobs were begun than `seen`, or the pool ends; how many then. */
static int64_t wait_for_job(mg_pool *p, int64_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        const int64_t now = LOAD(p->generation);
        if (now != seen || LOAD(p->quit)) return now;
        pause_spinning();
    }
    mg_mutex_lock(&p->mutex);
    ADD(p->sleepers, 1);
    while (LOAD(p->generation) == seen && !LOAD(p->quit)) mg_condition_wait(&p->begun, &p->mutex);
    ADD(p->sleepers, -1);
    mg_mutex_unlock(&p->mutex);
    return LOAD(p->generation);
}

static MG_THREAD_RESULT run_worker(void *argument)
{
    const member *self = argument;
    mg_pool *p = self->pool;
    int64_t seen = 0;
    while (!LOAD(p->quit)) {
        seen = wait_for_job(p, seen);
        ADD(p->inside, 1);
        if (LOAD(p->open)) { /* what was set up before is visible, and stays while this thread is inside */
            fesetenv(&p->environment);
            do_items(p, self->worker, p->interruptible ? &p->shares[self->worker].poll : NULL);
        }
        if (ADD(p->inside, -1) == 1 && LOAD(p->caller_sleeps)) {
            mg_mutex_lock(&p->mutex);
            mg_condition_wake_all(&p->ended);
            mg_mutex_unlock(&p->mutex);
        }
    }
    return 0;
}

static void end_threads(mg_pool *p)
{
    mg_mutex_lock(&p->mutex);
    STORE(p->quit, 1);
    mg_condition_wake_all(&p->begun);
    mg_mutex_unlock(&p->mutex);
    while (p->started > 1) mg_thread_join(p->members[--p->started].thread);
}

/* The threads run, in this process. */
static mg_status ensure_threads(mg_pool *p)
{
    const int forks_now = mg_count_forks();
    if (p->started && p->forks == forks_now) return MG_OK;
    /* In a forked process the parent's threads, and whatever they held, are gone. */
    mg_mutex_init(&p->mutex);
    mg_condition_init(&p->begun);
    mg_condition_init(&p->ended);
    p->open = p->inside = p->quit = p->sleepers = p->caller_sleeps = 0;
    p->generation = 0;
    p->forks = forks_now;
    p->started = 1;
    while (p->started < p->threads) {
        member *m = &p->members[p->started];
        *m = (member){.pool = p, .worker = p->started};
        if (!mg_thread_start(&m->thread, run_worker, m)) {
            end_threads(p);
            p->started = 0;
            return MG_NO_THREAD;
        }
        p->started++;
    }
    return MG_OK;
}

mg_pool *mg_pool_new(int threads)
{
    mg_pool *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->threads = threads < 1 ? 1 : threads;
    p->members = calloc((size_t)p->threads, sizeof *p->members);
    p->shares = calloc((size_t)p->threads, sizeof *p->shares);
    if (p->members && p->shares) return p;
    mg_pool_free(p);
    return NULL;
}

void mg_pool_free(mg_pool *p)
{
    if (!p) return;
    if (p->started && p->forks == mg_count_forks()) end_threads(p);
    free(p->members);
    free(p->shares);
    free(p);
}

int mg_pool_threads(const mg_pool *pool) { return pool ? pool->threads : 1; }

/* Close the job: no worker enters it any more, and those inside have left it. */
static void close_job(mg_pool *p, mg_poll *poll)
{
    STORE(p->open, 0);
    for (int i = 0; i < SPINS; i++) {
        if (!LOAD(p->inside)) return;
        pause_spinning();
    }
    mg_mutex_lock(&p->mutex);
    STORE(p->caller_sleeps, 1);
    while (LOAD(p->inside)) {
        mg_condition_wait_20_ms(&p->ended, &p->mutex);
        if (!poll || !LOAD(p->inside)) continue;
        /* The question may run Python code, or wait for it. */
        mg_mutex_unlock(&p->mutex);
        if (mg_poll_clock(poll)) stop(p, MG_INTERRUPTED);
        mg_mutex_lock(&p->mutex);
    }
    STORE(p->caller_sleeps, 0);
    mg_mutex_unlock(&p->mutex);
}

mg_status mg_pool_run(mg_pool *p, mg_pool_work work, void *context, int64_t count, mg_poll *poll)
{
    mg_status status = MG_OK;
    if (!p || p->threads == 1 || count <= 1) {
        for (int64_t item = 0; item < count && !status; item++) status = work(context, 0, item, poll);
        return status;
    }
    status = ensure_threads(p);
    if (status) return status;
    p->work = work;
    p->context = context;
    p->interruptible = poll != NULL;
    fegetenv(&p->environment);
    for (int i = 0; i < p->threads; i++) {
        share *s = &p->shares[i];
        s->end = count * (i + 1) / p->threads;
        s->poll = (mg_poll){job_was_stopped, p, 0, 0.0};
        STORE(s->next, count * i / p->threads);
    }
    STORE(p->stopped, MG_OK);
    STORE(p->open, 1);
    ADD(p->generation, 1);
    if (LOAD(p->sleepers)) {
        mg_mutex_lock(&p->mutex);
        mg_condition_wake_all(&p->begun);
        mg_mutex_unlock(&p->mutex);
    }
    do_items(p, 0, poll);
    close_job(p, poll);
    return (mg_status)LOAD(p->stopped);
}
