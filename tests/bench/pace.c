/* A load generator that counts from the intended departure, so waiting is never left out ("coordinated omission").
 *
 *   pace -p PORT -c CONNECTIONS -f REQUESTS [-r RATE] [-s SECONDS] [-n COUNT] [-k] [-w HANDSHAKE -b REPLY_BYTES]
 *
 * With -r, request i departs at start + i/RATE whatever became of those before it; one that finds every connection busy
 * waits, and the wait is part of its latency. Without -r the loop is closed: a connection asks again when it is answered.
 * It stops asking after SECONDS or COUNT requests, and waits for what is in flight. REQUESTS holds raw requests, each
 * after a line with its length; they are sent in turn. -k opens a connection for each request. -w sends a handshake first
 * and then treats requests as messages whose replies are REPLY_BYTES long (WebSocket echo).
 *
 * Prints one JSON line. `late_*` is how late the generator itself came to departures: its own share of the latencies.
 * HTTP replies need a Content-Length or chunks. Exits with status 1 and a line on standard error when it cannot go on.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192
#define DRAIN_NS 5000000000LL
#define CHUNKED (-1LL)

typedef struct {
    int fd, is_busy, in_body, status;
    int64_t intended_ns;
    long long left; /* bytes of the body still to come, or CHUNKED */
    size_t used;
    char head[HEAD_MAX + 1];
    char tail[5]; /* the last bytes of a chunked body */
} Connection;

typedef struct { char *bytes; size_t length; } Blob;

static int port, connections = 64, fresh, reply_bytes, poller;
static double rate, seconds = 5;
static long count = -1;
static Blob *requests, handshake;
static size_t request_count, next_request;
static Connection *all, **idle; /* idle is a ring */
static int idle_first, idle_count;
static uint32_t *latencies, *lateness;
static size_t latency_count, lateness_count, capacity;
static long sent, ok, refused, errors, longest_queue;
static int64_t last_answer_ns;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("pace: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static Blob *read_blobs(const char *path, size_t *found) {
    FILE *file = fopen(path, "rb");
    if (!file) die("%s: %s", path, strerror(errno));
    Blob *blobs = NULL;
    size_t length, n = 0;
    while (fscanf(file, "%zu", &length) == 1) {
        if (fgetc(file) != '\n') die("%s: expected a length and a newline", path);
        if ((n & (n - 1)) == 0) blobs = realloc(blobs, (n ? 2 * n : 1) * sizeof *blobs);
        blobs[n].bytes = malloc(length);
        blobs[n].length = length;
        if (fread(blobs[n].bytes, 1, length, file) != length) die("%s: cut short", path);
        n++;
    }
    fclose(file);
    if (!n) die("%s: no requests", path);
    *found = n;
    return blobs;
}

