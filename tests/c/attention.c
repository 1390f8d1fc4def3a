/* Exact attention over ranges and lists of strided and paged rows, merged by their sums; every misuse that can be seen. */
#include <math.h>

#include "check.h"

enum { TOKENS = 300, GROUP = 5, DIM = 64, DIM_V = 32, BLOCK = 16, BLOCKS = (TOKENS + BLOCK - 1) / BLOCK };
static uint16_t k_data[TOKENS][DIM];
static float v_data[TOKENS][DIM_V];
static float q[GROUP * DIM];
static const float SCALE = 0.125f;
static tersa_error err;

static tersa_view keys_view(void) {
  tersa_view view;
  OK(tersa_view_init(&view, sizeof view, &err));
  view.dim = DIM;
  view.n_tokens = TOKENS;
  view.data = k_data;
  view.len_bytes = sizeof k_data;
  return view;
}

static tersa_view values_view(void) {
  tersa_view view = keys_view();
  view.dtype = TERSA_F32;
  view.dim = DIM_V;
  view.data = v_data;
  view.len_bytes = sizeof v_data;
  return view;
}

static double score(int g, uint32_t t) {
  double sum = 0;
  for (int i = 0; i < DIM; ++i) sum += q[g * DIM + i] * half_value(k_data[t][i]);
  return sum;
}

static void agrees(const uint32_t *tokens, size_t n, const float *out, const float *lse) {
  for (int g = 0; g < GROUP; ++g) {
    double top = -INFINITY, sum = 0, want[DIM_V] = {0};
    for (size_t i = 0; i < n; ++i) top = fmax(top, SCALE * score(g, tokens[i]));
    for (size_t i = 0; i < n; ++i) {
      double p = exp(SCALE * score(g, tokens[i]) - top);
      sum += p;
      for (int j = 0; j < DIM_V; ++j) want[j] += p * v_data[tokens[i]][j];
    }
    CHECK(fabs(lse[g] - (top + log(sum))) < 1e-5 * (1 + fabs(top)));
    for (int j = 0; j < DIM_V; ++j) CHECK(fabs(out[g * DIM_V + j] - want[j] / sum) < 1e-4 * (1 + fabs(want[j] / sum)));
  }
}

static void attends(tersa_workspace *ws) {
  tersa_view keys = keys_view(), values = values_view();
  uint32_t all[TOKENS], some[TOKENS];
  size_t n_some = 0;
  for (uint32_t t = 0; t < TOKENS; ++t) {
    all[t] = t;
    if (t % 7 == 3) some[n_some++] = t;
  }
  float out[GROUP * DIM_V], lse[GROUP], other[GROUP * DIM_V], other_lse[GROUP];
  OK(tersa_attend_range(q, GROUP, SCALE, &keys, &values, (tersa_range){0, TOKENS}, out, lse, ws, &err));
  agrees(all, TOKENS, out, lse);
  OK(tersa_attend_list(q, GROUP, SCALE, &keys, &values, all, TOKENS, other, NULL, NULL, &err));
  CHECK(memcmp(out, other, sizeof out) == 0);
  OK(tersa_attend_list(q, GROUP, SCALE, &keys, &values, some, n_some, out, lse, ws, &err));
  agrees(some, n_some, out, lse);

  /* Parts, one of them empty. */
  float part[4][GROUP * DIM_V], part_lse[4][GROUP];
  const size_t cut[5] = {0, 4, 4, 171, TOKENS};
  for (int i = 0; i < 4; ++i)
    OK(tersa_attend_range(q, GROUP, SCALE, &keys, &values, (tersa_range){cut[i], cut[i + 1]}, part[i], part_lse[i], ws, &err));
  CHECK(part[1][0] == 0 && part_lse[1][0] == -INFINITY);
  OK(tersa_attend_merge(GROUP, DIM_V, part[0], part_lse[0], 4, out, lse, ws, &err));
  agrees(all, TOKENS, out, lse);
  OK(tersa_attend_merge(GROUP, DIM_V, NULL, NULL, 0, out, lse, NULL, &err));
  CHECK(out[3] == 0 && lse[1] == -INFINITY);

  /* Pages of both, blocks anywhere. */
  static uint16_t k_pool[2 * BLOCKS][BLOCK][DIM];
  static float v_pool[2 * BLOCKS][BLOCK][DIM_V];
  uint32_t table[BLOCKS];
  for (uint32_t t = 0; t < TOKENS; ++t) {
    table[t / BLOCK] = (t / BLOCK * 5 + 2) % (2 * BLOCKS);
    memcpy(k_pool[table[t / BLOCK]][t % BLOCK], k_data[t], sizeof k_data[t]);
    memcpy(v_pool[table[t / BLOCK]][t % BLOCK], v_data[t], sizeof v_data[t]);
  }
  tersa_view k_paged = keys, v_paged = values;
  k_paged.block_size = v_paged.block_size = BLOCK;
  k_paged.block_table = v_paged.block_table = table;
  k_paged.n_block_table = v_paged.n_block_table = BLOCKS;
  k_paged.block_stride = BLOCK * DIM;
  v_paged.block_stride = BLOCK * DIM_V;
  k_paged.data = k_pool;
  v_paged.data = v_pool;
  k_paged.len_bytes = sizeof k_pool;
  v_paged.len_bytes = sizeof v_pool;
  OK(tersa_attend_list(q, GROUP, SCALE, &keys, &values, some, n_some, out, lse, ws, &err));
  OK(tersa_attend_list(q, GROUP, SCALE, &k_paged, &v_paged, some, n_some, other, other_lse, ws, &err));
  CHECK(memcmp(out, other, sizeof out) == 0 && memcmp(lse, other_lse, sizeof lse) == 0);
  OK(tersa_attend_range(q, GROUP, SCALE, &keys, &v_paged, (tersa_range){9, 150}, out, lse, ws, &err));
  OK(tersa_attend_range(q, GROUP, SCALE, &k_paged, &values, (tersa_range){9, 150}, other, other_lse, ws, &err));
  CHECK(memcmp(out, other, sizeof out) == 0 && memcmp(lse, other_lse, sizeof lse) == 0);

  float scores[GROUP * 100];
  OK(tersa_attend_scores(q, GROUP, &k_paged, (tersa_range){50, 150}, scores, &err));
  for (int g = 0; g < GROUP; ++g)
    for (uint32_t t = 0; t < 100; ++t) CHECK(fabs(scores[g * 100 + t] - score(g, 50 + t)) < 1e-3);
}

