/* Caches through codecs: contiguous, transposed, scattered and paged; partial decoding; every misuse that can be seen. */
#include "check.h"

#ifdef TERSA_SLOW /* under valgrind */
enum { DAMAGE_STEP = 2003, CUT_STEP = 499 };
#else
enum { DAMAGE_STEP = 61, CUT_STEP = 97 };
#endif
enum { LAYERS = 3, TOKENS = 80, HEADS = 2, DIM = 64, BLOCK = 16, N = TOKENS * HEADS * DIM };

static uint16_t k_data[LAYERS][N], v_data[LAYERS][N], k_back[LAYERS][N], v_back[LAYERS][N];
static tersa_error err;

static tersa_kv describe(void **pointers, size_t n_pointers, size_t len_bytes) {
  tersa_kv kv;
  OK(tersa_kv_init(&kv, sizeof kv, &err));
  kv.dtype = TERSA_F16;
  kv.n_kv_heads = HEADS;
  kv.head_dim = DIM;
  kv.n_tokens = TOKENS;
  kv.pointers = pointers;
  kv.n_pointers = n_pointers;
  kv.len_bytes = len_bytes;
  return kv;
}

static tersa_codec_params params(void) {
  tersa_codec_params p;
  OK(tersa_codec_params_init(&p, sizeof p, &err));
  p.n_layers = LAYERS;
  p.n_kv_heads = HEADS;
  p.head_dim_k = p.head_dim_v = DIM;
  p.chunk_tokens = 32;
  return p;
}

static const tersa_range ALL_LAYERS = {0, LAYERS}, ALL_TOKENS = {0, TOKENS};

static double error_of(const uint16_t *a, const uint16_t *b, size_t n) {
  double difference = 0, square = 0;
  for (size_t i = 0; i < n; ++i) {
    double x = half_value(a[i]), y = half_value(b[i]);
    difference += (x - y) * (x - y);
    square += x * x;
  }
  return difference / square;
}

