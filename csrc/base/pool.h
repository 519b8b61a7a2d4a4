/* A team of threads that share the items of a job: persistent, asleep when there is none. */
#ifndef MG_BASE_POOL_H
#define MG_BASE_POOL_H

#include "base/poll.h"

typedef struct mg_pool mg_pool;

/* One item of a job. worker: which thread does it, from 0 (the caller of mg_pool_run) up. On any status but MG_OK no
 * further item is begun. poll: what to count work on; NULL: the job is not interruptible. */
typedef mg_status (*mg_pool_work)(void *context, int worker, int64_t item, mg_poll *poll);

/* A pool of `threads` threads, the caller of mg_pool_run included. They start with the first job, and again in a process
 * that was forked. NULL: out of memory. */
mg_pool *mg_pool_new(int threads);

/* End the threads. NULL: nothing. No job is under way. */
void mg_pool_free(mg_pool *pool);

int mg_pool_threads(const mg_pool *pool); /* 1 for NULL */

/* Do items 0 to count - 1, in any order and on any threads. Each thread begins with a share of its own, which for the same count
 * is the same in every job, at its first item; when it has done them, it helps the others, at their last. One job at a time;
 * work does not run a job of the same pool. pool NULL: all items here, in order. MG_OK, the status of an item that failed,
 * MG_INTERRUPTED, or MG_NO_THREAD. When it returns no item is being worked on. */
mg_status mg_pool_run(mg_pool *pool, mg_pool_work work, void *context, int64_t count, mg_poll *poll);

/* Items of one kind. starts: [threads + 1], those with which the threads' shares begin, and count; NULL: shares are equal, and,
 * if `dealt`, each thread's items are as many apart as there are threads. */
typedef struct {
    int64_t count;
    const int64_t *starts;
    int dealt;
} mg_pool_items;

/* The same for the items of `first` and then those of `second`, numbered on. A thread that finds none left of the first begins
 * with the others, while some of the first are still being worked on: mg_pool_wait. */
mg_status mg_pool_run_two(mg_pool *pool, mg_pool_work work, void *context, const mg_pool_items *first,
                          const mg_pool_items *second, mg_poll *poll);

/* What an item of the second kind may wait for, and one of the first has done. done: 0 at first. Waiting ends with MG_OK, or with
 * the status of a job that was stopped. */
mg_status mg_pool_wait(mg_pool *pool, const int *done, mg_poll *poll);
void mg_pool_set_done(mg_pool *pool, int *done);

#endif
