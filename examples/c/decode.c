/* A decode loop that attends to selected tokens: an index for each key/value head of each layer, over a cache that stays
 * where the engine has it.
 *
 *   cc decode.c $(pkg-config --cflags --libs tersa) -lm -o decode && ./decode
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tersa.h"

enum { LAYERS = 2, HEADS = 2, GROUP = 4, DIM = 64, PROMPT = 600, STEPS = 20, MOST = PROMPT + STEPS };

/* The engine's cache, [layer][token][head][dim]. */
static float keys[LAYERS][MOST][HEADS][DIM], values[LAYERS][MOST][HEADS][DIM];

static tersa_error err;
static void check(tersa_status status) {
  if (status == TERSA_OK) return;
  fprintf(stderr, "tersa: %s (%s)\n", err.message, tersa_status_text(status));
  exit(1);
}

/* The first `n` rows of one head, as Tersa is shown them. */
static tersa_view rows(float (*cache)[HEADS][DIM], int head, size_t n) {
  tersa_view view;
  check(tersa_view_init(&view, sizeof view, &err));
  view.dtype = TERSA_F32;
  view.dim = DIM;
  view.n_tokens = n;
  view.data = cache[0][head];
  view.len_bytes = sizeof keys[0] - (size_t)head * DIM * sizeof(float);
  view.row_stride = HEADS * DIM;
  return view;
}

/* What stands for the model: rows of a new token, and queries that look for some earlier one. */
static float noise(void) { return (float)rand() / (float)RAND_MAX * 2 - 1; }
static void model_writes(size_t token) {
  for (int l = 0; l < LAYERS; ++l)
    for (int h = 0; h < HEADS; ++h)
      for (int i = 0; i < DIM; ++i) {
        keys[l][token][h][i] = noise();
        values[l][token][h][i] = noise();
      }
}
static void model_asks(int layer, int head, size_t n, float *q) {
  const size_t wanted = (size_t)rand() % n;
  for (int g = 0; g < GROUP; ++g)
    for (int i = 0; i < DIM; ++i) q[g * DIM + i] = 4 * keys[layer][wanted][head][i] + noise();
}

/* Attention to every token, to compare. */
static void dense(int layer, int head, size_t n, const float *q, float scale, float *out) {
  static float p[MOST];
  for (int g = 0; g < GROUP; ++g) {
    float top = -INFINITY, sum = 0;
    for (size_t t = 0; t < n; ++t) {
      p[t] = 0;
      for (int i = 0; i < DIM; ++i) p[t] += q[g * DIM + i] * keys[layer][t][head][i] * scale;
      top = fmaxf(top, p[t]);
    }
    for (size_t t = 0; t < n; ++t) sum += p[t] = expf(p[t] - top);
    for (int i = 0; i < DIM; ++i) out[g * DIM + i] = 0;
    for (size_t t = 0; t < n; ++t)
      for (int i = 0; i < DIM; ++i) out[g * DIM + i] += p[t] / sum * values[layer][t][head][i];
  }
}

int main(void) {
  const float scale = 1 / sqrtf(DIM);
  tersa_workspace *workspace; /* one for each thread; this program has one */
  check(tersa_workspace_create(&workspace, &err));

  /* The prompt: the model fills the cache, then each head's index learns from its keys. */
  for (size_t t = 0; t < PROMPT; ++t) model_writes(t);
  tersa_index_params params;
  check(tersa_index_params_init(&params, sizeof params, TERSA_INDEX_DEFAULT, DIM, &err));
  params.group = GROUP;
  tersa_index *indexes[LAYERS][HEADS];
  for (int l = 0; l < LAYERS; ++l)
    for (int h = 0; h < HEADS; ++h) {
      /* Queries of the prompt, if the engine has them at hand, make the index better. */
      const tersa_view k = rows(keys[l], h, PROMPT);
      check(tersa_index_create(&params, &indexes[l][h], &err));
      check(tersa_index_prefill(indexes[l][h], &k, NULL, 0, workspace, &err));
    }

  /* Generation: for each token and layer, the key and value go to the cache, then attention reads a part of it. */
  double difference = 0, size = 0;
  for (size_t t = PROMPT; t < MOST; ++t) {
    model_writes(t);
    for (int l = 0; l < LAYERS; ++l)
      for (int h = 0; h < HEADS; ++h) {
        float q[GROUP * DIM], out[GROUP * DIM], want[GROUP * DIM];
        model_asks(l, h, t + 1, q);
        const tersa_view k = rows(keys[l], h, t + 1), v = rows(values[l], h, t + 1);
        check(tersa_index_append(indexes[l][h], &k, workspace, &err));
        check(tersa_index_attend(indexes[l][h], q, scale, &k, &v, out, NULL, workspace, &err));
        dense(l, h, t + 1, q, scale, want);
        for (int i = 0; i < GROUP * DIM; ++i) {
          difference += (double)(out[i] - want[i]) * (out[i] - want[i]);
          size += (double)want[i] * want[i];
        }
      }
  }

  tersa_index_info info;
  check(tersa_index_info_init(&info, sizeof info, &err));
  check(tersa_index_inspect(indexes[0][0], &info, &err));
  printf("%zu tokens; attended to: %zu sinks, %zu selected, %zu last ones\n", info.n_tokens, info.middle.start, info.budget,
         info.n_tokens - info.middle.end);
  printf("relative difference from attention to all tokens: %.4f\n", sqrt(difference / size));

  for (int l = 0; l < LAYERS; ++l)
    for (int h = 0; h < HEADS; ++h) tersa_index_destroy(indexes[l][h]);
  tersa_workspace_destroy(workspace);
  return difference > 0.01 * size;
}
