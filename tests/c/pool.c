/* Jobs in the background: submit, watch, wait, cancel, a full queue, and every misuse that can be seen. */
#include "check.h"

#include <poll.h>

enum { TOKENS = 512, HEADS = 2, DIM = 64, JOBS = 8, N = TOKENS * HEADS * DIM };

static uint16_t data[JOBS][N], back[JOBS][N];
static tersa_error err;
static const tersa_range LAYER = {0, 1}, ALL = {0, TOKENS};

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

static int readable(int fd, int timeout) {
  struct pollfd watched = {fd, POLLIN, 0};
  return poll(&watched, 1, timeout) == 1;
}

int main(void) {
  uint32_t state = 5;
  for (int j = 0; j < JOBS; ++j)
    for (int i = 0; i < N; ++i) data[j][i] = half_bits(made_up(&state));
  tersa_codec_params cp;
  OK(tersa_codec_params_init(&cp, sizeof cp, &err));
  cp.n_kv_heads = HEADS;
  cp.head_dim_k = DIM;
  tersa_codec *codec;
  OK(tersa_codec_create("lossless", &cp, NULL, NULL, &codec, &err));

  tersa_pool_params p;
  tersa_pool *pool, *none;
  EXPECT(TERSA_ERR_NULL, tersa_pool_params_init(NULL, sizeof p, &err));
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_pool_params_init(&p, 2, &err));
  OK(tersa_pool_params_init(&p, sizeof p, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_create(&p, NULL, &err));
  p.n_threads = 0;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_pool_create(&p, &none, &err));
  p.n_threads = 2;
  p.capacity = 0;
  EXPECT(TERSA_ERR_ARGUMENT, tersa_pool_create(&p, &none, &err));
  CHECK(none == NULL);
  p.capacity = JOBS;
  OK(tersa_pool_create(&p, &pool, &err));
  int fd;
  OK(tersa_pool_event_fd(pool, &fd, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_event_fd(NULL, &fd, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_event_fd(pool, NULL, &err));
  OK(tersa_pool_event_fd(pool, &fd, &err));
  CHECK(!readable(fd, 0));

  size_t bound, n, written[JOBS] = {0};
  OK(tersa_codec_bound(codec, 1, TOKENS, &bound, &err));
  unsigned char *blobs[JOBS];
  tersa_completion done[JOBS + 1];
  uint64_t job, last = 0;
  void *at;
  tersa_kv kv;
  for (int j = 0; j < JOBS; ++j) {
    CHECK((blobs[j] = malloc(bound)) != NULL);
    at = data[j]; /* the array of pointers and the struct may change once the job is in */
    kv = describe(&at);
    OK(tersa_pool_encode(pool, codec, &kv, NULL, LAYER, ALL, blobs[j], bound, (uint64_t)j, &job, &err));
    CHECK(job > last);
    last = job;
  }
  /* Nothing was taken: the pool is full, whatever is done. */
  EXPECT(TERSA_ERR_BUSY, tersa_pool_encode(pool, codec, &kv, NULL, LAYER, ALL, blobs[0], bound, 0, NULL, &err));
  CHECK(readable(fd, 60000));
  for (int left = JOBS; left > 0; left -= (int)n) {
    OK(tersa_pool_wait(pool, done, JOBS, UINT32_MAX, &n, &err));
    CHECK(n > 0);
    for (size_t i = 0; i < n; ++i) {
      CHECK(done[i].error.code == TERSA_OK);
      written[done[i].user_data] = done[i].written;
    }
  }
  CHECK(!readable(fd, 0));
  OK(tersa_pool_wait(pool, done, JOBS, UINT32_MAX, &n, &err)); /* nothing to wait for */
  CHECK(n == 0);

  /* What a job wrote is what a call writes. */
  unsigned char *same = malloc(bound);
  CHECK(same);
  for (int j = 0; j < JOBS; ++j) {
    at = data[j];
    kv = describe(&at);
    OK(tersa_codec_encode(codec, &kv, NULL, LAYER, ALL, same, bound, &n, NULL, &err));
    CHECK(n == written[j] && memcmp(same, blobs[j], n) == 0);
  }
  for (int j = 0; j < JOBS; ++j) {
    at = back[j];
    kv = describe(&at);
    OK(tersa_pool_decode(pool, codec, blobs[j], written[j], LAYER, ALL, &kv, NULL, 0, (uint64_t)j, &job, &err));
  }
  for (int left = JOBS; left > 0; left -= (int)n) {
    OK(tersa_pool_poll(pool, done, 1, &n, &err));
    for (size_t i = 0; i < n; ++i) CHECK(done[i].error.code == TERSA_OK);
  }
  CHECK(memcmp(data, back, sizeof data) == 0);

  /* Damage is the job's failure, not the pool's; bad arguments make no job. */
  blobs[1][written[1] - 1] ^= 1;
  at = back[0];
  kv = describe(&at);
  OK(tersa_pool_decode(pool, codec, blobs[1], written[1], LAYER, ALL, &kv, NULL, 0, 77, &job, &err));
  OK(tersa_pool_wait(pool, done, 1, UINT32_MAX, &n, &err));
  CHECK(n == 1 && done[0].job == job && done[0].user_data == 77 && done[0].error.code == TERSA_ERR_CORRUPT);
  CHECK(done[0].error.message[0] != 0);
  EXPECT(TERSA_ERR_NULL, tersa_pool_encode(NULL, codec, &kv, NULL, LAYER, ALL, same, bound, 0, &job, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_encode(pool, NULL, &kv, NULL, LAYER, ALL, same, bound, 0, &job, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_encode(pool, codec, NULL, NULL, LAYER, ALL, same, bound, 0, &job, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_pool_encode(pool, codec, &kv, NULL, LAYER, ALL, same, 9, 0, &job, &err));
  EXPECT(TERSA_ERR_OVERLAP, tersa_pool_encode(pool, codec, &kv, NULL, LAYER, ALL, back[0], bound, 0, &job, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_decode(NULL, codec, blobs[0], 9, LAYER, ALL, &kv, NULL, 0, 0, &job, &err));
  EXPECT(TERSA_ERR_CORRUPT, tersa_pool_decode(pool, codec, blobs[0], 9, LAYER, ALL, &kv, NULL, 0, 0, &job, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_poll(NULL, done, 1, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_poll(pool, NULL, 1, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_poll(pool, done, 1, NULL, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_pool_poll(pool, done, 0, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_wait(NULL, done, 1, 0, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_pool_cancel(NULL, 1, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_pool_cancel(pool, job, &err));
  EXPECT(TERSA_ERR_NOT_FOUND, tersa_pool_cancel(pool, 1u << 30, &err));
  OK(tersa_pool_poll(pool, done, 1, &n, &err));
  CHECK(n == 0);
  tersa_pool_destroy(pool);

  /* One thread, eight jobs: the last is cancelled while it waits, or was faster; all complete. */
  p.n_threads = 1;
  OK(tersa_pool_create(&p, &pool, &err));
  for (int j = 0; j < JOBS; ++j) {
    at = data[j];
    kv = describe(&at);
    OK(tersa_pool_encode(pool, codec, &kv, NULL, LAYER, ALL, blobs[j], bound, (uint64_t)j, &job, &err));
  }
  int32_t status = tersa_pool_cancel(pool, job, &err);
  CHECK(status == TERSA_OK || status == TERSA_ERR_NOT_FOUND);
  int cancelled = 0;
  for (int left = JOBS; left > 0; left -= (int)n) {
    OK(tersa_pool_wait(pool, done, JOBS, 60000, &n, &err));
    CHECK(n > 0);
    for (size_t i = 0; i < n; ++i) {
      CHECK(done[i].error.code == TERSA_OK || (done[i].job == job && done[i].error.code == TERSA_ERR_CANCELLED));
      cancelled += done[i].error.code == TERSA_ERR_CANCELLED;
    }
  }
  CHECK(cancelled <= (status == TERSA_OK));

  /* Destroyed with work in it, codec first: nothing is touched afterwards. */
  for (int j = 0; j < JOBS; ++j) {
    at = data[j];
    kv = describe(&at);
    OK(tersa_pool_encode(pool, codec, &kv, NULL, LAYER, ALL, blobs[j], bound, 0, NULL, &err));
  }
  tersa_codec_destroy(codec);
  tersa_pool_destroy(pool);
  tersa_pool_destroy(NULL);
  for (int j = 0; j < JOBS; ++j) free(blobs[j]);
  free(same);
  puts("pool: ok");
  return 0;
}
