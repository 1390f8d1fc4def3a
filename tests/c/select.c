/* Exact selection: top-k, groups, top-p, thresholds; every misuse that can be seen. */
#include <math.h>

#include "check.h"

enum { N = 5000, K = 100, GROUP = 3 };
static float scores[GROUP * N];
static uint16_t coarse[N];
static uint32_t tokens[N];
static tersa_error err;

static int better(double a, size_t i, double b, size_t j) { return a > b || (a == b && i < j); }

/* `tokens` are `n` rising indices, each better than every index that is left out. */
static void best(const double *of, size_t n) {
  static uint8_t in[N];
  memset(in, 0, sizeof in);
  size_t worst = tokens[0];
  for (size_t i = 0; i < n; ++i) {
    CHECK(tokens[i] < N && (i == 0 || tokens[i] > tokens[i - 1]));
    in[tokens[i]] = 1;
    if (better(of[worst], worst, of[tokens[i]], tokens[i])) worst = tokens[i];
  }
  for (size_t i = 0; i < N; ++i) CHECK(in[i] || better(of[worst], worst, of[i], i));
}

static void selects(tersa_workspace *ws) {
  static double exact[N];
  size_t n;
  for (int i = 0; i < N; ++i) exact[i] = coarse[i];
  OK(tersa_top_k_u16(coarse, N, K, tokens, N, &n, ws, &err));
  CHECK(n == K);
  best(exact, n);
  for (int i = 0; i < N; ++i) exact[i] = scores[i];
  OK(tersa_top_k_f32(scores, N, K, NULL, 0, &n, ws, &err));
  CHECK(n == K);
  OK(tersa_top_k_f32(scores, N, K, tokens, K, &n, ws, &err));
  CHECK(n == K);
  best(exact, n);
  OK(tersa_top_k_f32(scores, N, N + 7, tokens, N, &n, ws, &err));
  CHECK(n == N && tokens[N - 1] == N - 1);
  OK(tersa_top_k_f32(scores, 0, K, tokens, N, &n, ws, &err));
  CHECK(n == 0);
  OK(tersa_top_k_f32(NULL, 0, 0, NULL, 0, &n, NULL, &err));

  /* One head is its own order, and so are equal heads. */
  OK(tersa_group_top_k_f32(TERSA_GROUP_SOFTMAX_SUM, scores, 1, N, 0.1f, K, tokens, K, &n, ws, &err));
  CHECK(n == K);
  best(exact, n);
  static float equal[GROUP * N];
  for (int g = 0; g < GROUP; ++g) memcpy(equal + g * N, scores, sizeof scores / GROUP);
  OK(tersa_group_top_k_f32(TERSA_GROUP_LOGIT_SUM, equal, GROUP, N, 0.125f, K, tokens, K, &n, ws, &err));
  best(exact, n);
  /* The greatest sums of softmax weights; what lies within rounding of the edge may go either way. */
  static double sum[N];
  for (int g = 0; g < GROUP; ++g) {
    double all = 0;
    for (int i = 0; i < N; ++i) all += exp(0.05 * scores[g * N + i]);
    for (int i = 0; i < N; ++i) sum[i] += exp(0.05 * scores[g * N + i]) / all;
  }
  OK(tersa_group_top_k_f32(TERSA_GROUP_SOFTMAX_SUM, scores, GROUP, N, 0.05f, K, tokens, K, &n, ws, &err));
  double least = INFINITY;
  static uint8_t in[N];
  for (size_t i = 0; i < n; ++i) in[tokens[i]] = 1;
  for (int i = 0; i < N; ++i)
    if (in[i] && sum[i] < least) least = sum[i];
  for (int i = 0; i < N; ++i) CHECK(in[i] || sum[i] <= least * (1 + 1e-5));

  /* The fewest with a share of the weight. */
  const float weights[5] = {1, 4, -3, 2, 4};
  OK(tersa_top_p(weights, 5, 0.5f, tokens, 5, &n, ws, &err));
  CHECK(n == 2 && tokens[0] == 1 && tokens[1] == 4);
  OK(tersa_top_p(weights, 5, 0.3f, tokens, 5, &n, ws, &err));
  CHECK(n == 1 && tokens[0] == 1);
  OK(tersa_top_p(weights, 5, 1, NULL, 0, &n, ws, &err));
  CHECK(n == 4);
  OK(tersa_top_p(weights, 5, 0, tokens, 5, &n, NULL, &err));
  CHECK(n == 0);

  OK(tersa_at_least_f32(weights, 5, 2, tokens, 5, &n, &err));
  CHECK(n == 3 && tokens[0] == 1 && tokens[1] == 3 && tokens[2] == 4);
  OK(tersa_at_least_f32(weights, 5, NAN, tokens, 5, &n, &err));
  CHECK(n == 0);
  const uint16_t small[4] = {3, 0, 5, 3};
  OK(tersa_at_least_u16(small, 4, 3, NULL, 0, &n, &err));
  CHECK(n == 3);
  OK(tersa_at_least_u16(small, 4, 3, tokens, 3, &n, &err));
  CHECK(n == 3 && tokens[0] == 0 && tokens[1] == 2 && tokens[2] == 3);
}

