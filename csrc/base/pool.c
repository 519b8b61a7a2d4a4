/* Each job is open from when it is set up until its caller finds no item left. A worker that comes late finds it closed
 * and waits for the next. So the caller waits for items that were begun, never for a thread that the system does not run. */
#include "base/pool.h"

#include <fenv.h>
#include <stdlib.h>

#include "base/spin.h"
#include "base/thread.h"

/* A thread's share of a job's items, on cache lines of its own. It takes them from the first on, and others, when they have done
 * theirs, from the last on: so from job to job most items stay with the thread in whose cache their memory is. */
typedef struct {
    int64_t first, count, step; /* first, first + step, ... */
    int64_t taken, from_front, from_back; /* atomic: how many were promised to threads; and of these, to which end */
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
    share *shares; /* [2][threads]: of the first items and of the second */
    mg_mutex mutex;
    mg_condition begun, ended; /* ended: the last worker's part in a job, or an item that a thread waits for */
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
    int waiting;        /* threads that wait for `ended` */
    int64_t generation; /* jobs begun */
};

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, value) __atomic_store_n(&(x), value, __ATOMIC_SEQ_CST)
#define ADD(x, value) __atomic_fetch_add(&(x), value, __ATOMIC_SEQ_CST)

/* How often to look before sleeping: some 20 to 100 microseconds. */
enum { SPINS = 2000 };

static int job_was_stopped(void *pool) { return LOAD(((mg_pool *)pool)->stopped) != MG_OK; }

static void stop(mg_pool *p, mg_status status)
{
    int none = MG_OK;
    __atomic_compare_exchange_n(&p->stopped, &none, status, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static void wake_waiting(mg_pool *p)
{
    if (!LOAD(p->waiting)) return;
    mg_mutex_lock(&p->mutex);
    mg_condition_wake_all(&p->ended);
    mg_mutex_unlock(&p->mutex);
}

/* The next item of a share, for its own thread or another; -1: none is left. */
static int64_t take(share *s, int own)
{
    if (LOAD(s->taken) >= s->count || ADD(s->taken, 1) >= s->count) return -1;
    return s->first + s->step * (own ? ADD(s->from_front, 1) : s->count - 1 - ADD(s->from_back, 1));
}

/* Items of the open job, those of this worker's share first, until none is left. */
static void do_items(mg_pool *p, int worker, mg_poll *poll)
{
    for (int i = 0; i < 2 * p->threads; i++) {
        share *s = &p->shares[(worker + i) % p->threads + i / p->threads * p->threads];
        while (!LOAD(p->stopped)) {
            const int64_t item = take(s, i % p->threads == 0);
            if (item < 0) break;
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
        mg_pause_spinning();
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
        if (ADD(p->inside, -1) == 1) wake_waiting(p);
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
    p->open = p->inside = p->quit = p->sleepers = p->waiting = 0;
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
    p->shares = calloc(2 * (size_t)p->threads, sizeof *p->shares);
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

/* Wait until `done` says so. */
static void wait_until(mg_pool *p, int (*done)(mg_pool *, const void *), const void *what, mg_poll *poll)
{
    for (int i = 0; i < SPINS; i++) {
        if (done(p, what)) return;
        mg_pause_spinning();
    }
    mg_mutex_lock(&p->mutex);
    ADD(p->waiting, 1);
    while (!done(p, what)) {
        mg_condition_wait_20_ms(&p->ended, &p->mutex);
        if (!poll || done(p, what)) continue;
        /* The question may run Python code, or wait for it. */
        mg_mutex_unlock(&p->mutex);
        if (mg_poll_clock(poll)) stop(p, MG_INTERRUPTED);
        mg_mutex_lock(&p->mutex);
    }
    ADD(p->waiting, -1);
    mg_mutex_unlock(&p->mutex);
}

static int none_inside(mg_pool *p, const void *nothing)
{
    (void)nothing;
    return !LOAD(p->inside);
}

static int done_or_stopped(mg_pool *p, const void *done) { return LOAD(*(const int *)done) || LOAD(p->stopped); }

mg_status mg_pool_wait(mg_pool *p, const int *done, mg_poll *poll)
{
    if (LOAD(*done)) return MG_OK;
    wait_until(p, done_or_stopped, done, poll);
    return LOAD(*done) ? MG_OK : (mg_status)LOAD(p->stopped);
}

void mg_pool_set_done(mg_pool *p, int *done)
{
    STORE(*done, 1);
    if (p) wake_waiting(p);
}

mg_status mg_pool_run(mg_pool *p, mg_pool_work work, void *context, int64_t count, mg_poll *poll)
{
    const mg_pool_items all = {.count = count}, none = {0};
    return mg_pool_run_two(p, work, context, &all, &none, poll);
}

/* The items of thread i, of which the first is numbered `from`. */
static share share_of(const mg_pool_items *items, int64_t from, int i, int threads, mg_pool *p)
{
    share s = {.first = from, .step = 1, .poll = {job_was_stopped, p, 0, 0.0}};
    if (items->dealt) {
        s.first += i;
        s.step = threads;
        s.count = (items->count + threads - 1 - i) / threads;
        return s;
    }
    const int64_t first = items->starts ? items->starts[i] : items->count * i / threads;
    s.first += first;
    s.count = (items->starts ? items->starts[i + 1] : items->count * (i + 1) / threads) - first;
    return s;
}

mg_status mg_pool_run_two(mg_pool *p, mg_pool_work work, void *context, const mg_pool_items *first,
                          const mg_pool_items *second, mg_poll *poll)
{
    mg_status status = MG_OK;
    const int64_t count = first->count + second->count;
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
        p->shares[i] = share_of(first, 0, i, p->threads, p);
        p->shares[i + p->threads] = share_of(second, first->count, i, p->threads, p);
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
    STORE(p->open, 0); /* no worker enters the job any more; those inside leave it */
    wait_until(p, none_inside, NULL, poll);
    return (mg_status)LOAD(p->stopped);
}
