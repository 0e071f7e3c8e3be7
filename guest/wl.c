/*
 * wl: the workloads of the test guest. Each mode makes one kind of harm visible from outside.
 *
 *   seq PATH OBSERVER INTERVAL_US       numbered 4 KiB blocks, each durable before it is acknowledged
 *   seqcheck PATH                       reads them back
 *   dirty MIB MIB_PER_S                 dirties memory at a steady rate
 *   clock INTERVAL_US [OBSERVER]        the longest gap between two ticks
 *   memcheck MIB                        rewrites and verifies memory for ever
 *   frames INTERFACE                    sends each line of hexadecimal digits on standard input as a frame
 *
 * OBSERVER is IPv4:PORT and gets UDP datagrams of 16 bytes: sequence number, guest CLOCK_MONOTONIC in
 * nanoseconds, both 64-bit little-endian. A lost datagram only understates what was acknowledged.
 *
 * Block n (from 1) lies at ((n - 1) mod blocks) * 4096 and holds 512 little-endian words:
 * the magic, n, and mix(n, i) for word i.
 *
 * Every mode keeps one line of figures in /run/wl/MODE. SIGUSR1 sets the longest gap back to zero.
 * A mode that can't go on says why on standard error and exits with 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 4096
#define BLOCK_WORDS (BLOCK_BYTES / 8)
#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / 8)
static const uint64_t MAGIC = 0x51535952544e4147; /* "GANTRYSQ" */

