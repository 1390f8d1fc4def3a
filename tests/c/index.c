/* An index over a cache of the program's own: a prompt, steps, pages, forks, cuts, saving; every misuse that can be seen. */
#include <math.h>
#include <pthread.h>

#include "check.h"

#ifdef TERSA_SLOW /* under valgrind */
enum { CUT_STEP = 1999 };
#else
enum { CUT_STEP = 97 };
#endif
enum { TOKENS = 700, PROMPT = 640, HEADS = 2, GROUP = 3, DIM = 64, BLOCK = 16, BLOCKS = (TOKENS + BLOCK - 1) / BLOCK };

/* [token][head][dim], as llama.cpp keeps it. */
static uint16_t k_data[TOKENS][HEADS][DIM], v_data[TOKENS][HEADS][DIM];
static float q[GROUP * DIM], prompt_q[64 * GROUP * DIM];
static const float SCALE = 0.125f;
static tersa_error err;

static tersa_view rows_of(uint16_t (*data)[HEADS][DIM], int head, size_t n_tokens) {
  tersa_view view;
  OK(tersa_view_init(&view, sizeof view, &err));
  view.dtype = TERSA_F16;
  view.dim = DIM;
  view.n_tokens = n_tokens;
  view.data = data[0][head];
  view.len_bytes = sizeof k_data - (size_t)head * DIM * 2;
  view.row_stride = HEADS * DIM;
  return view;
}

static tersa_index_params params(uint32_t preset) {
  tersa_index_params p;
  OK(tersa_index_params_init(&p, sizeof p, preset, DIM, &err));
  CHECK(p.group == 0 && p.head_dim == DIM);
  p.group = GROUP;
  return p;
}

static tersa_index_info inspect(const tersa_index *index) {
  tersa_index_info info;
  OK(tersa_index_info_init(&info, sizeof info, &err));
  OK(tersa_index_inspect(index, &info, &err));
  return info;
}

/* Attention over chosen tokens in double. */
static void reference(int head, const uint8_t *chosen, size_t n, double *out, double *lse) {
  for (int g = 0; g < GROUP; ++g) {
    double score[TOKENS], top = -INFINITY, sum = 0;
    for (size_t t = 0; t < n; ++t) {
      score[t] = 0;
      for (int i = 0; i < DIM; ++i) score[t] += q[g * DIM + i] * half_value(k_data[t][head][i]);
      score[t] *= SCALE;
      if (chosen[t] && score[t] > top) top = score[t];
    }
    for (int i = 0; i < DIM; ++i) out[g * DIM + i] = 0;
    for (size_t t = 0; t < n; ++t) {
      if (!chosen[t]) continue;
      double p = exp(score[t] - top);
      sum += p;
      for (int i = 0; i < DIM; ++i) out[g * DIM + i] += p * half_value(v_data[t][head][i]);
    }
    for (int i = 0; i < DIM; ++i) out[g * DIM + i] /= sum;
    lse[g] = top + log(sum);
  }
}

/* What the index attends to is what it selects, and sinks and tail; the output is exact over those. */
static void attends(const tersa_index *index, int head, size_t n, tersa_workspace *ws) {
  tersa_index_info info = inspect(index);
  static uint32_t tokens[TOKENS];
  size_t n_selected, asked;
  OK(tersa_index_select(index, q, SCALE, NULL, 0, &asked, ws, &err));
  OK(tersa_index_select(index, q, SCALE, tokens, TOKENS, &n_selected, ws, &err));
  size_t middle = info.middle.end - info.middle.start;
  CHECK(n_selected == asked && n_selected == (info.budget < middle ? info.budget : middle));
  static uint8_t chosen[TOKENS];
  for (size_t t = 0; t < n; ++t) chosen[t] = t < info.middle.start || t >= info.middle.end;
  for (size_t i = 0; i < n_selected; ++i) {
    CHECK(tokens[i] >= info.middle.start && tokens[i] < info.middle.end && (i == 0 || tokens[i] > tokens[i - 1]));
    chosen[tokens[i]] = 1;
  }
  tersa_view keys = rows_of(k_data, head, n), values = rows_of(v_data, head, n);
  float out[GROUP * DIM], lse[GROUP], again[GROUP * DIM];
  double want[GROUP * DIM], want_lse[GROUP];
  OK(tersa_index_attend(index, q, SCALE, &keys, &values, out, lse, ws, &err));
  reference(head, chosen, n, want, want_lse);
  for (int i = 0; i < GROUP * DIM; ++i) CHECK(fabs(out[i] - want[i]) < 1e-3 * (1 + fabs(want[i])));
  for (int g = 0; g < GROUP; ++g) CHECK(fabs(lse[g] - want_lse[g]) < 1e-4 * (1 + fabs(want_lse[g])));
  OK(tersa_index_attend(index, q, SCALE, &keys, &values, again, NULL, NULL, &err));
  CHECK(memcmp(out, again, sizeof out) == 0);
}