static void misuse(tersa_workspace *ws) {
  size_t n;
  EXPECT(TERSA_ERR_NULL, tersa_top_k_u16(NULL, N, K, tokens, N, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_top_k_u16(coarse, N, K, NULL, N, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_top_k_u16(coarse, N, K, tokens, N, NULL, ws, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_top_k_u16(coarse, N, K, tokens, K - 1, &n, ws, &err));
  CHECK(n == K);
  EXPECT(TERSA_ERR_OVERLAP, tersa_top_k_u16((uint16_t *)tokens, N, K, tokens, N, &n, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_top_k_u16((uint16_t *)((char *)coarse + 1), 9, K, tokens, N, &n, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_top_k_u16(coarse, SIZE_MAX, K, tokens, N, &n, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_top_k_u16(coarse, N, K, tokens, N, &n, (tersa_workspace *)((char *)ws + 1), &err));
  EXPECT(TERSA_ERR_NULL, tersa_top_k_f32(NULL, N, K, tokens, N, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_top_k_f32(scores, N, K, NULL, N, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_top_k_f32(scores, N, K, tokens, N, NULL, ws, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_top_k_f32(scores, N, K, tokens, 1, &n, ws, &err));
  EXPECT(TERSA_ERR_OVERLAP, tersa_top_k_f32(scores, N, K, (uint32_t *)scores + N - 1, K, &n, ws, &err));
#define GROUPED(rule, scores, group, n_scores, scale, tokens, capacity, n) \
  tersa_group_top_k_f32(rule, scores, group, n_scores, scale, K, tokens, capacity, n, ws, &err)
  EXPECT(TERSA_ERR_ARGUMENT, GROUPED(3, scores, GROUP, N, 1, tokens, K, &n));
  EXPECT(TERSA_ERR_ARGUMENT, GROUPED(0, scores, 0, N, 1, tokens, K, &n));
  EXPECT(TERSA_ERR_ARGUMENT, GROUPED(0, scores, 257, N, 1, tokens, K, &n));
  EXPECT(TERSA_ERR_ARGUMENT, GROUPED(0, scores, GROUP, SIZE_MAX / 2, 1, tokens, K, &n));
  EXPECT(TERSA_ERR_ARGUMENT, GROUPED(0, scores, GROUP, N, -1, tokens, K, &n));
  EXPECT(TERSA_ERR_ARGUMENT, GROUPED(0, scores, GROUP, N, INFINITY, tokens, K, &n));
  EXPECT(TERSA_ERR_NULL, GROUPED(0, NULL, GROUP, N, 1, tokens, K, &n));
  EXPECT(TERSA_ERR_NULL, GROUPED(0, scores, GROUP, N, 1, NULL, K, &n));
  EXPECT(TERSA_ERR_NULL, GROUPED(0, scores, GROUP, N, 1, tokens, K, NULL));
  EXPECT(TERSA_ERR_SHORT_BUFFER, GROUPED(0, scores, GROUP, N, 1, tokens, K - 1, &n));
  EXPECT(TERSA_ERR_OVERLAP, GROUPED(0, scores, GROUP, N, 1, (uint32_t *)scores, K, &n));
  EXPECT(TERSA_ERR_NULL, tersa_top_p(NULL, 5, 1, tokens, 5, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_top_p(scores, 5, 1, NULL, 5, &n, ws, &err));
  EXPECT(TERSA_ERR_NULL, tersa_top_p(scores, 5, 1, tokens, 5, NULL, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_top_p(scores, 5, 1.5f, tokens, 5, &n, ws, &err));
  EXPECT(TERSA_ERR_ARGUMENT, tersa_top_p(scores, 5, NAN, tokens, 5, &n, ws, &err));
  const float bad[2] = {1, INFINITY}, good[2] = {1, 1};
  EXPECT(TERSA_ERR_ARGUMENT, tersa_top_p(bad, 2, 1, tokens, 5, &n, ws, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_top_p(good, 2, 1, tokens, 1, &n, ws, &err));
  CHECK(n == 2);
  EXPECT(TERSA_ERR_NULL, tersa_at_least_u16(NULL, 1, 0, tokens, 1, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_at_least_u16(coarse, 1, 0, NULL, 1, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_at_least_u16(coarse, 1, 0, tokens, 1, NULL, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_at_least_u16(coarse, 2, 0, tokens, 1, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_at_least_f32(NULL, 1, 0, tokens, 1, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_at_least_f32(scores, 1, -INFINITY, NULL, 1, &n, &err));
  EXPECT(TERSA_ERR_NULL, tersa_at_least_f32(scores, 1, 0, tokens, 1, NULL, &err));
  EXPECT(TERSA_ERR_SHORT_BUFFER, tersa_at_least_f32(scores, 2, -INFINITY, tokens, 1, &n, &err));
  EXPECT(TERSA_ERR_OVERLAP, tersa_at_least_f32(scores, 2, 0, (uint32_t *)scores, 2, &n, &err));
}

int main(void) {
  uint32_t state = 5;
  for (int i = 0; i < GROUP * N; ++i) scores[i] = (float)made_up(&state) + (float)made_up(&state) / 128;
  for (int i = 0; i < N; ++i) coarse[i] = (uint16_t)((made_up(&state) + 128) * 7);
  tersa_workspace *ws;
  OK(tersa_workspace_create(&ws, &err));
  misuse(ws);
  selects(ws);
  tersa_workspace_destroy(ws);
  puts("select: ok");
  return 0;
}