static void fail(const char *what)
{
    fprintf(stderr, "wl: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void sleep_us(uint64_t us)
{
    struct timespec t = {us / 1000000, (us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* A 64-bit finalizer: one changed input bit changes about half of the output bits. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9e3779b97f4a7c15u + b;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

/* ---- figures and the observer ---- */

static void report(const char *mode, const char *figures)
{
    char path[64], line[256];
    int length = snprintf(line, sizeof line, "%s %s\n", mode, figures);
    snprintf(path, sizeof path, "/run/wl/%s", mode);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    if (fd < 0)
        fail(path);
    if (pwrite(fd, line, length, 0) != length || ftruncate(fd, length))
        fail(path);
    close(fd);
}

struct observer {
    int fd;
    struct sockaddr_in address;
};

static struct observer observer_open(const char *text)
{
    struct observer o = {.fd = -1};
    char ip[32] = {0};
    const char *colon = strchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof ip) {
        fprintf(stderr, "wl: observer '%s': give it as IPv4:PORT\n", text);
        exit(1);
    }
    memcpy(ip, text, colon - text);
    o.address.sin_family = AF_INET;
    o.address.sin_port = htons(atoi(colon + 1));
    if (!inet_aton(ip, &o.address.sin_addr)) {
        fprintf(stderr, "wl: observer '%s': not an IPv4 address\n", text);
        exit(1);
    }
    o.fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (o.fd < 0)
        fail("socket");
    return o;
}

static void observer_tell(const struct observer *o, uint64_t number)
{
    uint64_t datagram[2] = {number, now_ns()};
    /* The network may be away for a while (that is what is being tested): losing this one is fine. */
    sendto(o->fd, datagram, sizeof datagram, MSG_DONTWAIT, (const void *)&o->address, sizeof o->address);
}

/* ---- seq, seqcheck ---- */

static uint64_t *aligned_block(void)
{
    void *p;
    if (posix_memalign(&p, BLOCK_BYTES, BLOCK_BYTES)) {
        errno = ENOMEM;
        fail("block buffer");
    }
    return p;
}

static uint64_t block_count(int fd, const char *path)
{
    off_t bytes = lseek(fd, 0, SEEK_END);
    if (bytes < BLOCK_BYTES) {
        fprintf(stderr, "wl: %s: holds no block of %d bytes\n", path, BLOCK_BYTES);
        exit(1);
    }
    return bytes / BLOCK_BYTES;
}

static _Noreturn void seq(const char *path, const char *to, uint64_t interval_us)
{
    int fd = open(path, O_RDWR | O_DIRECT | O_DSYNC);
    if (fd < 0)
        fail(path);
    uint64_t blocks = block_count(fd, path), *block = aligned_block(), failed = 0;
    struct observer o = observer_open(to);
    for (uint64_t n = 1;; n++) {
        block[0] = MAGIC;
        block[1] = n;
        for (int i = 2; i < BLOCK_WORDS; i++)
            block[i] = mix(n, i);
        while (pwrite(fd, block, BLOCK_BYTES, (n - 1) % blocks * BLOCK_BYTES) != BLOCK_BYTES) {
            failed++;
            perror("wl: seq: write");
            sleep_us(1000000);
        }
        observer_tell(&o, n);
        if (n % 64 == 0) {
            char figures[96];
            snprintf(figures, sizeof figures, "acknowledged=%llu failed_writes=%llu", (unsigned long long)n,
                     (unsigned long long)failed);
            report("seq", figures);
        }
        if (interval_us)
            sleep_us(interval_us);
    }
}

/* Prints last=<highest number> bad=<blocks that should hold one of the newest numbers and don't>. */
static int seqcheck(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECT);
    if (fd < 0)
        fail(path);
    uint64_t blocks = block_count(fd, path), *block = aligned_block(), last = 0, bad = 0;
    uint64_t *numbers = calloc(blocks, sizeof *numbers);
    if (!numbers)
        fail("numbers");
    for (uint64_t b = 0; b < blocks; b++) {
        if (pread(fd, block, BLOCK_BYTES, b * BLOCK_BYTES) != BLOCK_BYTES)
            fail(path);
        int whole = block[0] == MAGIC && (block[1] - 1) % blocks == b;
        for (int i = 2; whole && i < BLOCK_WORDS; i++)
            whole = block[i] == mix(block[1], i);
        numbers[b] = whole ? block[1] : 0;
        if (numbers[b] > last)
            last = numbers[b];
    }
    for (uint64_t b = 0; b < blocks; b++) {
        /* The newest number that this block must hold, given the highest one seen anywhere. */
        uint64_t due = last < b + 1 ? 0 : last - (last - (b + 1)) % blocks;
        bad += numbers[b] != due;
    }
    printf("last=%llu bad=%llu\n", (unsigned long long)last, (unsigned long long)bad);
    return bad ? 1 : 0;
}

/* ---- memory ---- */

static uint64_t *memory(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED)
        fail("memory");
    return p;
}

static _Noreturn void dirty(uint64_t mib, double mib_per_s)
{
    volatile uint64_t *base = memory(mib << 20);
    uint64_t pages = mib << 8, start = now_ns(), reported = 0;
    for (uint64_t done = 0;;) {
        for (int burst = 0; burst < 64; burst++, done++)
            base[done % pages * PAGE_WORDS]++;
        double due_s = done / 256.0 / mib_per_s, elapsed_s = (now_ns() - start) / 1e9;
        if (due_s > elapsed_s)
            sleep_us((due_s - elapsed_s) * 1e6);
        if (elapsed_s >= reported + 1) {
            char figures[96];
            snprintf(figures, sizeof figures, "dirtied_mib=%llu elapsed_s=%.1f", (unsigned long long)(done >> 8),
                     elapsed_s);
            report("dirty", figures);
            reported = elapsed_s;
        }
    }
}

/*
 * Pass p verifies what pass p-1 wrote into a page, then writes its own pattern. A page that a migration
 * loses or brings in an older version holds another pass's pattern and is counted.
 */
static _Noreturn void memcheck(uint64_t mib)
{
    uint64_t pages = mib << 8, *base = memory(mib << 20), bad_pages = 0, slowly = 0;
    for (uint64_t pass = 1;; pass++) {
        for (uint64_t page = 0; page < pages; page++) {
            uint64_t *word = base + page * PAGE_WORDS;
            int whole = 1;
            for (int i = 0; pass > 1 && whole && i < PAGE_WORDS; i += 8)
                whole = word[i] == mix((pass - 1) * pages + page, i);
            bad_pages += !whole;
            for (int i = 0; i < PAGE_WORDS; i += 8)
                word[i] = mix(pass * pages + page, i);
            /* Leaves processor time for the rest of the guest. */
            if (++slowly % 256 == 0)
                sleep_us(1000);
        }
        char figures[96];
        snprintf(figures, sizeof figures, "passes=%llu bad_pages=%llu", (unsigned long long)pass,
                 (unsigned long long)bad_pages);
        report("memcheck", figures);
    }
}

/* ---- clock ---- */

static volatile sig_atomic_t reset_wanted;
static void on_reset(int signal)
{
    (void)signal;
    reset_wanted = 1;
}

/*
 * The guest's own clock stands still while its processors are stopped under some accelerators; the
 * observer's clock does not, so the datagrams' arrival gaps are the outside half of the measurement.
 */
static _Noreturn void clock_gaps(uint64_t interval_us, const char *to)
{
    struct observer o = {.fd = -1};
    if (to)
        o = observer_open(to);
    signal(SIGUSR1, on_reset);
    uint64_t last = now_ns(), longest = 0, ticks = 0, reported = 0;
    for (;;) {
        sleep_us(interval_us);
        uint64_t now = now_ns();
        if (reset_wanted) {
            reset_wanted = 0;
            longest = ticks = 0;
        } else if (now - last > longest) {
            longest = now - last;
        }
        last = now;
        ticks++;
        if (to)
            observer_tell(&o, ticks);
        if (now - reported > 200000000u) {
            char figures[96];
            snprintf(figures, sizeof figures, "ticks=%llu longest_gap_us=%llu", (unsigned long long)ticks,
                     (unsigned long long)(longest / 1000));
            report("clock", figures);
            reported = now;
        }
    }
}

/* As they are: whoever they claim to be from. */
static void frames(const char *interface)
{
    static char line[8192];
    static uint8_t frame[sizeof line / 2];
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(interface)};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (fd < 0 || !to.sll_ifindex)
        fail(interface);
    while (fgets(line, sizeof line, stdin)) {
        size_t length = 0;
        unsigned byte;
        while (sscanf(line + 2 * length, "%2x", &byte) == 1)
            frame[length++] = byte;
        if (length && sendto(fd, frame, length, 0, (struct sockaddr *)&to, sizeof to) < 0)
            fail("sendto");
    }
}

int main(int count, char **word)
{
    const char *mode = count > 1 ? word[1] : "";
    if (!strcmp(mode, "seq") && count == 5)
        seq(word[2], word[3], strtoull(word[4], NULL, 10));
    if (!strcmp(mode, "seqcheck") && count == 3)
        return seqcheck(word[2]);
    if (!strcmp(mode, "dirty") && count == 4)
        dirty(strtoull(word[2], NULL, 10), atof(word[3]));
    if (!strcmp(mode, "memcheck") && count == 3)
        memcheck(strtoull(word[2], NULL, 10));
    if (!strcmp(mode, "clock") && (count == 3 || count == 4))
        clock_gaps(strtoull(word[2], NULL, 10), count == 4 ? word[3] : NULL);
    if (!strcmp(mode, "frames") && count == 3) {
        frames(word[2]);
        return 0;
    }
    fputs("usage: wl seq PATH IP:PORT INTERVAL_US | seqcheck PATH | dirty MIB MIB_PER_S | memcheck MIB |"
          " clock INTERVAL_US [IP:PORT] | frames INTERFACE\n",
          stderr);
    return 2;
}