static void misuse(tersa_workspace *ws) {
  tersa_view keys = keys_view(), values = values_view(), bad;
  float out[GROUP * DIM_V], lse[GROUP], parts[GROUP * DIM_V], part_lse[GROUP];
  const tersa_range all = {0, TOKENS};
  const uint32_t list[2] = {1, 2}, beyond[2] = {1, TOKENS};
  uint32_t inside[GROUP * DIM_V] = {0};
#define RANGE(q, group, keys, values, tokens, out, lse) \
  tersa_attend_range(q, group, SCALE, keys, values, tokens, out, lse, ws, &err)
  EXPECT(TERSA_ERR_NULL, RANGE(NULL, GROUP, &keys, &values, all, out, lse));
  EXPECT(TERSA_ERR_NULL, RANGE(q, GROUP, NULL, &values, all, out, lse));
  EXPECT(TERSA_ERR_NULL, RANGE(q, GROUP, &keys, NULL, all, out, lse));
  EXPECT(TERSA_ERR_NULL, RANGE(q, GROUP, &keys, &values, all, NULL, lse));
  EXPECT(TERSA_ERR_ARGUMENT, RANGE(q, 0, &keys, &values, all, out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, RANGE(q, 257, &keys, &values, all, out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, RANGE(q, GROUP, &keys, &values, ((tersa_range){0, TOKENS + 1}), out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, RANGE(q, GROUP, &keys, &values, ((tersa_range){3, 2}), out, lse));
  EXPECT(TERSA_ERR_OVERLAP, RANGE(q, GROUP, &keys, &values, all, q, lse));
  EXPECT(TERSA_ERR_OVERLAP, RANGE(q, GROUP, &keys, &values, all, out, out));
  EXPECT(TERSA_ERR_OVERLAP, RANGE(q, GROUP, &keys, &values, all, v_data[3], lse));
  EXPECT(TERSA_ERR_OVERLAP, RANGE(q, GROUP, &keys, &values, all, out, v_data[3]));
  bad = values;
  bad.n_tokens = TOKENS - 1;
  EXPECT(TERSA_ERR_ARGUMENT, RANGE(q, GROUP, &keys, &bad, all, out, lse));
  bad = keys;
  bad.dtype = TERSA_F8_E4M3;
  EXPECT(TERSA_ERR_UNSUPPORTED, RANGE(q, GROUP, &bad, &values, all, out, lse));
  bad = keys;
  bad.len_bytes -= 1;
  EXPECT(TERSA_ERR_SHORT_BUFFER, RANGE(q, GROUP, &bad, &values, all, out, lse));
#define LIST(q, keys, values, tokens, n, out, lse) \
  tersa_attend_list(q, GROUP, SCALE, keys, values, tokens, n, out, lse, ws, &err)
  EXPECT(TERSA_ERR_NULL, LIST(NULL, &keys, &values, list, 2, out, lse));
  EXPECT(TERSA_ERR_NULL, LIST(q, NULL, &values, list, 2, out, lse));
  EXPECT(TERSA_ERR_NULL, LIST(q, &keys, NULL, list, 2, out, lse));
  EXPECT(TERSA_ERR_NULL, LIST(q, &keys, &values, NULL, 2, out, lse));
  EXPECT(TERSA_ERR_NULL, LIST(q, &keys, &values, list, 2, NULL, lse));
  EXPECT(TERSA_ERR_ARGUMENT, LIST(q, &keys, &values, beyond, 2, out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, LIST(q, &keys, &values, list, SIZE_MAX, out, lse));
  EXPECT(TERSA_ERR_OVERLAP, LIST(q, &keys, &values, inside, 2, (float *)(void *)inside, lse));
  OK(LIST(q, &keys, &values, list, 2, out, lse));
#define MERGE(group, dim, parts, part_lse, n, out, lse) \
  tersa_attend_merge(group, dim, parts, part_lse, n, out, lse, ws, &err)
  EXPECT(TERSA_ERR_ARGUMENT, MERGE(0, DIM_V, parts, part_lse, 1, out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, MERGE(257, DIM_V, parts, part_lse, 1, out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, MERGE(GROUP, 0, parts, part_lse, 1, out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, MERGE(GROUP, 65537, parts, part_lse, 1, out, lse));
  EXPECT(TERSA_ERR_ARGUMENT, MERGE(GROUP, DIM_V, parts, part_lse, SIZE_MAX, out, lse));
  EXPECT(TERSA_ERR_NULL, MERGE(GROUP, DIM_V, NULL, part_lse, 1, out, lse));
  EXPECT(TERSA_ERR_NULL, MERGE(GROUP, DIM_V, parts, NULL, 1, out, lse));
  EXPECT(TERSA_ERR_NULL, MERGE(GROUP, DIM_V, parts, part_lse, 1, NULL, lse));
  EXPECT(TERSA_ERR_OVERLAP, MERGE(GROUP, DIM_V, parts, part_lse, 1, parts, lse));
  EXPECT(TERSA_ERR_OVERLAP, MERGE(GROUP, DIM_V, parts, part_lse, 1, out, part_lse));
  float scores[GROUP * TOKENS];
  EXPECT(TERSA_ERR_NULL, tersa_attend_scores(NULL, GROUP, &keys, all, scores, &err));
  EXPECT(TERSA_ERR_NULL, tersa_attend_scores(q, GROUP, NULL, all, scores, &err));
  EXPECT(TERSA_ERR_NULL, tersa_attend_scores(q, GROUP, &keys, all, NULL, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_attend_scores(q, 0, &keys, all, scores, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_attend_scores(q, GROUP, &keys, (tersa_range){0, TOKENS + 1}, scores, &err));
  EXPECT(TERSA_ERR_OVERLAP, tersa_attend_scores(q, GROUP, &keys, all, q, &err));
  EXPECT(TERSA_ERR_OVERLAP, tersa_attend_scores(q, GROUP, &keys, all, (float *)(void *)k_data, &err));
}

int main(void) {
  uint32_t state = 3;
  for (int t = 0; t < TOKENS; ++t) {
    for (int i = 0; i < DIM; ++i) k_data[t][i] = half_bits(made_up(&state) / 16);
    for (int i = 0; i < DIM_V; ++i) v_data[t][i] = (float)made_up(&state) / 32;
  }
  for (int i = 0; i < GROUP * DIM; ++i) q[i] = (float)made_up(&state) / 256;
  tersa_workspace *ws;
  OK(tersa_workspace_create(&ws, &err));
  misuse(ws);
  attends(ws);
  tersa_workspace_destroy(ws);
  puts("attention: ok");
  return 0;
}
