/* What the pool needs of threads, by POSIX or by Windows: a mutex, a condition, threads, and whether the process was
 * forked. Included by pool.c alone. */
#ifndef MG_BASE_THREAD_H
#define MG_BASE_THREAD_H

#ifdef _WIN32

#define WIN32_LEAN_AND_MEAN
#include <process.h>
#include <windows.h>

typedef SRWLOCK mg_mutex;
typedef CONDITION_VARIABLE mg_condition;
typedef HANDLE mg_thread;
#define MG_THREAD_RESULT unsigned __stdcall

static void mg_mutex_init(mg_mutex *m) { InitializeSRWLock(m); }
static void mg_mutex_lock(mg_mutex *m) { AcquireSRWLockExclusive(m); }
static void mg_mutex_unlock(mg_mutex *m) { ReleaseSRWLockExclusive(m); }
static void mg_condition_init(mg_condition *c) { InitializeConditionVariable(c); }
static void mg_condition_wait(mg_condition *c, mg_mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void mg_condition_wake_all(mg_condition *c) { WakeAllConditionVariable(c); }
static void mg_condition_wait_20_ms(mg_condition *c, mg_mutex *m) { SleepConditionVariableSRW(c, m, 20, 0); }

static int mg_thread_start(mg_thread *thread, MG_THREAD_RESULT (*run)(void *), void *argument)
{
    *thread = (HANDLE)_beginthreadex(NULL, 0, run, argument, 0, NULL);
    return *thread != NULL;
}

static void mg_thread_join(mg_thread thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

static int mg_count_forks(void) { return 0; }

#else

#include <pthread.h>
#include <signal.h>
#include <time.h>

typedef pthread_mutex_t mg_mutex;
typedef pthread_cond_t mg_condition;
typedef pthread_t mg_thread;
#define MG_THREAD_RESULT void *

static void mg_mutex_init(mg_mutex *m) { pthread_mutex_init(m, NULL); }
static void mg_mutex_lock(mg_mutex *m) { pthread_mutex_lock(m); }
static void mg_mutex_unlock(mg_mutex *m) { pthread_mutex_unlock(m); }
static void mg_condition_init(mg_condition *c) { pthread_cond_init(c, NULL); }
static void mg_condition_wait(mg_condition *c, mg_mutex *m) { pthread_cond_wait(c, m); }
static void mg_condition_wake_all(mg_condition *c) { pthread_cond_broadcast(c); }

static void mg_condition_wait_20_ms(mg_condition *c, mg_mutex *m)
{
    struct timespec until;
    timespec_get(&until, TIME_UTC);
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(c, m, &until);
}

/* The thread takes no signals: they are for the threads that Python knows. */
static int mg_thread_start(mg_thread *thread, MG_THREAD_RESULT (*run)(void *), void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !error;
}

static void mg_thread_join(mg_thread thread) { pthread_join(thread, NULL); }

static int forks;
static pthread_once_t forks_are_counted = PTHREAD_ONCE_INIT;
static void count_fork(void) { forks++; }
static void count_forks(void) { pthread_atfork(NULL, NULL, count_fork); }

/* How often the process was forked on the way here, since this was first asked: a child has none of its parent's threads. */
static int mg_count_forks(void)
{
    pthread_once(&forks_are_counted, count_forks);
    return forks;
}

#endif
#endif
