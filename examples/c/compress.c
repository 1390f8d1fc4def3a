/* Compresses the key/value cache of a model that lies in memory, and brings a part of it back.
 *
 *   cc compress.c $(pkg-config --cflags --libs tersa) -o compress && ./compress
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tersa.h"

enum { LAYERS = 4, TOKENS = 1024, HEADS = 2, DIM = 64 };

static float keys[LAYERS][TOKENS][HEADS][DIM], values[LAYERS][TOKENS][HEADS][DIM];

/* Every call reports into one struct; what a program does then is its own business. */
static tersa_error err;
static void check(tersa_status status) {
  if (status == TERSA_OK) return;
  fprintf(stderr, "tersa: %s (%s)\n", err.message, tersa_status_text(status));
  exit(1);
}

/* Where the rows lie: one pointer for each layer, rows of all heads side by side. */
static tersa_kv describe(void **layers, size_t n_layers, size_t n_tokens, size_t len_bytes) {
  tersa_kv kv;
  check(tersa_kv_init(&kv, sizeof kv, &err));
  kv.dtype = TERSA_F32;
  kv.n_kv_heads = HEADS;
  kv.head_dim = DIM;
  kv.n_tokens = n_tokens;
  kv.pointers = layers;
  kv.n_pointers = n_layers;
  kv.len_bytes = len_bytes;
  return kv;
}

int main(void) {
  if (tersa_abi_version() != TERSA_ABI_VERSION) {
    fprintf(stderr, "libtersa %s is not the one of tersa.h %s\n", tersa_version(), TERSA_VERSION);
    return 1;
  }
  /* A made-up cache; an engine has a real one. */
  for (int l = 0; l < LAYERS; ++l)
    for (int t = 0; t < TOKENS; ++t)
      for (int h = 0; h < HEADS; ++h)
        for (int i = 0; i < DIM; ++i) {
          keys[l][t][h][i] = sinf(0.1f * (float)t * (float)(i % 8 + 1) + (float)h) + (float)(i % 5);
          values[l][t][h][i] = cosf(0.37f * (float)t + 1.7f * (float)i + (float)l);
        }
  void *k_layers[LAYERS], *v_layers[LAYERS];
  for (int l = 0; l < LAYERS; ++l) {
    k_layers[l] = keys[l];
    v_layers[l] = values[l];
  }
  const tersa_kv k = describe(k_layers, LAYERS, TOKENS, sizeof keys[0]);
  const tersa_kv v = describe(v_layers, LAYERS, TOKENS, sizeof values[0]);

  /* A codec is made once for a model, and used from any number of threads. */
  tersa_codec_params params;
  check(tersa_codec_params_init(&params, sizeof params, &err));
  params.n_layers = LAYERS;
  params.dtype_k = params.dtype_v = TERSA_F32;
  params.n_kv_heads = HEADS;
  params.head_dim_k = params.head_dim_v = DIM;
  tersa_codec *codec;
  check(tersa_codec_create("safe", &params, NULL, NULL, &codec, &err));

  const tersa_range layers = {0, LAYERS}, tokens = {0, TOKENS};
  size_t capacity, written;
  check(tersa_codec_bound(codec, LAYERS, TOKENS, &capacity, &err));
  unsigned char *bytes = malloc(capacity);
  if (bytes == NULL) return 1;
  check(tersa_codec_encode(codec, &k, &v, layers, tokens, bytes, capacity, &written, NULL, &err));
  printf("%zu bytes of f32 are %zu bytes now\n", sizeof keys + sizeof values, written);

  /* Tokens 500 to 515 of layer 2, keys only: NULL leaves the values out. */
  static float back[16][HEADS][DIM];
  void *back_layer = back;
  const tersa_kv to = describe(&back_layer, 1, 16, sizeof back);
  check(tersa_codec_decode(codec, bytes, written, (tersa_range){2, 3}, (tersa_range){500, 516}, &to, NULL, 0, NULL,
                           &err));
  double difference = 0, size = 0;
  for (int t = 0; t < 16; ++t)
    for (int h = 0; h < HEADS; ++h)
      for (int i = 0; i < DIM; ++i) {
        const double was = keys[2][500 + t][h][i], is = back[t][h][i];
        difference += (is - was) * (is - was);
        size += was * was;
      }
  printf("relative error of these keys: %.4f\n", sqrt(difference / size));

  free(bytes);
  tersa_codec_destroy(codec);
  return difference > 0.01 * size; /* `safe` loses far less than a tenth */
}