static tersa_index *prefilled(const tersa_index_params *p, int head, size_t n, tersa_workspace *ws) {
  tersa_index *index;
  tersa_view keys = rows_of(k_data, head, n);
  OK(tersa_index_create(p, &index, &err));
  OK(tersa_index_prefill(index, &keys, prompt_q, 64 * GROUP, ws, &err));
  return index;
}

static size_t saved(const tersa_index *index, unsigned char **bytes) {
  size_t len, written;
  OK(tersa_index_save(index, NULL, 0, &len, &err));
  *bytes = malloc(len);
  CHECK(*bytes);
  OK(tersa_index_save(index, *bytes, len, &written, &err));
  CHECK(written == len);
  return len;
}

static int same(const tersa_index *a, const tersa_index *b) {
  unsigned char *x, *y;
  size_t x_len = saved(a, &x), y_len = saved(b, &y);
  int equal = x_len == y_len && memcmp(x, y, x_len) == 0;
  free(x);
  free(y);
  return equal;
}

static void decodes(uint32_t preset) {
  tersa_index_params p = params(preset);
  tersa_workspace *ws;
  OK(tersa_workspace_create(&ws, &err));
  for (int head = 0; head < HEADS; ++head) {
    tersa_index *index = prefilled(&p, head, PROMPT, ws);
    tersa_index_info info = inspect(index);
    CHECK(info.n_tokens == PROMPT && info.n_prompt == PROMPT && info.middle.start == p.sinks);
    CHECK(info.trained && info.middle.end == PROMPT - info.window && !info.refresh_due && info.bits >= 12);
    OK(tersa_workspace_reserve_index(ws, index, TOKENS, DIM, &err));
    for (size_t n = PROMPT + 1; n <= TOKENS; ++n) {
      tersa_view keys = rows_of(k_data, head, n);
      OK(tersa_index_append(index, &keys, ws, &err));
      info = inspect(index);
      CHECK(info.n_tokens == n && info.middle.end == n - 1 - info.window);
      if (n % 20 == 1) attends(index, head, n, ws);
    }
    CHECK(info.appended == TOKENS - PROMPT - 1);
    /* Lookahead and tokens that the index was not told of. */
    tersa_view keys = rows_of(k_data, head, info.middle.end), values = rows_of(v_data, head, info.middle.end);
    float out[GROUP * DIM];
    OK(tersa_index_attend(index, q, SCALE, &keys, &values, out, NULL, ws, &err));
    keys.n_tokens = values.n_tokens = info.middle.end - 1;
    EXPECT(TERSA_ERR_ARGUMENT, tersa_index_attend(index, q, SCALE, &keys, &values, out, NULL, ws, &err));
    OK(tersa_index_truncate(index, PROMPT, &err));
    attends(index, head, TOKENS, ws);
    tersa_index_destroy(index);
  }
  tersa_workspace_destroy(ws);
}