static void round_trips(const char *spec, double most_error) {
  void *k_at[LAYERS], *v_at[LAYERS], *k_to[LAYERS], *v_to[LAYERS];
  for (int l = 0; l < LAYERS; ++l) {
    k_at[l] = k_data[l];
    v_at[l] = v_data[l];
    k_to[l] = k_back[l];
    v_to[l] = v_back[l];
  }
  tersa_kv k = describe(k_at, LAYERS, sizeof k_data[0]), v = describe(v_at, LAYERS, sizeof v_data[0]);
  tersa_codec_params p = params();
  tersa_codec *codec;
  OK(tersa_codec_create(spec, &p, &k, &v, &codec, &err));
  tersa_workspace *ws;
  OK(tersa_workspace_create(&ws, &err));
  OK(tersa_workspace_reserve(ws, codec, TOKENS, &err));

  size_t bound, written, again;
  OK(tersa_codec_bound(codec, LAYERS, TOKENS, &bound, &err));
  unsigned char *blob = malloc(bound), *other = malloc(bound);
  CHECK(blob && other);
  OK(tersa_codec_encode(codec, &k, &v, ALL_LAYERS, ALL_TOKENS, blob, bound, &written, ws, &err));
  CHECK(written <= bound);

  /* Equal input, equal bytes; a workspace changes nothing. */
  OK(tersa_codec_encode(codec, &k, &v, ALL_LAYERS, ALL_TOKENS, other, bound, &again, NULL, &err));
  CHECK(again == written && memcmp(blob, other, written) == 0);

  tersa_blob_info info;
  OK(tersa_blob_info_init(&info, sizeof info, &err));
  OK(tersa_blob_inspect(blob, written, &info, &err));
  CHECK(info.n_layers == LAYERS && info.n_tokens == TOKENS && info.n_kinds == 2 && info.len_bytes == written);

  tersa_kv k_out = describe(k_to, LAYERS, sizeof k_back[0]), v_out = describe(v_to, LAYERS, sizeof v_back[0]);
  memset(k_back, 0, sizeof k_back);
  memset(v_back, 0, sizeof v_back);
  OK(tersa_codec_decode(codec, blob, written, ALL_LAYERS, ALL_TOKENS, &k_out, &v_out, 0, ws, &err));
  if (most_error == 0) {
    CHECK(memcmp(k_data, k_back, sizeof k_data) == 0 && memcmp(v_data, v_back, sizeof v_data) == 0);
  } else {
    CHECK(error_of(&k_data[0][0], &k_back[0][0], LAYERS * N) <= most_error);
    CHECK(error_of(&v_data[0][0], &v_back[0][0], LAYERS * N) <= most_error);
  }

  /* Layer 1, tokens 20 to 69, values only, to token 5 on: the same numbers, and nothing else is touched. */
  static uint16_t part[N];
  memset(part, 0x55, sizeof part);
  void *part_at[1] = {part};
  tersa_kv out = describe(part_at, 1, sizeof part);
  OK(tersa_codec_decode(codec, blob, written, (tersa_range){1, 2}, (tersa_range){20, 70}, NULL, &out, 5, ws, &err));
  CHECK(memcmp(part + 5 * HEADS * DIM, v_back[1] + 20 * HEADS * DIM, 50 * HEADS * DIM * 2) == 0);
  for (int i = 0; i < N; ++i)
    if (i < 5 * HEADS * DIM || i >= 55 * HEADS * DIM) CHECK(part[i] == 0x5555);

  /* Out of pages, into pages: 16 tokens a block, blocks anywhere in a pool, layer by layer. */
  static uint16_t pool[LAYERS][8 * BLOCK * HEADS * DIM];
  const uint32_t table[TOKENS / BLOCK] = {6, 1, 7, 0, 3};
  void *pool_at[LAYERS];
  memset(pool, 0x55, sizeof pool);
  for (int l = 0; l < LAYERS; ++l) pool_at[l] = pool[l];
  tersa_kv paged = describe(pool_at, LAYERS, sizeof pool[0]);
  paged.block_size = BLOCK;
  paged.block_table = table;
  paged.n_block_table = TOKENS / BLOCK;
  paged.block_stride = BLOCK * HEADS * DIM;
  OK(tersa_codec_decode(codec, blob, written, ALL_LAYERS, ALL_TOKENS, &paged, NULL, 0, ws, &err));
  const size_t block_bytes = BLOCK * HEADS * DIM * 2;
  for (int l = 0; l < LAYERS; ++l)
    for (int b = 0; b < TOKENS / BLOCK; ++b)
      CHECK(memcmp(pool[l] + table[b] * BLOCK * HEADS * DIM, k_back[l] + b * BLOCK * HEADS * DIM, block_bytes) == 0);
  for (size_t i = 0; i < BLOCK * HEADS * DIM; ++i) CHECK(pool[0][2 * BLOCK * HEADS * DIM + i] == 0x5555);

  /* The same bytes come from pages, and from one pointer for each block. */
  for (int l = 0; l < LAYERS; ++l)
    for (int b = 0; b < TOKENS / BLOCK; ++b)
      memcpy(pool[l] + table[b] * BLOCK * HEADS * DIM, k_data[l] + b * BLOCK * HEADS * DIM, block_bytes);
  OK(tersa_codec_encode(codec, &paged, &v, ALL_LAYERS, ALL_TOKENS, other, bound, &again, ws, &err));
  CHECK(again == written && memcmp(blob, other, written) == 0);
  void *blocks_at[LAYERS * (TOKENS / BLOCK)];
  for (int l = 0; l < LAYERS; ++l)
    for (int b = 0; b < TOKENS / BLOCK; ++b)
      blocks_at[l * (TOKENS / BLOCK) + b] = v_data[l] + b * BLOCK * HEADS * DIM;
  tersa_kv scattered = describe(blocks_at, LAYERS * (TOKENS / BLOCK), block_bytes);
  scattered.block_size = BLOCK;
  OK(tersa_codec_encode(codec, &paged, &scattered, ALL_LAYERS, ALL_TOKENS, other, bound, &again, ws, &err));
  CHECK(again == written && memcmp(blob, other, written) == 0);

  /* Transposed values, [head][dim][token], as llama.cpp keeps them without flash attention. */
  static uint16_t turned[LAYERS][N];
  void *turned_at[LAYERS];
  for (int l = 0; l < LAYERS; ++l) {
    turned_at[l] = turned[l];
    for (int t = 0; t < TOKENS; ++t)
      for (int i = 0; i < HEADS * DIM; ++i) turned[l][i * TOKENS + t] = v_data[l][t * HEADS * DIM + i];
  }
  tersa_kv transposed = describe(turned_at, LAYERS, sizeof turned[0]);
  transposed.token_stride = 1;
  transposed.dim_stride = TOKENS;
  transposed.head_stride = DIM * TOKENS;
  OK(tersa_codec_encode(codec, &k, &transposed, ALL_LAYERS, ALL_TOKENS, other, bound, &again, ws, &err));
  CHECK(again == written && memcmp(blob, other, written) == 0);

  /* Saved and loaded, it is the same codec. */
  size_t saved_len;
  OK(tersa_codec_save(codec, NULL, 0, &saved_len, &err));
  unsigned char *saved = malloc(saved_len);
  CHECK(saved);
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_codec_save(codec, saved, saved_len - 1, &again, &err));
  OK(tersa_codec_save(codec, saved, saved_len, &again, &err));
  tersa_codec *loaded;
  OK(tersa_codec_load(saved, saved_len, &loaded, &err));
  memset(k_back, 0, sizeof k_back);
  OK(tersa_codec_decode(loaded, blob, written, ALL_LAYERS, ALL_TOKENS, &k_out, NULL, 0, NULL, &err));
  OK(tersa_codec_encode(loaded, &k, &v, ALL_LAYERS, ALL_TOKENS, other, bound, &again, NULL, &err));
  CHECK(again == written && memcmp(blob, other, written) == 0);
  for (size_t cut = 0; cut < saved_len; cut += CUT_STEP) {
    tersa_codec *none;
    EXPECT(TERSA_ERR_CORRUPT, tersa_codec_load(saved, cut, &none, &err));
    CHECK(none == NULL);
  }

  /* Damage and cuts are found, wherever they are. */
  for (size_t i = 0; i < written; i += DAMAGE_STEP) {
    blob[i] ^= 4;
    int32_t status = tersa_codec_decode(codec, blob, written, ALL_LAYERS, ALL_TOKENS, &k_out, &v_out, 0, ws, &err);
    CHECK(status == TERSA_ERR_CORRUPT || status == TERSA_ERR_VERSION);
    blob[i] ^= 4;
    EXPECT(TERSA_ERR_CORRUPT,
           tersa_codec_decode(codec, blob, i, ALL_LAYERS, ALL_TOKENS, &k_out, &v_out, 0, ws, &err));
  }

  free(saved);
  free(other);
  free(blob);
  tersa_workspace_destroy(ws);
  tersa_codec_destroy(loaded);
  tersa_codec_destroy(codec);
}

