/* A fast tier of memory with real copies: rows that it serves are those of the slow tier; every misuse that can be seen. */
#include "check.h"

enum { TOKENS = 4096, BLOCK = 16, BLOCKS = TOKENS / BLOCK, SLOTS = 12, COPIES = 3, STEPS = 200, PICKED = 40 };
static uint32_t slow[TOKENS], fast[SLOTS][BLOCK];
static tersa_error err;

static tersa_block_cache_params params(uint32_t policy) {
  tersa_block_cache_params p;
  OK(tersa_block_cache_params_init(&p, sizeof p, &err));
  CHECK(p.policy == TERSA_BLOCKS_LFU && p.block_size == 16);
  p.policy = policy;
  p.max_copies = COPIES;
  p.n_slots = SLOTS;
  p.max_tokens = TOKENS;
  return p;
}

static tersa_block_cache_info inspect(const tersa_block_cache *cache) {
  tersa_block_cache_info info;
  OK(tersa_block_cache_info_init(&info, sizeof info, &err));
  OK(tersa_block_cache_inspect(cache, &info, &err));
  return info;
}

static void serves(uint32_t policy) {
  tersa_block_cache_params p = params(policy);
  tersa_block_cache *cache;
  OK(tersa_block_cache_create(&p, &cache, &err));
  memset(fast, 0xee, sizeof fast);
  uint32_t state = policy + 1;
  uint64_t hits = 0, copied = 0;
  for (int step = 0; step < STEPS; ++step) {
    OK(tersa_block_cache_begin(cache, &err));
    for (int head = 0; head < 2; ++head) {
      uint32_t tokens[PICKED], slots[PICKED];
      for (int i = 0; i < PICKED; ++i)
        tokens[i] = (uint32_t)((made_up(&state) + 128) % (i % 4 ? 8 : BLOCKS) * BLOCK + (made_up(&state) + 128) % BLOCK);
      OK(tersa_block_cache_look_up(cache, tokens, PICKED, slots, &err));
      for (int i = 0; i < PICKED; ++i) {
        if (slots[i] == TERSA_NONE) continue;
        ++hits;
        CHECK(slots[i] < SLOTS && fast[slots[i]][tokens[i] % BLOCK] == slow[tokens[i]]);
      }
    }
    tersa_block_copy copies[COPIES];
    size_t n;
    OK(tersa_block_cache_decide(cache, TOKENS - 5, copies, COPIES, &n, &err));
    CHECK(n <= COPIES);
    for (size_t i = 0; i < n; ++i) {
      CHECK(copies[i].block < BLOCKS - 1 && copies[i].slot < SLOTS);
      if (step % 9 == 4) {
        OK(tersa_block_cache_cancel(cache, &copies[i], &err));
      } else {
        memcpy(fast[copies[i].slot], slow + copies[i].block * BLOCK, sizeof fast[0]);
        OK(tersa_block_cache_complete(cache, &copies[i], &err));
      }
      EXPECT(TERSA_ERR_STATE, tersa_block_cache_complete(cache, &copies[i], &err));
      EXPECT(TERSA_ERR_STATE, tersa_block_cache_cancel(cache, &copies[i], &err));
    }
    copied += n;
    if (step == STEPS / 2) OK(tersa_block_cache_truncate(cache, TOKENS / 2, &err));
  }
  tersa_block_cache_info info = inspect(cache);
  CHECK(info.hits == hits && hits > STEPS && info.copies == copied && info.steps == STEPS);
  CHECK(info.lookups == STEPS * 2 * PICKED && info.n_slots == SLOTS && info.heap_bytes > 0);
  OK(tersa_block_cache_truncate(cache, 0, &err));
  CHECK(inspect(cache).steps == 0);
  tersa_block_cache_destroy(cache);
}

static void misuse(void) {
  tersa_block_cache_params p = params(TERSA_BLOCKS_LRU), wrong;
  tersa_block_cache *cache, *none;
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_params_init(NULL, sizeof p, &err));
  EXPECT(TERSA_ERR_STRUCT_SIZE, tersa_block_cache_params_init(&wrong, 8, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_create(NULL, &none, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_create(&p, NULL, &err));
#define WRONG(status, change)                                     \
  do {                                                            \
    wrong = p;                                                    \
    change;                                                       \
    EXPECT(status, tersa_block_cache_create(&wrong, &none, &err)); \
    CHECK(none == NULL);                                          \
  } while (0)
  WRONG(TERSA_ERR_STRUCT_SIZE, wrong.struct_size = 0);
  WRONG(TERSA_ERR_ARGUMENT, wrong.policy = 3);
  WRONG(TERSA_ERR_ARGUMENT, wrong.block_size = 12);
  WRONG(TERSA_ERR_ARGUMENT, wrong.block_size = 0);
  WRONG(TERSA_ERR_ARGUMENT, wrong.max_tokens = SIZE_MAX);
  OK(tersa_block_cache_create(&p, &cache, &err));
  uint32_t tokens[2] = {1, TOKENS}, slots[2];
  tersa_block_copy copies[COPIES];
  size_t n;
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_begin(NULL, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_look_up(NULL, tokens, 1, slots, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_look_up(cache, NULL, 1, slots, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_look_up(cache, tokens, 1, NULL, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_block_cache_look_up(cache, tokens, 2, slots, &err));
  EXPECT(TERSA_ERR_OVERLAP, tersa_block_cache_look_up(cache, tokens, 1, tokens, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_decide(NULL, 0, copies, COPIES, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_decide(cache, 0, NULL, COPIES, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_decide(cache, 0, copies, COPIES, NULL, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_block_cache_decide(cache, 0, copies, COPIES - 1, &n, &err));
  CHECK(n == COPIES);
  OK(tersa_block_cache_decide(cache, 0, copies, COPIES, &n, &err));
  CHECK(n == 0);
  tersa_block_copy made_up_copy = {1, 99, TERSA_NONE, 0, 7};
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_complete(NULL, &made_up_copy, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_complete(cache, NULL, &err));
  EXPECT(TERSA_ERR_STATE, tersa_block_cache_complete(cache, &made_up_copy, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_cancel(NULL, &made_up_copy, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_cancel(cache, NULL, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_truncate(NULL, 0, &err));
  tersa_block_cache_info info = inspect(cache);
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_info_init(NULL, sizeof info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_inspect(NULL, &info, &err));
  EXPECT(TERSA_ERR_NULL, tersa_block_cache_inspect(cache, NULL, &err));
  tersa_block_cache_destroy(cache);
  tersa_block_cache_destroy(NULL);
}

int main(void) {
  for (uint32_t t = 0; t < TOKENS; ++t) slow[t] = t * 2654435761u;
  misuse();
  serves(TERSA_BLOCKS_LFU);
  serves(TERSA_BLOCKS_LRU);
  serves(TERSA_BLOCKS_AGED);
  puts("block_cache: ok");
  return 0;
}
