/* A clock that jumps: every second look at the time of day finds 1970, 2100 or two hours off. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t jumped(time_t now) {
    static atomic_uint looks;
    switch (atomic_fetch_add(&looks, 1) % 8) {
    case 1: return 0;
    case 3: return 4102444800;
    case 5: return now - 7200;
    case 7: return now + 7200;
    default: return now;
    }
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec = jumped(time->tv_sec);
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    int result = (int)syscall(SYS_gettimeofday, time, zone);
    if (result == 0 && time) time->tv_sec = jumped(time->tv_sec);
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