/* A budget for everything, and sequences too short to be coded, are dense. */
static void dense(void) {
  tersa_index_params p = params(TERSA_INDEX_DEFAULT);
  p.budget = (tersa_extent){TERSA_TOKENS, TOKENS, 0};
  tersa_index *index = prefilled(&p, 1, PROMPT, NULL);
  attends(index, 1, PROMPT, NULL);
  OK(tersa_index_set_budget(index, (tersa_extent){TERSA_TOKENS, 0, 0}, &err));
  CHECK(inspect(index).budget == 0);
  attends(index, 1, PROMPT, NULL);
  OK(tersa_index_set_budget(index, (tersa_extent){TERSA_SHARE_OF_CONTEXT, 0, 0.5}, &err));
  CHECK(inspect(index).budget == (PROMPT - 32) / 2);
  OK(tersa_index_set_budget(index, (tersa_extent){TERSA_SHARE_OF_PROMPT, 0, 0.25}, &err));
  attends(index, 1, PROMPT, NULL);
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_set_budget(index, (tersa_extent){TERSA_SHARE_OF_PROMPT, 0, 1.5}, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_set_budget(index, (tersa_extent){9, 0, 0}, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_set_budget(NULL, p.budget, &err));
  tersa_index_destroy(index);
  for (size_t n = 0; n < 40; n += 13) {
    index = prefilled(&p, 0, n, NULL);
    CHECK(!inspect(index).trained);
    if (n > 0) attends(index, 0, n, NULL);
    tersa_index_destroy(index);
  }
}

/* The same codes, tokens and outputs from pages of 16 tokens, from single tokens anywhere, and from f32. */
static void layouts(void) {
  tersa_index_params p = params(TERSA_INDEX_DEFAULT);
  tersa_index *strided = prefilled(&p, 1, PROMPT, NULL), *other;
  static uint16_t pool[2][2 * BLOCKS][BLOCK][HEADS][DIM];
  static float wide[2][PROMPT][DIM];
  static uint32_t table[BLOCKS], single[PROMPT];
  for (int b = 0; b < BLOCKS; ++b) table[b] = (uint32_t)((b * 7 + 3) % (2 * BLOCKS));
  for (int t = 0; t < PROMPT; ++t) {
    single[t] = table[t / BLOCK] * BLOCK + (uint32_t)(t % BLOCK);
    memcpy(pool[0][table[t / BLOCK]][t % BLOCK], k_data[t], sizeof k_data[t]);
    memcpy(pool[1][table[t / BLOCK]][t % BLOCK], v_data[t], sizeof v_data[t]);
    for (int i = 0; i < DIM; ++i) {
      wide[0][t][i] = (float)half_value(k_data[t][1][i]);
      wide[1][t][i] = (float)half_value(v_data[t][1][i]);
    }
  }
  float want[GROUP * DIM], got[GROUP * DIM];
  tersa_view keys = rows_of(k_data, 1, PROMPT), values = rows_of(v_data, 1, PROMPT);
  OK(tersa_index_attend(strided, q, SCALE, &keys, &values, want, NULL, NULL, &err));
  for (int way = 0; way < 3; ++way) {
    tersa_view view[2];
    for (int i = 0; i < 2; ++i) {
      OK(tersa_view_init(&view[i], sizeof view[i], &err));
      view[i].dim = DIM;
      view[i].n_tokens = PROMPT;
      if (way == 2) {
        view[i].dtype = TERSA_F32;
        view[i].data = wide[i];
        view[i].len_bytes = sizeof wide[i];
        continue;
      }
      view[i].data = pool[i][0][0][1];
      view[i].len_bytes = sizeof pool[i] - DIM * 2;
      view[i].row_stride = HEADS * DIM;
      view[i].block_size = way == 0 ? BLOCK : 1;
      view[i].block_stride = way == 0 ? BLOCK * HEADS * DIM : HEADS * DIM;
      view[i].block_table = way == 0 ? table : single;
      view[i].n_block_table = way == 0 ? BLOCKS : PROMPT;
    }
    OK(tersa_index_create(&p, &other, &err));
    OK(tersa_index_prefill(other, &view[0], prompt_q, 64 * GROUP, NULL, &err));
    CHECK(same(strided, other));
    OK(tersa_index_attend(other, q, SCALE, &view[0], &view[1], got, NULL, NULL, &err));
    CHECK(memcmp(want, got, sizeof want) == 0);
    tersa_index_destroy(other);
  }
  tersa_index_destroy(strided);
}

static void changes(void) {
  tersa_index_params p = params(TERSA_INDEX_PAPER_2X6);
  tersa_workspace *ws;
  OK(tersa_workspace_create(&ws, &err));
  tersa_index *index = prefilled(&p, 0, PROMPT, ws), *fork, *loaded;

  /* Chunks make the same sequence. A fork goes its own way. */
  OK(tersa_index_fork(index, &fork, &err));
  CHECK(same(index, fork));
  tersa_view keys = rows_of(k_data, 0, TOKENS);
  OK(tersa_index_append(fork, &keys, ws, &err));
  CHECK(!same(index, fork) && inspect(index).n_tokens == PROMPT && inspect(fork).n_tokens == TOKENS);
  attends(fork, 0, TOKENS, ws);
  OK(tersa_index_truncate(fork, TOKENS + 9, &err));
  CHECK(inspect(fork).n_tokens == TOKENS);

  /* Saved and loaded, it is the same index. */
  unsigned char *bytes;
  size_t len = saved(fork, &bytes), written;
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_index_save(fork, bytes, len - 1, &written, &err));
  CHECK(written == len);
  OK(tersa_index_load(&p, TOKENS, bytes, len, &loaded, &err));
  CHECK(same(fork, loaded));
  attends(loaded, 0, TOKENS, ws);
  tersa_index_destroy(loaded);
  for (size_t cut = 0; cut < len; cut += CUT_STEP) {
    EXPECT(TERSA_ERR_CORRUPT, tersa_index_load(&p, TOKENS, bytes, cut, &loaded, &err));
    CHECK(loaded == NULL);
  }
  EXPECT(TERSA_ERR_CORRUPT, tersa_index_load(&p, PROMPT / 2, bytes, len, &loaded, &err));
  tersa_index_params others = params(TERSA_INDEX_PAPER_4X8);
  EXPECT(TERSA_ERR_CODEC, tersa_index_load(&others, TOKENS, bytes, len, &loaded, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_load(NULL, TOKENS, bytes, len, &loaded, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_load(&p, TOKENS, NULL, len, &loaded, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_load(&p, TOKENS, bytes, len, NULL, &err));
  free(bytes);

  /* Tokens leave; their keys stay where the engine has them, in a cache without the hole. */
  static uint16_t kept[2][TOKENS][HEADS][DIM];
  memcpy(kept[0], k_data, sizeof k_data);
  memcpy(kept[1], v_data, sizeof v_data);
  const tersa_range out = {20, 120};
  OK(tersa_index_remove(fork, out, &err));
  memmove(k_data[out.start], k_data[out.end], (TOKENS - out.end) * sizeof k_data[0]);
  memmove(v_data[out.start], v_data[out.end], (TOKENS - out.end) * sizeof v_data[0]);
  CHECK(inspect(fork).n_tokens == TOKENS - 100);
  attends(fork, 0, TOKENS - 100, ws);
  /* All keys turned: other codes. */
  keys = rows_of(k_data, 0, TOKENS - 100);
  OK(tersa_index_fork(fork, &loaded, &err));
  for (int t = 0; t < TOKENS; ++t)
    for (int i = 0; i < DIM; ++i) k_data[t][0][i] ^= 0x8000;
  OK(tersa_index_recode(loaded, (tersa_range){0, TOKENS - 100}, &keys, ws, &err));
  CHECK(!same(fork, loaded));
  for (int t = 0; t < TOKENS; ++t)
    for (int i = 0; i < DIM; ++i) k_data[t][0][i] ^= 0x8000;
  OK(tersa_index_recode(loaded, (tersa_range){0, TOKENS - 100}, &keys, ws, &err));
  CHECK(same(fork, loaded));
  /* New centroids, all the same tokens. */
  OK(tersa_index_refresh(loaded, &keys, NULL, 0, 3, ws, &err));
  CHECK(!same(fork, loaded) && inspect(loaded).middle.end == inspect(fork).middle.end);
  attends(loaded, 0, TOKENS - 100, ws);
  memcpy(k_data, kept[0], sizeof k_data);
  memcpy(v_data, kept[1], sizeof v_data);
  tersa_index_destroy(loaded);

  /* A key that is not a number: everything before it is coded, nothing is lost. */
  k_data[PROMPT - 80][0][5] = 0x7e00;
  OK(tersa_index_create(&p, &loaded, &err));
  keys = rows_of(k_data, 0, PROMPT);
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_prefill(loaded, &keys, NULL, 0, ws, &err));
  CHECK(!inspect(loaded).trained && inspect(loaded).n_tokens == PROMPT);
  memcpy(k_data, kept[0], sizeof k_data);
  OK(tersa_index_prefill(loaded, &keys, NULL, 0, ws, &err));
  CHECK(same(index, loaded));
  tersa_index_destroy(loaded);
  tersa_index_destroy(fork);
  tersa_index_destroy(index);
  tersa_workspace_destroy(ws);
}

/* Indexes travel in containers, by layer and head. */
static void containers(const char *folder) {
  tersa_index_params p = params(TERSA_INDEX_DEFAULT);
  tersa_index *index[HEADS], *loaded = NULL;
  char path[4096];
  snprintf(path, sizeof path, "%s/indexes.tersa", folder);
  tersa_writer *writer;
  OK(tersa_writer_create(path, &writer, &err));
  for (uint32_t head = HEADS; head-- > 0;) {
    index[head] = prefilled(&p, (int)head, PROMPT, NULL);
    OK(tersa_writer_add_index(writer, 0, 7, head, index[head], &err));
  }
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_add_index(writer, 0, 7, 1, index[1], &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_add_index(NULL, 0, 8, 1, index[1], &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_add_index(writer, 0, 8, 1, NULL, &err));
  OK(tersa_writer_finish(writer, NULL, &err));
  EXPECT(TERSA_ERR_STATE, tersa_writer_add_index(writer, 0, 8, 1, index[1], &err));
  tersa_writer_destroy(writer);
  tersa_reader *reader;
  OK(tersa_reader_open(path, &reader, &err));
  for (uint32_t head = 0; head < HEADS; ++head) {
    OK(tersa_reader_index_load(reader, 0, 7, head, &p, PROMPT, &loaded, &err));
    CHECK(same(index[head], loaded));
    attends(loaded, (int)head, PROMPT, NULL);
    tersa_index_destroy(loaded);
  }
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_reader_index_load(reader, 0, 7, HEADS, &p, PROMPT, &loaded, &err));
  CHECK(loaded == NULL);
  EXPECT(TERSA_ERR_CORRUPT, tersa_reader_index_load(reader, 0, 7, 0, &p, PROMPT / 2, &loaded, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_index_load(NULL, 0, 7, 0, &p, PROMPT, &loaded, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_index_load(reader, 0, 7, 0, NULL, PROMPT, &loaded, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_index_load(reader, 0, 7, 0, &p, PROMPT, NULL, &err));
  tersa_reader_destroy(reader);
  for (int head = 0; head < HEADS; ++head) tersa_index_destroy(index[head]);
}

struct shared {
  const tersa_index *index;
  float out[GROUP * DIM];
};

static void *attend_many(void *arg) {
  struct shared *s = arg;
  tersa_workspace *ws;
  CHECK(tersa_workspace_create(&ws, NULL) == TERSA_OK);
  tersa_view keys, values;
  CHECK(tersa_view_init(&keys, sizeof keys, NULL) == TERSA_OK);
  keys.dim = DIM;
  keys.n_tokens = PROMPT;
  keys.row_stride = HEADS * DIM;
  keys.len_bytes = sizeof k_data;
  values = keys;
  keys.data = k_data;
  values.data = v_data;
  for (int i = 0; i < 20; ++i)
    CHECK(tersa_index_attend(s->index, q, SCALE, &keys, &values, s->out, NULL, ws, NULL) == TERSA_OK);
  tersa_workspace_destroy(ws);
  return NULL;
}

static void threads(void) {
  tersa_index_params p = params(TERSA_INDEX_DEFAULT);
  tersa_index *index = prefilled(&p, 0, PROMPT, NULL);
  static struct shared shared[4];
  pthread_t thread[4];
  for (int i = 0; i < 4; ++i) {
    shared[i].index = index;
    CHECK(pthread_create(&thread[i], NULL, attend_many, &shared[i]) == 0);
  }
  for (int i = 0; i < 4; ++i) CHECK(pthread_join(thread[i], NULL) == 0);
  for (int i = 1; i < 4; ++i) CHECK(memcmp(shared[0].out, shared[i].out, sizeof shared[i].out) == 0);
  tersa_index_destroy(index);
}

static void misuse(void) {
  tersa_index_params p = params(TERSA_INDEX_PAPER_2X6), wrong;
  tersa_index *index, *none = NULL;
  tersa_view keys = rows_of(k_data, 0, PROMPT), values = rows_of(v_data, 0, PROMPT), bad;
  tersa_workspace *ws;
  float out[GROUP * DIM], lse[GROUP];
  uint32_t tokens[TOKENS];
  size_t n;

  EXPECT(TERSA_ERR_NULL, tersa_index_params_init(NULL, sizeof p, 0, DIM, &err));
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_index_params_init(&wrong, 8, 0, DIM, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_params_init(&wrong, sizeof wrong, 4, DIM, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_params_init(&wrong, sizeof wrong, TERSA_INDEX_PAPER_4X8, 3, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_params_init(&wrong, sizeof wrong, TERSA_INDEX_DEFAULT, 0, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_create(NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_create(&p, NULL, &err));
#define WRONG(status, change)                                    \
  do {                                                           \
    wrong = p;                                                   \
    change;                                                      \
    none = (tersa_index *)&wrong;                                \
    EXPECT(status, tersa_index_create(&wrong, &none, &err));     \
    CHECK(none == NULL);                                         \
  } while (0)
  WRONG(TERSA_ERR_STRUCT_SIZE, wrong.struct_size = 12);
  WRONG(TERSA_ERR_ARGUMENT, wrong.group = 0);
  WRONG(TERSA_ERR_ARGUMENT, wrong.group = 257);
  WRONG(TERSA_ERR_ARGUMENT, wrong.head_dim = 0);
  WRONG(TERSA_ERR_ARGUMENT, wrong.head_dim = UINT32_MAX);
  WRONG(TERSA_ERR_ARGUMENT, wrong.m = 0);
  WRONG(TERSA_ERR_ARGUMENT, wrong.m = DIM + 1);
  WRONG(TERSA_ERR_ARGUMENT, wrong.nbits = 7);
  WRONG(TERSA_ERR_ARGUMENT, wrong.nbits = 262);
  WRONG(TERSA_ERR_ARGUMENT, wrong.rule = 3);
  WRONG(TERSA_ERR_ARGUMENT, wrong.transform = 2);
  WRONG(TERSA_ERR_ARGUMENT, wrong.random_rows = 2);
  WRONG(TERSA_ERR_ARGUMENT, wrong.rerank_bits = 5);
  WRONG(TERSA_ERR_ARGUMENT, (wrong.rerank_bits = 2, wrong.rerank_band = -1));
  WRONG(TERSA_ERR_ARGUMENT, wrong.window.unit = 3);
  WRONG(TERSA_ERR_ARGUMENT, wrong.window.share = 1.1);
  WRONG(TERSA_ERR_ARGUMENT, wrong.budget.share = NAN);

  OK(tersa_workspace_create(&ws, &err));
  OK(tersa_index_create(&p, &index, &err));
  /* Nothing yet: nothing is selected, a refresh changes nothing. */
  OK(tersa_index_select(index, q, SCALE, tokens, TOKENS, &n, ws, &err));
  CHECK(n == 0);
  OK(tersa_index_prefill(index, &keys, NULL, 0, ws, &err));

#define VIEW(status, change)                                                  \
  do {                                                                        \
    bad = keys;                                                               \
    change;                                                                   \
    EXPECT(status, tersa_index_append(index, &bad, ws, &err));                \
    EXPECT(status, tersa_index_attend(index, q, SCALE, &bad, &values, out, NULL, ws, &err)); \
  } while (0)
  const uint32_t table[PROMPT / BLOCK] = {0, 1, 2}, beyond[PROMPT / BLOCK] = {0xffffffffu};
#define PAGED(t, n_table) \
  (bad.block_size = BLOCK, bad.block_table = t, bad.n_block_table = n_table, bad.block_stride = BLOCK * HEADS * DIM)
  VIEW(TERSA_ERR_STRUCT_SIZE, bad.struct_size = 0);
  VIEW(TERSA_ERR_ARGUMENT, bad.dtype = 0);
  VIEW(TERSA_ERR_UNSUPPORTED, bad.dtype = TERSA_Q4_0);
  VIEW(TERSA_ERR_ARGUMENT, bad.dim = DIM / 2);
  VIEW(TERSA_ERR_ARGUMENT, bad.dim = 0);
  VIEW(TERSA_ERR_NULL, bad.data = NULL);
  VIEW(TERSA_ERR_SHORT_BUFFER, bad.len_bytes = (PROMPT - 1) * HEADS * DIM * 2 + DIM * 2 - 1);
  VIEW(TERSA_ERR_SHORT_BUFFER, bad.n_tokens = TOKENS + 1);
  VIEW(TERSA_ERR_SHORT_BUFFER, bad.n_tokens = SIZE_MAX);
  VIEW(TERSA_ERR_SHORT_BUFFER, bad.row_stride = SIZE_MAX / 4);
  VIEW(TERSA_ERR_ARGUMENT, bad.row_stride = SIZE_MAX);
  VIEW(TERSA_ERR_ARGUMENT, (bad.dtype = TERSA_Q8_0, bad.row_stride = 33));
  VIEW(TERSA_ERR_ARGUMENT, bad.block_table = table);
  VIEW(TERSA_ERR_ARGUMENT, PAGED(table, PROMPT / BLOCK - 1));
  VIEW(TERSA_ERR_NULL, PAGED(NULL, PROMPT / BLOCK));
  VIEW(TERSA_ERR_SHORT_BUFFER, PAGED(beyond, PROMPT / BLOCK));
  VIEW(TERSA_ERR_SHORT_BUFFER, (PAGED(table, PROMPT / BLOCK), bad.block_stride = SIZE_MAX / 2));
  VIEW(TERSA_ERR_ARGUMENT, (PAGED(table, PROMPT / BLOCK), bad.n_tokens = SIZE_MAX));
  CHECK(inspect(index).n_tokens == PROMPT);
  EXPECT(TERSA_ERR_NULL, tersa_view_init(NULL, sizeof bad, &err));
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_view_init(&bad, 4, &err));

  EXPECT(TERSA_ERR_NULL, tersa_index_prefill(NULL, &keys, NULL, 0, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_prefill(index, NULL, NULL, 0, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_prefill(index, &keys, NULL, 1, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_prefill(index, &keys, prompt_q, SIZE_MAX, ws, &err));
  bad = keys;
  bad.n_tokens = PROMPT - 1;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_prefill(index, &bad, NULL, 0, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_append(index, &bad, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_refresh(index, &bad, NULL, 0, 0, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_append(NULL, &keys, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_append(index, NULL, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_append(index, &keys, (tersa_workspace *)((char *)ws + 1), &err));

  EXPECT(TERSA_ERR_NULL, tersa_index_select(NULL, q, SCALE, tokens, TOKENS, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_select(index, NULL, SCALE, tokens, TOKENS, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_select(index, q, SCALE, NULL, TOKENS, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_select(index, q, SCALE, tokens, TOKENS, NULL, ws, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_index_select(index, q, SCALE, tokens, 1, &n, ws, &err));
  CHECK(n == inspect(index).budget);
  EXPECT(TERSA_ERR_OVERLAP, tersa_index_select(index, q, SCALE, (uint32_t *)q, TOKENS, &n, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_select(index, q, -1, tokens, TOKENS, &n, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_select(index, q, NAN, tokens, TOKENS, &n, ws, &err));
  float infinite[GROUP * DIM] = {INFINITY};
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_select(index, infinite, SCALE, tokens, TOKENS, &n, ws, &err));

#define ATTEND(index, q, keys, values, out, lse) tersa_index_attend(index, q, SCALE, keys, values, out, lse, ws, &err)
  EXPECT(TERSA_ERR_NULL, ATTEND(NULL, q, &keys, &values, out, lse));
  EXPECT(TERSA_ERR_NULL, ATTEND(index, NULL, &keys, &values, out, lse));
  EXPECT(TERSA_ERR_NULL, ATTEND(index, q, NULL, &values, out, lse));
  EXPECT(TERSA_ERR_NULL, ATTEND(index, q, &keys, NULL, out, lse));
  EXPECT(TERSA_ERR_NULL, ATTEND(index, q, &keys, &values, NULL, lse));
  EXPECT(TERSA_ERR_OVERLAP, ATTEND(index, q, &keys, &values, q, lse));
  EXPECT(TERSA_ERR_OVERLAP, ATTEND(index, q, &keys, &values, out, out));
  EXPECT(TERSA_ERR_OVERLAP, ATTEND(index, q, &keys, &values, (float *)(void *)k_data[9][1], lse));
  EXPECT(TERSA_ERR_OVERLAP, ATTEND(index, q, &keys, &values, out, (float *)(void *)v_data[PROMPT - 1][0]));
  EXPECT(TERSA_ERR_ARGUMENT, ATTEND(index, q, &keys, &values, (float *)((char *)out + 1), lse));
  bad = values;
  bad.n_tokens = PROMPT - 1;
  EXPECT(TERSA_ERR_ARGUMENT, ATTEND(index, q, &keys, &bad, out, lse));
  OK(ATTEND(index, q, &keys, &values, out, lse));

  EXPECT(TERSA_ERR_NULL, tersa_index_truncate(NULL, 1, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_remove(NULL, (tersa_range){0, 1}, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_remove(index, (tersa_range){0, PROMPT + 1}, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_remove(index, (tersa_range){SIZE_MAX, 1}, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_recode(NULL, (tersa_range){0, 1}, &keys, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_recode(index, (tersa_range){0, 1}, NULL, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_index_recode(index, (tersa_range){1, PROMPT + 1}, &keys, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_refresh(NULL, &keys, NULL, 0, 0, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_refresh(index, NULL, NULL, 0, 0, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_fork(NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_fork(index, NULL, &err));
  tersa_index_info info = inspect(index);
  EXPECT(TERSA_ERR_NULL, tersa_index_info_init(NULL, sizeof info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_inspect(NULL, &info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_inspect(index, NULL, &err));
  info.struct_size = 0;
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_index_inspect(index, &info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_save(NULL, tokens, sizeof tokens, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_save(index, tokens, sizeof tokens, NULL, &err));
  EXPECT(TERSA_ERR_NULL, tersa_index_save(index, NULL, 9, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_workspace_reserve_index(NULL, index, 1, DIM, &err));
  EXPECT(TERSA_ERR_NULL, tersa_workspace_reserve_index(ws, NULL, 1, DIM, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_workspace_reserve_index(ws, index, SIZE_MAX, DIM, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_workspace_reserve_index(ws, index, 1, UINT32_MAX, &err));
  tersa_index_destroy(index);
  tersa_index_destroy(NULL);
  tersa_workspace_destroy(ws);
}

int main(int argc, char **argv) {
  uint32_t state = 11;
  for (int t = 0; t < TOKENS; ++t)
    for (int h = 0; h < HEADS; ++h)
      for (int i = 0; i < DIM; ++i) {
        k_data[t][h][i] = half_bits((made_up(&state) + (t % 9) * ((i * 5) % 17 - 8) * 4) / 64);
        v_data[t][h][i] = half_bits(made_up(&state));
      }
  for (int i = 0; i < GROUP * DIM; ++i) q[i] = (float)made_up(&state) / 64;
  for (int i = 0; i < 64 * GROUP * DIM; ++i) prompt_q[i] = (float)made_up(&state) / 64;
  CHECK(argc == 2);
  misuse();
  decodes(TERSA_INDEX_DEFAULT);
  decodes(TERSA_INDEX_PAPER_2X6);
  decodes(TERSA_INDEX_PAPER_4X8);
  decodes(TERSA_INDEX_SKYLIGHT);
  dense();
  layouts();
  changes();
  containers(argv[1]);
  threads();
  puts("index: ok");
  return 0;
}
