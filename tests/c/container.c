/* Containers: written to a file and through a callback, read from file, memory and callback, and every misuse that can be seen. */
#include "check.h"

enum { LAYERS = 2, TOKENS = 150, HEADS = 2, DIM = 64, CHUNK = 64, N = TOKENS * HEADS * DIM };

static uint16_t data[2 * LAYERS][N], back[N];
static tersa_error err;

typedef struct { unsigned char *bytes; size_t len, room; int fail; } memory;

static int32_t take(void *context, const void *bytes, size_t len) {
  memory *m = context;
  if (m->fail) return 5;
  if (m->len + len > m->room) {
    m->room = 2 * (m->len + len);
    m->bytes = realloc(m->bytes, m->room);
    CHECK(m->bytes);
  }
  memcpy(m->bytes + m->len, bytes, len);
  m->len += len;
  return 0;
}

static int32_t give(void *context, uint64_t offset, void *buf, size_t len) {
  memory *m = context;
  if (m->fail || offset + len > m->len) return 7;
  memcpy(buf, m->bytes + offset, len);
  return 0;
}

static tersa_kv describe(void **pointer) {
  tersa_kv kv;
  OK(tersa_kv_init(&kv, sizeof kv, &err));
  kv.n_kv_heads = HEADS;
  kv.head_dim = DIM;
  kv.n_tokens = TOKENS;
  kv.pointers = pointer;
  kv.n_pointers = 1;
  kv.len_bytes = sizeof data[0];
  return kv;
}

static tersa_codec *make_codec(void) {
  tersa_codec_params p;
  tersa_codec *codec;
  OK(tersa_codec_params_init(&p, sizeof p, &err));
  p.n_layers = LAYERS;
  p.n_kv_heads = HEADS;
  p.head_dim_k = p.head_dim_v = DIM;
  p.chunk_tokens = CHUNK;
  OK(tersa_codec_create("k=had+lm4,v=lossless", &p, NULL, NULL, &codec, &err));
  return codec;
}

static void fill_writer(tersa_writer *writer, const tersa_codec *codec) {
  const uint32_t sinks[] = {3, 2, 1, 0, 70};
  uint32_t stream[2 * LAYERS];
  for (uint32_t s = 0; s < 2 * LAYERS; ++s) {
    tersa_stream_params p;
    OK(tersa_stream_params_init(&p, sizeof p, &err));
    p.layer = s / 2;
    p.kind = s % 2 ? TERSA_V : TERSA_K;
    p.exact = p.kind == TERSA_K ? sinks : NULL;
    p.n_exact = p.kind == TERSA_K ? 5 : 0;
    OK(tersa_writer_add_stream(writer, &p, codec, p.layer, &stream[s], &err));
    CHECK(stream[s] == s);
  }
  /* As a decoder would: all layers of some tokens, then of the next. */
  for (size_t token = 0; token < TOKENS; token += CHUNK)
    for (uint32_t s = 0; s < 2 * LAYERS; ++s) {
      void *at = data[s];
      tersa_kv kv = describe(&at);
      tersa_range tokens = {token, token + CHUNK < TOKENS ? token + CHUNK : TOKENS};
      OK(tersa_writer_append(writer, stream[s], &kv, tokens, NULL, &err));
    }
}

