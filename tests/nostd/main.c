/* Runs the core from C; see src/lib.rs. Compiled with and without TERSA_ALLOC. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int nostd_level(void);
int nostd_rotate(float *rows, size_t n_tokens, size_t head_dim, bool back);
int nostd_through_f16(float *values, size_t n, uint8_t *half);
size_t nostd_pack(const char *spec, const uint8_t *rows, size_t n_tokens, size_t head_dim, uint8_t *out,
                  size_t capacity);
int nostd_unpack(const uint8_t *file, size_t len, uint8_t *rows, size_t capacity);

#define CHECK(cond)                                                            \
    do {                                                                       \
        if (!(cond)) {                                                         \
            fprintf(stderr, "main.c:%d: %s does not hold\n", __LINE__, #cond); \
            return 1;                                                          \
        }                                                                      \
    } while (0)

enum { TOKENS = 50, DIM = 64, N = TOKENS * DIM };

static float rows[N], turned[N];
static uint8_t half[2 * N];

static void fill(void) {
    uint32_t state = 1;
    for (int i = 0; i < N; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (float)(state >> 8) / (float)(1 << 23) - 1.0f;
    }
}

static double norm(const float *x) {
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

static double distance(const float *x, const float *y) {
    static float difference[N];
    for (int i = 0; i < N; i++)
        difference[i] = x[i] - y[i];
    return norm(difference);
}

static int rotation_keeps_norms_and_comes_back(void) {
    memcpy(turned, rows, sizeof rows);
    CHECK(nostd_rotate(turned, TOKENS, DIM, false) == 0);
    CHECK(distance(turned, rows) > 0.5 * norm(rows));
    CHECK(fabs(norm(turned) - norm(rows)) < 1e-5 * norm(rows));
    CHECK(nostd_rotate(turned, TOKENS, DIM, true) == 0);
    CHECK(distance(turned, rows) < 1e-6 * norm(rows));
    CHECK(nostd_rotate(turned, 0, 100000, false) == 1);
    return 0;
}

static int f16_rounds_to_eleven_bits(void) {
    memcpy(turned, rows, sizeof rows);
    CHECK(nostd_through_f16(turned, N, half) == 0);
    CHECK(distance(turned, rows) > 0);
    CHECK(distance(turned, rows) < norm(rows) / 2048);
    return 0;
}

#ifdef TERSA_ALLOC
/* Packs what f16_rounds_to_eleven_bits left in `half` and `turned`; the relative error must stay below `most`. */
static int container_comes_back(const char *spec, double most) {
    static uint8_t file[1 << 20], restored[2 * N];
    static float values[N];
    size_t len = nostd_pack(spec, half, TOKENS, DIM, file, sizeof file);
    CHECK(len > 0);
    CHECK(nostd_unpack(file, len, restored, sizeof restored) == 0);
    CHECK(memcmp(half, restored, 2 * 2 * DIM) == 0); /* the first two tokens are kept exact */
    for (int i = 0; i < N; i++) {
        int bits = restored[2 * i] | restored[2 * i + 1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
        double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        values[i] = (float)(bits >> 15 ? -value : value);
    }
    CHECK(distance(values, turned) <= most * norm(turned));
    file[len / 2] ^= 1;
    CHECK(nostd_unpack(file, len, restored, sizeof restored) == 1);
    return 0;
}
#endif

int main(void) {
    fill();
    CHECK(nostd_level() >= 1);
    if (rotation_keeps_norms_and_comes_back() || f16_rounds_to_eleven_bits())
        return 1;
#ifdef TERSA_ALLOC
    if (container_comes_back("raw", 0) || container_comes_back("q8_0", 0.01) || container_comes_back("had+lm4", 0.12) ||
        container_comes_back("int4c32", 0.12) || container_comes_back("pq:16x4", 0.9))
        return 1;
    CHECK(nostd_pack("no such codec", half, TOKENS, DIM, half, 0) == 0);
#endif
    return 0;
}