static void note(uint32_t *list, size_t *n, int64_t ns) {
    if (*n < capacity) list[(*n)++] = ns < 0 ? 0 : ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static void rest(Connection *c) {
    c->is_busy = 0;
    idle[(idle_first + idle_count++) % connections] = c;
}

static void open_connection(Connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) die("connect to port %d: %s", port, strerror(errno));
    if (handshake.bytes) {
        char byte, last[4] = {0};
        if (write(c->fd, handshake.bytes, handshake.length) != (ssize_t)handshake.length) die("handshake refused");
        while (memcmp(last, "\r\n\r\n", 4)) {
            if (read(c->fd, &byte, 1) != 1) die("the connection was closed in the handshake");
            memmove(last, last + 1, 3);
            last[3] = byte;
        }
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void reopen(Connection *c) {
    close(c->fd);
    open_connection(c);
}

static void depart(int64_t intended) {
    Connection *c = idle[idle_first];
    idle_first = (idle_first + 1) % connections;
    idle_count--;
    Blob *request = &requests[next_request];
    next_request = (next_request + 1) % request_count;
    c->is_busy = 1;
    c->intended_ns = intended;
    c->used = 0;
    c->in_body = 0;
    c->left = reply_bytes;
    if (write(c->fd, request->bytes, request->length) != (ssize_t)request->length) {
        errors++;
        reopen(c);
        rest(c);
    }
    sent++;
}

static void answered(Connection *c, int64_t now) {
    if (c->status >= 200 && c->status < 400) ok++;
    else refused++;
    last_answer_ns = now;
    note(latencies, &latency_count, now - c->intended_ns);
    if (fresh) reopen(c);
    rest(c);
}

/* The head is whole: what kind of body follows? */
static void read_head(Connection *c) {
    char *field;
    c->status = atoi(c->head + 9);
    c->left = 0;
    memset(c->tail, 0, sizeof c->tail);
    if ((field = strcasestr(c->head, "\r\ncontent-length:"))) c->left = atoll(field + 17);
    else if (strcasestr(c->head, "\r\ntransfer-encoding:")) c->left = CHUNKED;
    else if (c->status != 204 && c->status != 304) die("a reply without a length: %.200s", c->head);
    c->in_body = 1;
}

static int take_body(Connection *c, const char *bytes, size_t length) {
    if (c->left != CHUNKED) return (c->left -= (long long)length) <= 0;
    size_t take = length < 5 ? length : 5;
    memmove(c->tail, c->tail + take, 5 - take);
    memcpy(c->tail + 5 - take, bytes + length - take, take);
    return !memcmp(c->tail, "0\r\n\r\n", 5);
}

static void receive(Connection *c) {
    static char buffer[262144];
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || !c->is_busy) {
        if (c->is_busy) {
            errors++;
            reopen(c);
            rest(c);
        } else reopen(c); /* an idle connection that the peer gave up */
        return;
    }
    int64_t now = now_ns();
    if (reply_bytes) {
        c->status = 200;
        if ((c->left -= n) <= 0) answered(c, now);
        return;
    }
    const char *body = buffer;
    size_t length = (size_t)n;
    if (!c->in_body) {
        size_t room = HEAD_MAX - c->used, had = c->used, take = length < room ? length : room;
        memcpy(c->head + had, buffer, take);
        c->used += take;
        c->head[c->used] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) {
            if (c->used == HEAD_MAX) die("a reply whose head is longer than %d bytes", HEAD_MAX);
            return;
        }
        size_t in_buffer = (size_t)(end + 4 - c->head) - had;
        end[2] = 0;
        read_head(c);
        body += in_buffer;
        length -= in_buffer;
        if (!length && c->left) return;
    }
    if (take_body(c, body, length)) answered(c, now);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(const uint32_t *sorted, size_t n, double p) {
    return n ? sorted[(size_t)(p * (double)(n - 1))] / 1000.0 : 0;
}

static int64_t intended_ns(int64_t start, long i) { return start + (int64_t)((double)i * 1e9 / rate); }

/* Let every departure go that the clock has called and a connection is free for; returns when the next is due. */
static int64_t keep_pace(int64_t start, long total) {
    static long due;
    int64_t now = now_ns(), when = INT64_MAX;
    for (; due < total && (when = intended_ns(start, due)) <= now; due++) note(lateness, &lateness_count, now - when);
    while (idle_count && sent < due) depart(intended_ns(start, sent));
    if (due - sent > longest_queue) longest_queue = due - sent;
    return due < total ? when : INT64_MAX;
}

static void run(void) {
    int64_t start = now_ns(), end = start + (int64_t)(seconds * 1e9);
    long total = count >= 0 ? count : rate > 0 ? (long)(rate * seconds) : LONG_MAX;
    struct epoll_event events[256];
    while (1) {
        int64_t now = now_ns(), next = INT64_MAX;
        if (rate > 0) next = keep_pace(start, total);
        else for (int n = idle_count; n && sent < total && now < end; n--) depart(now_ns());
        if (idle_count == connections && (sent == total || (rate <= 0 && now >= end))) break;
        if (now > end + DRAIN_NS) {
            errors += connections - idle_count;
            break;
        }
        int64_t wait = next == INT64_MAX ? 10000000 : next - now_ns();
        struct timespec timeout = {0, wait < 0 ? 0 : wait > 10000000 ? 10000000 : wait};
        int n = epoll_pwait2(poller, events, 256, &timeout, NULL);
        for (int i = 0; i < n; i++) receive(events[i].data.ptr);
    }
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    qsort(lateness, lateness_count, sizeof *lateness, by_size);
    printf("{\"requests\":%ld,\"ok\":%ld,\"refused\":%ld,\"errors\":%ld,\"seconds\":%.4f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"p999_us\":%.1f,\"late_p50_us\":%.1f,\"late_p99_us\":%.1f,\"longest_queue\":%ld}\n",
           ok + refused, ok, refused, errors, (double)(last_answer_ns - start) / 1e9,
           percentile_us(latencies, latency_count, .5), percentile_us(latencies, latency_count, .99),
           percentile_us(latencies, latency_count, .999), percentile_us(lateness, lateness_count, .5),
           percentile_us(lateness, lateness_count, .99), longest_queue);
}

int main(int argc, char **argv) {
    int option;
    size_t one;
    const char *file = NULL;
    while ((option = getopt(argc, argv, "p:c:r:s:n:f:kw:b:")) != -1) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'c': connections = atoi(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'n': count = atol(optarg); break;
        case 'f': file = optarg; break;
        case 'k': fresh = 1; break;
        case 'w': handshake = read_blobs(optarg, &one)[0]; break;
        case 'b': reply_bytes = atoi(optarg); break;
        default: return 2;
    }
    if (!port || !file || connections < 1) die("-p PORT, -f REQUESTS and at least one connection are needed");
    requests = read_blobs(file, &request_count);
    capacity = (size_t)((rate > 0 ? rate : 200000) * seconds) + 1024;
    if (count >= 0 && rate <= 0) capacity = (size_t)count + 1024;
    latencies = malloc(capacity * sizeof *latencies);
    lateness = malloc(capacity * sizeof *lateness);
    all = calloc((size_t)connections, sizeof *all);
    idle = calloc((size_t)connections, sizeof *idle);
    prctl(PR_SET_TIMERSLACK, 1);
    struct sched_param first = {.sched_priority = 1};
    if (rate > 0) sched_setscheduler(0, SCHED_FIFO, &first); /* where allowed: never behind what it measures */
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < connections; i++) {
        open_connection(&all[i]);
        rest(&all[i]);
    }
    run();
    return 0;
}
