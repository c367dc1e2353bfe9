/* Bends the wall clock of the process that preloads it, and breaks its disk.
 *
 * All orders come through a control file that the harness writes and we map: see `struct control`,
 * whose layout src/world/shim.rs repeats. Idle, every call costs one load and one branch more.
 *
 * What is here runs on any thread, and in signal handlers: no locks, no allocation, and errno is
 * left as the caller expects it. Only files below ACCORD_SHIM_DATA are ever delayed or failed.
 *
 * CLOCK_MONOTONIC is not touched: a machine whose wall clock is set keeps its monotonic one. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* "ACCSHIM1", little-endian. */
#define MAGIC UINT64_C(0x314d494853434341)
#define CONTROL_BYTES 4096

#define OP_SYNC 1      /* fsync, fdatasync */
#define OP_RANGE 2     /* sync_file_range */
#define OP_WRITE 4     /* write, pwrite, writev, pwritev */

#define NANOS INT64_C(1000000000)
/* Wall-clock deadlines are beyond this many seconds, monotonic ones are not. */
#define WALL_SECONDS_MIN 1000000000

struct control {
    uint64_t magic;
    _Atomic uint64_t sync_delay_us;
    /* How many calls are still to fail. */
    _Atomic uint64_t fail_left;
    _Atomic uint64_t fail_errno;
    _Atomic uint64_t fail_ops;
    /* Odd while the harness changes the three fields after it; 0 before the first change. */
    _Atomic uint64_t clock_version;
    _Atomic int64_t wall_offset_ns;
    _Atomic int64_t wall_rate_ppm;
    /* The true wall time from which the rate counts. */
    _Atomic int64_t wall_anchor_ns;
    /* Written here, read by the harness. */
    _Atomic uint64_t syncs_delayed;
    _Atomic uint64_t errors_injected;
    _Atomic uint64_t clock_reads_shifted;
};

static struct control *_Atomic control;
static char data_path[PATH_MAX];
static size_t data_path_bytes;

/* Finds the function that ours stands before; a race finds the same one twice. */
#define REAL(name)                                                   \
    static _Atomic(__typeof__(&name)) found;                         \
    __typeof__(&name) real = atomic_load_explicit(&found, memory_order_relaxed); \
    if (!real) {                                                     \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);           \
        atomic_store_explicit(&found, real, memory_order_relaxed);   \
    }

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("ACCORD_SHIM_CONTROL");
    const char *data = getenv("ACCORD_SHIM_DATA");
    if (!path || !data || strlen(data) >= sizeof data_path)
        return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED)
        return;
    struct control *found = mapped;
    if (found->magic != MAGIC) {
        munmap(mapped, CONTROL_BYTES);
        return;
    }
    data_path_bytes = strlen(data);
    memcpy(data_path, data, data_path_bytes + 1);
    atomic_store(&control, found);
}

static int is_data(int file) {
    char link[40];
    char path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t bytes = readlink(link, path, sizeof path);
    return bytes > 0 && (size_t)bytes > data_path_bytes &&
           memcmp(path, data_path, data_path_bytes) == 0 && path[data_path_bytes] == '/';
}

/* The error that this call shall end with, or 0. */
static int injected(int file, uint64_t op) {
    struct control *orders = atomic_load_explicit(&control, memory_order_acquire);
    if (!orders || atomic_load_explicit(&orders->fail_left, memory_order_relaxed) == 0)
        return 0;
    if (!(atomic_load(&orders->fail_ops) & op))
        return 0;
    int kept = errno;
    int ours = is_data(file);
    errno = kept;
    if (!ours)
        return 0;
    uint64_t left = atomic_load(&orders->fail_left);
    while (left > 0)
        if (atomic_compare_exchange_weak(&orders->fail_left, &left, left - 1)) {
            atomic_fetch_add(&orders->errors_injected, 1);
            return (int)atomic_load(&orders->fail_errno);
        }
    return 0;
}

