// Exact attention and selection, a tier of memory, and indexes in containers, through tersa.hpp.
#include "check.hpp"

#include <cmath>

namespace {

constexpr std::size_t TOKENS = 200, GROUP = 2, DIM = 64;
const float SCALE = 0.125f;

bool near(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::fabs(a[i] - b[i]) > 1e-5f) return false;
  return a.size() == b.size();
}

void attention() {
  const std::vector<float> k = made_up(TOKENS * DIM, 1), v = made_up(TOKENS * DIM, 2), q = made_up(GROUP * DIM, 3);
  const tersa::view keys(TERSA_F32, DIM, TOKENS, k.data(), k.size() * sizeof(float));
  const tersa::view values(TERSA_F32, DIM, TOKENS, v.data(), v.size() * sizeof(float));
  tersa::workspace ws = tersa::workspace::create();
  std::vector<float> all(GROUP * DIM), lse(GROUP), out(GROUP * DIM), sum(GROUP);
  tersa::attend(q, GROUP, SCALE, keys, values, tersa::range{0, TOKENS}, all, lse, &ws);

  // A list of all tokens, and two parts merged, are the same.
  std::vector<std::uint32_t> list(TOKENS);
  for (std::uint32_t t = 0; t < TOKENS; ++t) list[t] = t;
  tersa::attend(q, GROUP, SCALE, keys, values, list, out, {}, &ws);
  CHECK(near(out, all));
  std::vector<float> part_out(2 * GROUP * DIM), part_lse(2 * GROUP);
  for (std::size_t p = 0; p < 2; ++p)
    tersa::attend(q, GROUP, SCALE, keys, values, tersa::range{p * 70, p == 0 ? 70 : TOKENS},
                  tersa::span<float>(&part_out[p * GROUP * DIM], GROUP * DIM),
                  tersa::span<float>(&part_lse[p * GROUP], GROUP), &ws);
  tersa::attend_merge(GROUP, DIM, part_out, part_lse, out, sum, &ws);
  CHECK(near(out, all) && near(sum, lse));

  // Exact selection: the best token by score is among the chosen.
  std::vector<float> scores(GROUP * TOKENS);
  tersa::attend_scores(q, GROUP, keys, {0, TOKENS}, scores);
  std::uint32_t room[TOKENS];
  const auto chosen = tersa::group_top_k(TERSA_GROUP_MAX, scores, GROUP, SCALE, 20, room, &ws);
  CHECK(chosen.size() == 20 && chosen[0] < chosen[19]);

  THROWS(TERSA_ERR_ARGUMENT, tersa::attend(q, GROUP + 1, SCALE, keys, values, tersa::range{0, 1}, out));
  THROWS(TERSA_ERR_ARGUMENT, tersa::attend(q, GROUP, SCALE, keys, values, list, tersa::span<float>(out).first(3)));
  THROWS(TERSA_ERR_ARGUMENT, tersa::attend_merge(GROUP, DIM, part_out, tersa::span<float>(part_lse).first(3), out));
  THROWS(TERSA_ERR_ARGUMENT, tersa::attend_scores(q, GROUP, keys, {0, TOKENS - 1}, scores));
  THROWS(TERSA_ERR_ARGUMENT, tersa::group_top_k(TERSA_GROUP_MAX, tersa::span<const float>(scores).first(3), 2, 1, 1, room));
}

void selection() {
  const std::vector<float> scores{1, 5, 3, 5, 2};
  const std::vector<std::uint16_t> codes{1, 5, 3, 5, 2};
  std::uint32_t room[5];
  const auto is = [](tersa::span<std::uint32_t> got, std::vector<std::uint32_t> want) {
    return std::vector<std::uint32_t>(got.begin(), got.end()) == want;
  };
  CHECK(is(tersa::top_k(scores, 3, room), {1, 2, 3}) && is(tersa::top_k(codes, 1, room), {1}));
  CHECK(is(tersa::at_least(scores, 3, room), {1, 2, 3}) && is(tersa::at_least(codes, 5, room), {1, 3}));
  CHECK(is(tersa::top_p(scores, 0.6f, room), {1, 3}));
  THROWS(TERSA_ERR_SHORT_BUFFER, tersa::top_k(scores, 3, tersa::span<std::uint32_t>(room).first(2)));
}

void tier() {
  tersa::block_cache_params params;
  CHECK(params.block_size == 16 && params.max_copies == 16);
  params.n_slots = 2;
  params.max_tokens = 256;
  params.policy = TERSA_BLOCKS_LRU;
  tersa::block_cache cache = tersa::block_cache::create(params);
  const std::vector<std::uint32_t> tokens{3, 4, 40};
  std::vector<std::uint32_t> slots(3);
  tersa::block_copy copies[16];
  cache.begin();
  cache.look_up(tokens, slots);
  CHECK(slots[0] == TERSA_NONE && slots[2] == TERSA_NONE);
  const auto plan = cache.decide(256, copies);
  CHECK(plan.size() == 2 && plan[0].block == 0 && plan[1].block == 2 && plan[0].evicted == TERSA_NONE);
  cache.complete(plan[0]);
  cache.cancel(plan[1]);
  THROWS(TERSA_ERR_STATE, cache.complete(plan[1]));
  cache.begin();
  cache.look_up(tokens, slots);
  CHECK(slots[0] == plan[0].slot && slots[1] == slots[0] && slots[2] == TERSA_NONE);
  (void)cache.decide(256, copies);
  CHECK(cache.inspect().hits == 2 && cache.inspect().steps == 2);
  cache.truncate(0);
  THROWS(TERSA_ERR_ARGUMENT, cache.look_up(tokens, tersa::span<std::uint32_t>(slots).first(1)));
}

void container(const std::string& path) {
  const std::vector<float> k = made_up(TOKENS * DIM, 1);
  const tersa::view keys(TERSA_F32, DIM, TOKENS, k.data(), k.size() * sizeof(float));
  tersa::index_params params = tersa::index_params::of(TERSA_INDEX_DEFAULT, DIM, GROUP);
  params.sinks = 0;
  params.window = tersa::tokens(8);
  tersa::index index = tersa::index::create(params);
  index.prefill(keys);
  tersa::codec_params cp;
  cp.dtype_k = TERSA_F32;
  cp.n_kv_heads = 1;
  cp.head_dim_k = DIM;
  tersa::writer writer = tersa::writer::create(path);
  const tersa::codec codec = tersa::codec::create("lossless", cp);
  const auto stream = writer.add_stream({5, TERSA_K}, codec, 0);
  writer.append(stream, tersa::const_kv({TERSA_F32, 1, DIM}, TOKENS, k.data(), k.size() * sizeof(float)), {0, TOKENS});
  writer.add_index(5, 0, index);
  writer.finish();
  const tersa::reader reader = tersa::reader::open(path);
  const auto loaded = tersa::index::load(reader, 5, 0, params, TOKENS);
  CHECK(loaded && loaded->save() == index.save() && loaded->group() == GROUP);
  CHECK(!tersa::index::load(reader, 6, 0, params, TOKENS));
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 2);
  attention();
  selection();
  tier();
  container(std::string(argv[1]) + "/cache.tersa");
  std::puts("select: ok");
}