static void check_reader(tersa_reader *reader) {
  tersa_workspace *ws;
  OK(tersa_workspace_create(&ws, &err));
  CHECK(tersa_reader_n_streams(reader) == 2 * LAYERS);
  char text[64];
  size_t len;
  OK(tersa_reader_metadata(reader, text, sizeof text, &len, &err));
  CHECK(strcmp(text, "{\"model\":\"made up\"}") == 0 && len == strlen(text));
  uint64_t n_chunks;
  OK(tersa_reader_verify(reader, &n_chunks, &err));
  CHECK(n_chunks == 2 * LAYERS * 3);
  OK(tersa_reader_verify(reader, NULL, &err));
  for (uint32_t layer = 0; layer < LAYERS; ++layer)
    for (uint32_t kind = TERSA_K; kind <= TERSA_V; ++kind) {
      uint32_t stream;
      tersa_stream_info info;
      OK(tersa_reader_find(reader, 0, layer, kind, &stream, &err));
      OK(tersa_stream_info_init(&info, sizeof info, &err));
      OK(tersa_reader_stream(reader, stream, &info, &err));
      CHECK(info.layer == layer && info.kind == kind && info.dtype == TERSA_F16 && info.n_tokens == TOKENS &&
            info.n_kv_heads == HEADS && info.head_dim == DIM && info.chunk_tokens == CHUNK);
      OK(tersa_reader_codec(reader, stream, 1, text, sizeof text, &len, &err));
      CHECK(strcmp(text, kind == TERSA_K ? "had+lm4" : "lossless") == 0);
      tersa_head_stats stats;
      OK(tersa_reader_stats(reader, stream, 0, &stats, &err));
      CHECK(stats.n_values == TOKENS * DIM && (stats.sum_sq_error > 0) == (kind == TERSA_K));

      void *to = back;
      tersa_kv all = describe(&to);
      memset(back, 0, sizeof back);
      OK(tersa_reader_read(reader, stream, (tersa_range){0, HEADS}, (tersa_range){0, TOKENS}, &all, 0, ws, &err));
      if (kind == TERSA_V) CHECK(memcmp(back, data[stream], sizeof back) == 0);
      const size_t row = HEADS * DIM;
      CHECK(memcmp(back, data[stream], 4 * row * 2) == 0);
      CHECK(memcmp(back + 70 * row, data[stream] + 70 * row, row * 2) == 0);

      /* One head, tokens 60 to 139, three chunks. */
      static uint16_t part[80 * DIM];
      void *part_at = part;
      tersa_kv one = describe(&part_at);
      one.n_kv_heads = 1;
      one.n_tokens = 80;
      one.len_bytes = sizeof part;
      OK(tersa_reader_read(reader, stream, (tersa_range){1, 2}, (tersa_range){60, 140}, &one, 0, NULL, &err));
      for (size_t t = 0; t < 80; ++t)
        CHECK(memcmp(part + t * DIM, back + (60 + t) * row + DIM, DIM * 2) == 0);
    }
  tersa_workspace_destroy(ws);
}