static void delay_sync(int file) {
    struct control *orders = atomic_load_explicit(&control, memory_order_acquire);
    uint64_t delay_us =
        orders ? atomic_load_explicit(&orders->sync_delay_us, memory_order_relaxed) : 0;
    if (delay_us == 0)
        return;
    int kept = errno;
    if (is_data(file)) {
        struct timespec left = {(time_t)(delay_us / 1000000), (long)(delay_us % 1000000) * 1000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {
        }
        atomic_fetch_add(&orders->syncs_delayed, 1);
    }
    errno = kept;
}

#define FAIL_IF_TOLD(file, op)                 \
    do {                                       \
        int error_ = injected((file), (op));   \
        if (error_) {                          \
            errno = error_;                    \
            return -1;                         \
        }                                      \
    } while (0)

int fsync(int file) {
    REAL(fsync)
    delay_sync(file);
    FAIL_IF_TOLD(file, OP_SYNC);
    return real(file);
}

int fdatasync(int file) {
    REAL(fdatasync)
    delay_sync(file);
    FAIL_IF_TOLD(file, OP_SYNC);
    return real(file);
}

int sync_file_range(int file, off64_t offset, off64_t bytes, unsigned int flags) {
    REAL(sync_file_range)
    FAIL_IF_TOLD(file, OP_RANGE);
    return real(file, offset, bytes, flags);
}

ssize_t write(int file, const void *buffer, size_t bytes) {
    REAL(write)
    FAIL_IF_TOLD(file, OP_WRITE);
    return real(file, buffer, bytes);
}

ssize_t pwrite(int file, const void *buffer, size_t bytes, off_t offset) {
    REAL(pwrite)
    FAIL_IF_TOLD(file, OP_WRITE);
    return real(file, buffer, bytes, offset);
}

ssize_t pwrite64(int file, const void *buffer, size_t bytes, off64_t offset) {
    REAL(pwrite64)
    FAIL_IF_TOLD(file, OP_WRITE);
    return real(file, buffer, bytes, offset);
}

ssize_t writev(int file, const struct iovec *pieces, int count) {
    REAL(writev)
    FAIL_IF_TOLD(file, OP_WRITE);
    return real(file, pieces, count);
}

ssize_t pwritev(int file, const struct iovec *pieces, int count, off_t offset) {
    REAL(pwritev)
    FAIL_IF_TOLD(file, OP_WRITE);
    return real(file, pieces, count, offset);
}

ssize_t pwritev64(int file, const struct iovec *pieces, int count, off64_t offset) {
    REAL(pwritev64)
    FAIL_IF_TOLD(file, OP_WRITE);
    return real(file, pieces, count, offset);
}

/* By how much the wall clock is wrong at this true time. */
static int64_t wall_error(int64_t now_ns) {
    struct control *orders = atomic_load_explicit(&control, memory_order_acquire);
    if (!orders || atomic_load_explicit(&orders->clock_version, memory_order_relaxed) == 0)
        return 0;
    int64_t error = 0;
    /* The harness changes the fields in one short write; should it die in between, the last
     * values are as good as any. */
    for (int tries = 0; tries < 1000; tries++) {
        uint64_t before = atomic_load(&orders->clock_version);
        int64_t offset = atomic_load(&orders->wall_offset_ns);
        int64_t rate = atomic_load(&orders->wall_rate_ppm);
        int64_t anchor = atomic_load(&orders->wall_anchor_ns);
        error = offset + (int64_t)((__int128)(now_ns - anchor) * rate / 1000000);
        if (before % 2 == 0 && atomic_load(&orders->clock_version) == before)
            break;
    }
    return error;
}

static int64_t nanos(const struct timespec *time) {
    return (int64_t)time->tv_sec * NANOS + time->tv_nsec;
}

static void set_nanos(struct timespec *time, int64_t ns) {
    if (ns < 0)
        ns = 0;
    time->tv_sec = (time_t)(ns / NANOS);
    time->tv_nsec = (long)(ns % NANOS);
}

static void bend(struct timespec *time) {
    int64_t error = wall_error(nanos(time));
    if (error == 0)
        return;
    set_nanos(time, nanos(time) + error);
    atomic_fetch_add_explicit(&control->clock_reads_shifted, 1, memory_order_relaxed);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime)
    int result = real(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        bend(time);
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    REAL(gettimeofday)
    int result = real(time, zone);
    if (result == 0) {
        struct timespec precise = {time->tv_sec, time->tv_usec * 1000};
        bend(&precise);
        time->tv_sec = precise.tv_sec;
        time->tv_usec = precise.tv_nsec / 1000;
    }
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

/* A deadline of the bent clock as the kernel understands it. To be exact about a rate, one would
 * have to solve for the true time; a deadline is near enough for the error of now. */
static struct timespec straight(const struct timespec *deadline) {
    struct timespec true_deadline = *deadline;
    int64_t ns = nanos(deadline);
    int64_t error = wall_error(ns);
    if (deadline->tv_sec > WALL_SECONDS_MIN && error != 0)
        set_nanos(&true_deadline, ns - wall_error(ns - error));
    return true_deadline;
}

/* Its default version has another layout of pthread_cond_t than the first one, which is what dlsym
 * finds in some C libraries. */
static void *cond_timedwait_of_libc(void) {
    void *found = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    return found ? found : dlsym(RTLD_NEXT, "pthread_cond_timedwait");
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
    static _Atomic(__typeof__(&pthread_cond_timedwait)) found;
    __typeof__(&pthread_cond_timedwait) real = atomic_load(&found);
    if (!real) {
        real = (__typeof__(&pthread_cond_timedwait))cond_timedwait_of_libc();
        atomic_store(&found, real);
    }
    struct timespec true_deadline = straight(deadline);
    return real(condition, mutex, &true_deadline);
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           clockid_t clock, const struct timespec *restrict deadline) {
    REAL(pthread_cond_clockwait)
    struct timespec true_deadline =
        clock == CLOCK_REALTIME ? straight(deadline) : *deadline;
    return real(condition, mutex, clock, &true_deadline);
}