static void misuse(void) {
  void *at[LAYERS], *holes[LAYERS] = {k_data[0], NULL, k_data[2]};
  for (int l = 0; l < LAYERS; ++l) at[l] = k_data[l];
  tersa_kv k = describe(at, LAYERS, sizeof k_data[0]), bad;
  tersa_codec_params p = params(), wrong;
  tersa_codec *codec, *keys_only, *none = NULL;

  EXPECT(TERSA_ERR_NULL, tersa_codec_create(NULL, &p, NULL, NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_create("had+lm4", NULL, NULL, NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_create("had+lm4", &p, NULL, NULL, NULL, &err));
  CHECK(tersa_codec_create(NULL, NULL, NULL, NULL, NULL, NULL) == TERSA_ERR_NULL);
  EXPECT(TERSA_ERR_SPEC, tersa_codec_create("had+lm7", &p, NULL, NULL, &none, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_create("\xff", &p, NULL, NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_create("pq:16x4", &p, NULL, NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_create("pq:16x4", &p, &k, NULL, &none, &err));
  CHECK(none == NULL);
  wrong = p; wrong.struct_size = 8;
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_codec_create("raw", &wrong, NULL, NULL, &none, &err));
  wrong = p; wrong.dtype_k = 99;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_create("raw", &wrong, NULL, NULL, &none, &err));
  wrong = p; wrong.n_kv_heads = 0;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_create("raw", &wrong, NULL, NULL, &none, &err));
  wrong = p; wrong.n_layers = 0;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_create("raw", &wrong, NULL, NULL, &none, &err));
  wrong = p; wrong.chunk_tokens = 0;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_create("raw", &wrong, NULL, NULL, &none, &err));
  wrong = p; wrong.chunk_tokens = 1u << 20; wrong.n_kv_heads = 65536;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_create("raw", &wrong, NULL, NULL, &none, &err));
  wrong = p; wrong.head_dim_k = 4096;
  EXPECT(TERSA_ERR_UNSUPPORTED, tersa_codec_create("had+lm4", &wrong, NULL, NULL, &none, &err));
  wrong = p; wrong.dtype_v = TERSA_Q8_0; wrong.head_dim_v = 33;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_create("raw", &wrong, NULL, NULL, &none, &err));
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_codec_params_init(&wrong, 4, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_params_init(NULL, sizeof wrong, &err));
  EXPECT(TERSA_ERR_NULL, tersa_kv_init(NULL, sizeof bad, &err));
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_kv_init(&bad, 0, &err));

  OK(tersa_codec_create("safe", &p, NULL, NULL, &codec, &err));
  wrong = p; wrong.head_dim_v = 0;
  OK(tersa_codec_create("safe", &wrong, NULL, NULL, &keys_only, &err));

  char name[64];
  size_t len, bound, written;
  OK(tersa_codec_name(codec, NULL, 0, &len, &err));
  OK(tersa_codec_name(codec, name, sizeof name, &len, &err));
  CHECK(strlen(name) == len && strcmp(name, "k=mean+had+lm4+ls,v=had+lm4+ls") == 0);
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_codec_name(codec, name, len, &len, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_name(codec, NULL, 64, &len, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_name(NULL, name, sizeof name, &len, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_name(codec, name, sizeof name, NULL, &err));

  EXPECT(TERSA_ERR_NULL, tersa_codec_bound(NULL, 1, 1, &bound, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_bound(codec, 1, 1, NULL, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_bound(codec, LAYERS + 1, 1, &bound, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_codec_bound(codec, 1, SIZE_MAX, &bound, &err));
  OK(tersa_codec_bound(codec, 0, 0, &bound, &err));
  CHECK(bound == 64);
  OK(tersa_codec_bound(codec, LAYERS, TOKENS, &bound, &err));
  unsigned char *blob = malloc(bound);
  CHECK(blob);

#define ENCODE(codec, k, v, layers, tokens, dst, capacity) \
  tersa_codec_encode(codec, k, v, layers, tokens, dst, capacity, &written, NULL, &err)
  EXPECT(TERSA_ERR_NULL, ENCODE(NULL, &k, &k, ALL_LAYERS, ALL_TOKENS, blob, bound));
  EXPECT(TERSA_ERR_NULL, ENCODE(codec, NULL, &k, ALL_LAYERS, ALL_TOKENS, blob, bound));
  EXPECT(TERSA_ERR_NULL, ENCODE(codec, &k, NULL, ALL_LAYERS, ALL_TOKENS, blob, bound));
  EXPECT(TERSA_ERR_NULL, ENCODE(codec, &k, &k, ALL_LAYERS, ALL_TOKENS, NULL, bound));
  EXPECT(TERSA_ERR_NULL, tersa_codec_encode(codec, &k, &k, ALL_LAYERS, ALL_TOKENS, blob, bound, NULL, NULL, &err));
  EXPECT(TERSA_ERR_ARGUMENT, ENCODE(keys_only, &k, &k, ALL_LAYERS, ALL_TOKENS, blob, bound));
  EXPECT(TERSA_ERR_SHORT_BUFFER, ENCODE(codec, &k, &k, ALL_LAYERS, ALL_TOKENS, blob, bound - 1));
  CHECK(written == bound);
  EXPECT(TERSA_ERR_SHORT_BUFFER, ENCODE(codec, &k, &k, ALL_LAYERS, ALL_TOKENS, NULL, 0));
  CHECK(written == bound);
  EXPECT(TERSA_ERR_ARGUMENT, ENCODE(codec, &k, &k, ((tersa_range){0, LAYERS + 1}), ALL_TOKENS, blob, bound));
  EXPECT(TERSA_ERR_ARGUMENT, ENCODE(codec, &k, &k, ((tersa_range){2, 1}), ALL_TOKENS, blob, bound));
  EXPECT(TERSA_ERR_ARGUMENT, ENCODE(codec, &k, &k, ALL_LAYERS, ((tersa_range){0, TOKENS + 1}), blob, bound));
  EXPECT(TERSA_ERR_ARGUMENT, ENCODE(codec, &k, &k, ALL_LAYERS, ((tersa_range){SIZE_MAX, 1}), blob, bound));
  EXPECT(TERSA_ERR_ARGUMENT, ENCODE(codec, &k, &k, ((tersa_range){0, 1}), ALL_TOKENS, blob, bound));
  EXPECT(TERSA_ERR_OVERLAP, ENCODE(codec, &k, &k, ALL_LAYERS, ALL_TOKENS, k_data[0], bound));
  EXPECT(TERSA_ERR_ARGUMENT, ENCODE(codec, (tersa_kv *)((char *)&k + 1), &k, ALL_LAYERS, ALL_TOKENS, blob, bound));
#define BAD(status, change)                                                                   \
  do {                                                                                        \
    bad = k;                                                                                  \
    change;                                                                                   \
    EXPECT(status, ENCODE(codec, &bad, &k, ALL_LAYERS, ALL_TOKENS, blob, bound));             \
  } while (0)
  const uint32_t table[TOKENS / BLOCK] = {0, 1, 2, 3, 4}, beyond[TOKENS / BLOCK] = {0, 1, 2, 3, 0xffffffffu};
  BAD(TERSA_ERR_STRUCT_SIZE, bad.struct_size = 0);
  BAD(TERSA_ERR_ARGUMENT, bad.dtype = 0);
  BAD(TERSA_ERR_ARGUMENT, bad.dtype = TERSA_BF16);
  BAD(TERSA_ERR_ARGUMENT, bad.n_kv_heads = 1);
  BAD(TERSA_ERR_ARGUMENT, bad.head_dim = 32);
  BAD(TERSA_ERR_NULL, bad.pointers = NULL);
  BAD(TERSA_ERR_NULL, bad.pointers = holes);
  BAD(TERSA_ERR_ARGUMENT, bad.n_pointers = 2);
  BAD(TERSA_ERR_SHORT_BUFFER, bad.len_bytes -= 1);
  BAD(TERSA_ERR_SHORT_BUFFER, bad.n_tokens = TOKENS + 1);
  BAD(TERSA_ERR_SHORT_BUFFER, bad.n_tokens = SIZE_MAX);
  BAD(TERSA_ERR_SHORT_BUFFER, bad.token_stride = SIZE_MAX / 4);
  BAD(TERSA_ERR_ARGUMENT, bad.token_stride = SIZE_MAX);
  BAD(TERSA_ERR_ARGUMENT, bad.block_size = BLOCK);
  BAD(TERSA_ERR_ARGUMENT, (bad.block_table = table, bad.n_block_table = TOKENS / BLOCK));
#define PAGED(t, n) (bad.block_size = BLOCK, bad.block_table = t, bad.n_block_table = n, bad.block_stride = BLOCK * HEADS * DIM)
  BAD(TERSA_OK, PAGED(table, TOKENS / BLOCK));
  BAD(TERSA_ERR_ARGUMENT, PAGED(table, TOKENS / BLOCK - 1));
  BAD(TERSA_ERR_SHORT_BUFFER, PAGED(beyond, TOKENS / BLOCK));
  BAD(TERSA_ERR_SHORT_BUFFER, (PAGED(table, TOKENS / BLOCK), bad.block_stride = SIZE_MAX / 2));
  BAD(TERSA_ERR_NULL, PAGED(NULL, TOKENS / BLOCK));

  OK(ENCODE(codec, &k, &k, ALL_LAYERS, ALL_TOKENS, blob, bound));
#define DECODE(codec, src, len, layers, tokens, k, v, first) \
  tersa_codec_decode(codec, src, len, layers, tokens, k, v, first, NULL, &err)
  for (int l = 0; l < LAYERS; ++l) at[l] = k_back[l];
  EXPECT(TERSA_ERR_NULL, DECODE(NULL, blob, written, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));
  EXPECT(TERSA_ERR_NULL, DECODE(codec, NULL, written, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));
  EXPECT(TERSA_ERR_NULL, DECODE(codec, NULL, 0, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));
  EXPECT(TERSA_ERR_NULL, DECODE(codec, blob, written, ALL_LAYERS, ALL_TOKENS, NULL, NULL, 0));
  EXPECT(TERSA_ERR_CODEC, DECODE(keys_only, blob, written, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));
  EXPECT(TERSA_ERR_CORRUPT, DECODE(codec, blob, written - 1, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));
  EXPECT(TERSA_ERR_CORRUPT, DECODE(codec, k_data, sizeof k_data, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));
  EXPECT(TERSA_ERR_ARGUMENT, DECODE(codec, blob, written, ((tersa_range){0, 4}), ALL_TOKENS, &k, NULL, 0));
  EXPECT(TERSA_ERR_ARGUMENT, DECODE(codec, blob, written, ALL_LAYERS, ((tersa_range){0, 81}), &k, NULL, 0));
  EXPECT(TERSA_ERR_ARGUMENT, DECODE(codec, blob, written, ALL_LAYERS, ALL_TOKENS, &k, NULL, 1));
  EXPECT(TERSA_ERR_ARGUMENT, DECODE(codec, blob, written, ALL_LAYERS, ALL_TOKENS, &k, NULL, SIZE_MAX));
  at[1] = blob;
  EXPECT(TERSA_ERR_OVERLAP, DECODE(codec, blob, written, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));
  at[1] = k_back[1];
  OK(DECODE(codec, blob, written, ALL_LAYERS, ALL_TOKENS, &k, NULL, 0));

  tersa_blob_info info;
  OK(tersa_blob_info_init(&info, sizeof info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_blob_info_init(NULL, sizeof info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_blob_inspect(NULL, written, &info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_blob_inspect(blob, written, NULL, &err));
  EXPECT(TERSA_ERR_CORRUPT, tersa_blob_inspect(blob, 63, &info, &err));
  info.struct_size = 1;
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_blob_inspect(blob, written, &info, &err));

  EXPECT(TERSA_ERR_NULL, tersa_codec_save(NULL, blob, bound, &len, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_save(codec, NULL, bound, &len, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_save(codec, blob, bound, NULL, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_load(NULL, 10, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_codec_load(blob, 10, NULL, &err));
  EXPECT(TERSA_ERR_CORRUPT, tersa_codec_load(blob, written, &none, &err));

  tersa_workspace *ws;
  EXPECT(TERSA_ERR_NULL, tersa_workspace_create(NULL, &err));
  OK(tersa_workspace_create(&ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_workspace_reserve(NULL, codec, 1, &err));
  EXPECT(TERSA_ERR_NULL, tersa_workspace_reserve(ws, NULL, 1, &err));
  tersa_workspace_destroy(ws);
  tersa_workspace_destroy(NULL);
  tersa_codec_destroy(keys_only);
  tersa_codec_destroy(codec);
  tersa_codec_destroy(NULL);
  free(blob);
}

static void versions(void) {
  char text[32];
  snprintf(text, sizeof text, "%d.%d.%d", TERSA_VERSION_MAJOR, TERSA_VERSION_MINOR, TERSA_VERSION_PATCH);
  CHECK(strcmp(text, TERSA_VERSION) == 0 && strcmp(text, tersa_version()) == 0);
  CHECK(TERSA_VERSION_NUMBER ==
        TERSA_VERSION_MAJOR * 1000000 + TERSA_VERSION_MINOR * 1000 + TERSA_VERSION_PATCH);
  CHECK(tersa_version_number() == TERSA_VERSION_NUMBER && tersa_abi_version() == TERSA_ABI_VERSION);
  for (int32_t status = -1; status < 40; ++status) CHECK(tersa_status_text(status)[0] != 0);
  CHECK(strcmp(tersa_status_text(0), "done") == 0);

  uint32_t level = tersa_cpu_level(), now;
  CHECK(level >= TERSA_CPU_SCALAR && level <= TERSA_CPU_AVX512 && tersa_cpu_level_name()[0]);
  EXPECT(TERSA_ERR_ARGUMENT, tersa_cpu_lower_to(0, &now, &err));
  OK(tersa_cpu_lower_to(TERSA_CPU_SCALAR, &now, &err));
  CHECK(now == TERSA_CPU_SCALAR && tersa_cpu_level() == TERSA_CPU_SCALAR);
  OK(tersa_cpu_lower_to(level, NULL, &err));
  CHECK(tersa_cpu_level() == level);
}

int main(void) {
  uint32_t state = 7;
  for (int l = 0; l < LAYERS; ++l)
    for (int i = 0; i < N; ++i) {
      k_data[l][i] = half_bits(made_up(&state) + i % DIM);
      v_data[l][i] = half_bits(made_up(&state));
    }
  versions();
  misuse();
  round_trips("raw", 0);
  round_trips("lossless", 0);
  round_trips("had+q8_0", 1e-3);
  round_trips("safe", 0.02);
  round_trips("k=int4c32,v=int4t32", 0.02);
  round_trips("pq:32x4", 0.5);
  puts("codec: ok");
  return 0;
}
