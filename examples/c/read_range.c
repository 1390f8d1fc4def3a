/* Reads a range of tokens of one layer out of a .tersa file, without touching the rest of it.
 *
 *   cc read_range.c $(pkg-config --cflags --libs tersa) -o read_range && ./read_range cache.tersa 0 10 20
 */
#include <stdio.h>
#include <stdlib.h>

#include "tersa.h"

static tersa_error err;
static void check(tersa_status status) {
  if (status == TERSA_OK) return;
  fprintf(stderr, "tersa: %s (%s)\n", err.message, tersa_status_text(status));
  exit(1);
}

/* Bytes of `n` elements. */
static size_t len_bytes(uint32_t dtype, size_t n) {
  switch (dtype) {
    case TERSA_F32: return 4 * n;
    case TERSA_F16: case TERSA_BF16: return 2 * n;
    case TERSA_F8_E4M3: case TERSA_F8_E5M2: return n;
    case TERSA_Q8_0: return 34 * (n / 32);
    case TERSA_Q4_1: return 20 * (n / 32);
    case TERSA_Q5_0: return 22 * (n / 32);
    case TERSA_Q5_1: return 24 * (n / 32);
    default: return 18 * (n / 32); /* TERSA_Q4_0, TERSA_IQ4_NL */
  }
}

int main(int argc, char **argv) {
  if (argc != 2 && argc != 5) {
    fprintf(stderr, "usage: read_range FILE [LAYER FIRST END]\n");
    return 2;
  }
  tersa_reader *reader;
  check(tersa_reader_open(argv[1], &reader, &err));

  /* A stream is the keys or the values of one layer. */
  for (uint32_t s = 0; s < tersa_reader_n_streams(reader); ++s) {
    tersa_stream_info info;
    check(tersa_stream_info_init(&info, sizeof info, &err));
    check(tersa_reader_stream(reader, s, &info, &err));
    char codec[64];
    size_t len;
    check(tersa_reader_codec(reader, s, 0, codec, sizeof codec, &len, &err));
    printf("layer %u, %s: %llu tokens, %u heads of %u, as %s\n", (unsigned)info.layer,
           info.kind == TERSA_K ? "keys" : "values", (unsigned long long)info.n_tokens, (unsigned)info.n_kv_heads,
           (unsigned)info.head_dim, codec);
  }

  uint32_t stream = 0;
  if (argc == 5) check(tersa_reader_find(reader, 0, (uint32_t)strtoul(argv[2], NULL, 10), TERSA_K, &stream, &err));
  tersa_stream_info info;
  check(tersa_stream_info_init(&info, sizeof info, &err));
  check(tersa_reader_stream(reader, stream, &info, &err));
  tersa_range tokens = {0, info.n_tokens < 4 ? (size_t)info.n_tokens : 4};
  if (argc == 5) tokens = (tersa_range){strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10)};
  if (tokens.start >= tokens.end || tokens.end > info.n_tokens) {
    fprintf(stderr, "the layer has %llu tokens\n", (unsigned long long)info.n_tokens);
    return 2;
  }

  const size_t n_tokens = tokens.end - tokens.start;
  const size_t token_bytes = info.n_kv_heads * len_bytes(info.dtype, info.head_dim);
  unsigned char *rows = malloc(n_tokens * token_bytes);
  if (rows == NULL) return 1;
  void *layer = rows;
  tersa_kv kv;
  check(tersa_kv_init(&kv, sizeof kv, &err));
  kv.dtype = info.dtype;
  kv.n_kv_heads = info.n_kv_heads;
  kv.head_dim = info.head_dim;
  kv.n_tokens = n_tokens;
  kv.pointers = &layer;
  kv.n_pointers = 1;
  kv.len_bytes = n_tokens * token_bytes;
  check(tersa_reader_read(reader, stream, (tersa_range){0, info.n_kv_heads}, tokens, &kv, 0, NULL, &err));

  for (size_t t = 0; t < n_tokens; ++t) {
    printf("token %zu:", tokens.start + t);
    for (size_t i = 0; i < 8 && i < token_bytes; ++i) printf(" %02x", rows[t * token_bytes + i]);
    printf(" ... (%zu bytes)\n", token_bytes);
  }
  free(rows);
  tersa_reader_destroy(reader);
  return 0;
}