static void misuse(tersa_reader *reader, const char *path, const memory *m, const tersa_codec *codec) {
  tersa_reader *none = NULL;
  tersa_writer *writer, *no_writer;
  void *to = back;
  tersa_kv kv = describe(&to), bad;
  uint32_t stream;
  size_t len;
  char text[64];
  tersa_range heads = {0, HEADS}, tokens = {0, TOKENS};

  EXPECT(TERSA_ERR_NULL, tersa_reader_open(NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_open(path, NULL, &err));
  EXPECT(TERSA_ERR_IO, tersa_reader_open("/no/such/file", &none, &err));
  EXPECT(TERSA_ERR_IO, tersa_reader_open("/", &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_open_memory(NULL, 5, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_open_memory(NULL, 0, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_open_memory(m->bytes, m->len, NULL, &err));
  EXPECT(TERSA_ERR_CORRUPT, tersa_reader_open_memory(m->bytes, m->len - 1, &none, &err));
  EXPECT(TERSA_ERR_CORRUPT, tersa_reader_open_memory(m->bytes, 0, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_open_callback(NULL, NULL, m->len, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_open_callback(give, (void *)m, m->len, NULL, &err));
  EXPECT(TERSA_ERR_IO, tersa_reader_open_callback(give, (void *)m, m->len + 1, &none, &err));
  CHECK(none == NULL);

  CHECK(tersa_reader_n_streams(NULL) == 0);
  EXPECT(TERSA_ERR_NULL, tersa_reader_metadata(NULL, text, sizeof text, &len, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_metadata(reader, text, sizeof text, NULL, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_reader_metadata(reader, text, 3, &len, &err));
  tersa_stream_info info;
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_stream_info_init(&info, 5, &err));
  EXPECT(TERSA_ERR_NULL, tersa_stream_info_init(NULL, sizeof info, &err));
  OK(tersa_stream_info_init(&info, sizeof info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_stream(NULL, 0, &info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_stream(reader, 0, NULL, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_reader_stream(reader, 4, &info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_find(NULL, 0, 0, TERSA_K, &stream, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_find(reader, 0, 0, TERSA_K, NULL, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_reader_find(reader, 0, 0, 2, &stream, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_reader_find(reader, 1, 0, TERSA_K, &stream, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_codec(NULL, 0, 0, text, sizeof text, &len, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_reader_codec(reader, 9, 0, text, sizeof text, &len, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_reader_codec(reader, 0, HEADS, text, sizeof text, &len, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_reader_codec(reader, 0, 0, text, 7, &len, &err));
  tersa_head_stats stats;
  EXPECT(TERSA_ERR_NULL, tersa_reader_stats(NULL, 0, 0, &stats, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_stats(reader, 0, 0, NULL, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_reader_stats(reader, 0, HEADS, &stats, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_reader_stats(reader, 9, 0, &stats, &err));
  EXPECT(TERSA_ERR_NULL, tersa_reader_verify(NULL, NULL, &err));

#define READ(reader, stream, heads, tokens, dst, first) \
  tersa_reader_read(reader, stream, heads, tokens, dst, first, NULL, &err)
  EXPECT(TERSA_ERR_NULL, READ(NULL, 0, heads, tokens, &kv, 0));
  EXPECT(TERSA_ERR_NULL, READ(reader, 0, heads, tokens, NULL, 0));
  EXPECT(TERSA_ERR_NOT_FOUND, READ(reader, 9, heads, tokens, &kv, 0));
  EXPECT(TERSA_ERR_ARGUMENT, READ(reader, 0, ((tersa_range){0, 3}), tokens, &kv, 0));
  EXPECT(TERSA_ERR_ARGUMENT, READ(reader, 0, ((tersa_range){1, 1}), tokens, &kv, 0));
  EXPECT(TERSA_ERR_ARGUMENT, READ(reader, 0, ((tersa_range){0, 1}), tokens, &kv, 0));
  EXPECT(TERSA_ERR_ARGUMENT, READ(reader, 0, heads, ((tersa_range){0, TOKENS + 1}), &kv, 0));
  EXPECT(TERSA_ERR_ARGUMENT, READ(reader, 0, heads, tokens, &kv, 1));
  bad = kv; bad.dtype = TERSA_F32;
  EXPECT(TERSA_ERR_ARGUMENT, READ(reader, 0, heads, tokens, &bad, 0));
  bad = kv; bad.len_bytes = 10;
  EXPECT(TERSA_ERR_SHORT_BUFFER, READ(reader, 0, heads, tokens, &bad, 0));

  EXPECT(TERSA_ERR_NULL, tersa_writer_create(NULL, &writer, &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_create("x.tersa", NULL, &err));
  EXPECT(TERSA_ERR_IO, tersa_writer_create("/no/such/folder/x.tersa", &no_writer, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_create("/", &no_writer, &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_create_callback(NULL, NULL, &no_writer, &err));
  memory broken = {NULL, 0, 0, 1};
  EXPECT(TERSA_ERR_IO, tersa_writer_create_callback(take, &broken, &no_writer, &err));
  CHECK(no_writer == NULL);
  memory sink = {NULL, 0, 0, 0};
  OK(tersa_writer_create_callback(take, &sink, &writer, &err));
  tersa_stream_params p;
  EXPECT(TERSA_ERR_NULL, tersa_stream_params_init(NULL, sizeof p, &err));
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_stream_params_init(&p, 3, &err));
  OK(tersa_stream_params_init(&p, sizeof p, &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_add_stream(NULL, &p, codec, 0, &stream, &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_add_stream(writer, NULL, codec, 0, &stream, &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_add_stream(writer, &p, NULL, 0, &stream, &err));
  EXPECT(TERSA_ERR_NULL, tersa_writer_add_stream(writer, &p, codec, 0, NULL, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_add_stream(writer, &p, codec, LAYERS, &stream, &err));
  p.kind = 2;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_add_stream(writer, &p, codec, 0, &stream, &err));
  p.kind = TERSA_V;
  p.n_exact = 1;
  EXPECT(TERSA_ERR_NULL, tersa_writer_add_stream(writer, &p, codec, 0, &stream, &err));
  p.n_exact = 0;
  OK(tersa_writer_add_stream(writer, &p, codec, 0, &stream, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_add_stream(writer, &p, codec, 0, &stream, &err));
  p.kind = TERSA_K;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_add_stream(writer, &p, codec, 0, &stream, &err));
#define APPEND(writer, stream, src, tokens) tersa_writer_append(writer, stream, src, tokens, NULL, &err)
  EXPECT(TERSA_ERR_NULL, APPEND(NULL, 0, &kv, tokens));
  EXPECT(TERSA_ERR_NULL, APPEND(writer, 0, NULL, tokens));
  EXPECT(TERSA_ERR_NOT_FOUND, APPEND(writer, 1, &kv, tokens));
  EXPECT(TERSA_ERR_ARGUMENT, APPEND(writer, 0, &kv, ((tersa_range){0, TOKENS + 1})));
  bad = kv; bad.head_dim = 32;
  EXPECT(TERSA_ERR_ARGUMENT, APPEND(writer, 0, &bad, tokens));
  OK(APPEND(writer, 0, &kv, tokens)); /* ends within a chunk, so that was all */
  EXPECT(TERSA_ERR_STATE, APPEND(writer, 0, &kv, tokens));
  EXPECT(TERSA_ERR_NULL, tersa_writer_finish(NULL, NULL, &err));
  OK(tersa_writer_finish(writer, NULL, &err));
  tersa_writer_destroy(writer);
  OK(tersa_writer_create_callback(take, &sink, &writer, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_finish(writer, "\xff", &err));
  OK(tersa_writer_finish(writer, NULL, &err));
  EXPECT(TERSA_ERR_STATE, tersa_writer_finish(writer, NULL, &err));
  EXPECT(TERSA_ERR_STATE, tersa_writer_add_stream(writer, &p, codec, 0, &stream, &err));
  tersa_writer_destroy(writer);
  tersa_writer_destroy(NULL);
  tersa_reader_destroy(NULL);

  /* An exact token that never came. */
  OK(tersa_writer_create_callback(take, &sink, &writer, &err));
  const uint32_t far = 1000;
  p.exact = &far;
  p.n_exact = 1;
  OK(tersa_writer_add_stream(writer, &p, codec, 0, &stream, &err));
  OK(APPEND(writer, 0, &kv, tokens));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_writer_finish(writer, NULL, &err));
  tersa_writer_destroy(writer);
  free(sink.bytes);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  char path[4096], unfinished[4096];
  snprintf(path, sizeof path, "%s/cache.tersa", argv[1]);
  snprintf(unfinished, sizeof unfinished, "%s/unfinished.tersa", argv[1]);
  uint32_t state = 11;
  for (int s = 0; s < 2 * LAYERS; ++s)
    for (int i = 0; i < N; ++i) data[s][i] = half_bits(made_up(&state));

  tersa_codec *codec = make_codec();
  tersa_writer *writer;
  OK(tersa_writer_create(path, &writer, &err));
  fill_writer(writer, codec);
  CHECK(fopen(path, "rb") == NULL); /* not before it is whole */
  OK(tersa_writer_finish(writer, "{\"model\":\"made up\"}", &err));
  tersa_writer_destroy(writer);

  memory m = {NULL, 0, 0, 0};
  OK(tersa_writer_create_callback(take, &m, &writer, &err));
  fill_writer(writer, codec);
  OK(tersa_writer_finish(writer, "{\"model\":\"made up\"}", &err));
  tersa_writer_destroy(writer);

  /* Equal calls, equal bytes. */
  FILE *file = fopen(path, "rb");
  CHECK(file);
  unsigned char *bytes = malloc(m.len + 1);
  CHECK(bytes && fread(bytes, 1, m.len + 1, file) == m.len && memcmp(bytes, m.bytes, m.len) == 0);
  fclose(file);
  free(bytes);

  OK(tersa_writer_create(unfinished, &writer, &err));
  fill_writer(writer, codec);
  tersa_writer_destroy(writer);
  CHECK(fopen(unfinished, "rb") == NULL);

  tersa_reader *reader;
  OK(tersa_reader_open(path, &reader, &err));
  check_reader(reader);
  misuse(reader, path, &m, codec);
  tersa_reader_destroy(reader);
  OK(tersa_reader_open_memory(m.bytes, m.len, &reader, &err));
  check_reader(reader);
  tersa_reader_destroy(reader);
  OK(tersa_reader_open_callback(give, &m, m.len, &reader, &err));
  check_reader(reader);
  m.fail = 1;
  void *to = back;
  tersa_kv kv = describe(&to);
  EXPECT(TERSA_ERR_IO,
         tersa_reader_read(reader, 0, (tersa_range){0, HEADS}, (tersa_range){0, 1}, &kv, 0, NULL, &err));
  tersa_reader_destroy(reader);

  /* A flipped bit in a chunk: reading and verifying find it. */
  m.bytes[2048] ^= 1;
  OK(tersa_reader_open_memory(m.bytes, m.len, &reader, &err));
  EXPECT(TERSA_ERR_CORRUPT, tersa_reader_verify(reader, NULL, &err));
  tersa_reader_destroy(reader);
  free(m.bytes);
  tersa_codec_destroy(codec);
  puts("container: ok");
  return 0;
}
