/* Runs the core from C; see src/lib.rs. Compiled with and without TERSA_ALLOC. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int nostd_copy_rows(const uint8_t *data, size_t len_bytes, size_t n_tokens, size_t n_kv_heads, size_t head_dim,
                    size_t head, uint8_t *out, size_t out_bytes);
int nostd_level(void);

#define CHECK(cond)                                                                \
    do {                                                                           \
        if (!(cond)) {                                                             \
            fprintf(stderr, "main.c:%d: %s does not hold\n", __LINE__, #cond);     \
            return 1;                                                              \
        }                                                                          \
    } while (0)

enum { TOKENS = 5, HEADS = 3, DIM = 64, ROWS_BYTES = TOKENS * DIM * 2 };

static int copies_rows_of_one_head(void) {
    static uint8_t data[HEADS * ROWS_BYTES], out[ROWS_BYTES];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    CHECK(nostd_copy_rows(data, sizeof data, TOKENS, HEADS, DIM, 1, out, sizeof out) == 0);
    CHECK(memcmp(out, data + ROWS_BYTES, sizeof out) == 0);
    CHECK(nostd_copy_rows(data, sizeof data - 1, TOKENS, HEADS, DIM, 1, out, sizeof out) == 1);
    return 0;
}

int main(void) {
    CHECK(nostd_level() >= 1);
    return copies_rows_of_one_head();
}
