// Selection and sparse attention through tersa.hpp: a cache in pages, steps, forks, cuts, saving, spans of wrong lengths.
#include "check.hpp"

#include <cmath>

namespace {

constexpr std::size_t PROMPT = 400, MOST = 416, GROUP = 2, DIM = 64, BLOCK = 16;
const float SCALE = 0.125f;

tersa::view rows(const std::vector<float>& from, std::size_t n) {
  return {TERSA_F32, DIM, n, from.data(), from.size() * sizeof(float)};
}

}  // namespace

int main() {
  const std::vector<float> k = made_up(MOST * DIM, 6), v = made_up(MOST * DIM, 7), q = made_up(GROUP * DIM, 8);
  tersa::index_params params = tersa::index_params::of(TERSA_INDEX_DEFAULT, DIM, GROUP);
  CHECK(params.head_dim == DIM && params.group == GROUP && params.budget.unit == TERSA_SHARE_OF_CONTEXT);
  params.sinks = 4;
  params.window = tersa::tokens(16);
  params.budget = tersa::share_of_context(0.25);
  THROWS(TERSA_ERR_ARGUMENT, tersa::index_params::of(static_cast<tersa_index_preset>(99), DIM, GROUP));

  tersa::index index = tersa::index::create(params);
  tersa::workspace ws = tersa::workspace::create();
  ws.reserve(index, MOST, DIM);
  CHECK(index.group() == GROUP && index.head_dim() == DIM);
  const std::vector<float> prompt_q = made_up(32 * GROUP * DIM, 9);
  index.prefill(rows(k, PROMPT), prompt_q, &ws);
  for (std::size_t n = PROMPT + 1; n <= MOST; ++n) index.append(rows(k, n), &ws);
  tersa::index_info info = index.inspect();
  CHECK(info.trained == 1 && info.n_tokens == MOST && info.middle.start == 4 && info.window == 16 && info.budget > 50);

  std::uint32_t room[MOST];
  const auto selected = index.select(q, SCALE, room, &ws);
  CHECK(selected.size() == info.budget && selected[0] >= 4 && selected.data() == room);

  // What attends does is exact over sinks, selected tokens and tail.
  std::vector<float> out(GROUP * DIM), lse(GROUP), again(GROUP * DIM);
  index.attend(q, SCALE, rows(k, MOST), rows(v, MOST), out, lse, &ws);
  std::vector<bool> chosen(MOST);
  for (std::size_t t = 0; t < MOST; ++t) chosen[t] = t < info.middle.start || t >= info.middle.end;
  for (std::uint32_t t : selected) chosen[t] = true;
  for (std::size_t g = 0; g < GROUP; ++g) {
    double sum = 0, first = 0;
    for (std::size_t t = 0; t < MOST; ++t) {
      double s = 0;
      for (std::size_t i = 0; i < DIM; ++i) s += double{q[g * DIM + i]} * k[t * DIM + i];
      if (!chosen[t]) continue;
      sum += std::exp(s * SCALE);
      first += std::exp(s * SCALE) * v[t * DIM];
    }
    CHECK(std::fabs(lse[g] - std::log(sum)) < 1e-4 && std::fabs(out[g * DIM] - first / sum) < 1e-4);
  }

  // The same rows in pages.
  const std::vector<std::uint32_t> table = [] {
    std::vector<std::uint32_t> t(MOST / BLOCK);
    for (std::uint32_t b = 0; b < t.size(); ++b) t[b] = (b * 7 + 3) % static_cast<std::uint32_t>(t.size());
    return t;
  }();
  std::vector<float> k_pool(MOST * DIM), v_pool(MOST * DIM);
  for (std::size_t b = 0; b < table.size(); ++b) {
    std::memcpy(&k_pool[table[b] * BLOCK * DIM], &k[b * BLOCK * DIM], BLOCK * DIM * sizeof(float));
    std::memcpy(&v_pool[table[b] * BLOCK * DIM], &v[b * BLOCK * DIM], BLOCK * DIM * sizeof(float));
  }
  const tersa::view k_paged = rows(k_pool, MOST).blocks(BLOCK, table, BLOCK * DIM);
  index.attend(q, SCALE, k_paged, rows(v_pool, MOST).blocks(BLOCK, table, BLOCK * DIM), again, {}, &ws);
  CHECK(again == out && k_paged.with_tokens(9).n_tokens() == 9 && k_paged.dim() == DIM);

  // Saved and loaded, forked, cut: each goes on alone.
  tersa::index loaded = tersa::index::load(params, MOST, index.save());
  loaded.attend(q, SCALE, rows(k, MOST), rows(v, MOST), again);
  CHECK(again == out);
  tersa::index fork = index.fork();
  CHECK(fork.group() == GROUP);
  fork.truncate(300);
  fork.remove({100, 110});
  fork.recode({50, 60}, rows(k, 290));
  fork.refresh(rows(k, 290), {}, 2, &ws);
  fork.set_budget(tersa::tokens(7));
  CHECK(fork.inspect().n_tokens == 290 && fork.inspect().budget == 7 && index.inspect().n_tokens == MOST);
  THROWS(TERSA_ERR_CODEC, tersa::index::load(
                              [&] { auto other = params; other.nbits = 8; return other; }(), MOST, index.save()));

  // Spans that are too short or too long never reach the library.
  const auto attend = [&](std::size_t n_q, std::size_t n_out, std::size_t n_lse) {
    std::vector<float> some_q(n_q), some_out(n_out), some_lse(n_lse);
    return thrown([&] {
      index.attend(some_q, SCALE, rows(k, MOST), rows(v, MOST), some_out, some_lse);
      return 0;
    });
  };
  CHECK(attend(GROUP * DIM, GROUP * DIM, 0) == TERSA_OK && attend(GROUP * DIM, GROUP * DIM, GROUP) == TERSA_OK);
  CHECK(attend(GROUP * DIM - 1, GROUP * DIM, 0) == TERSA_ERR_ARGUMENT);
  CHECK(attend(GROUP * DIM, GROUP * DIM + 1, 0) == TERSA_ERR_ARGUMENT);
  CHECK(attend(GROUP * DIM, GROUP * DIM, GROUP - 1) == TERSA_ERR_ARGUMENT);
  THROWS(TERSA_ERR_ARGUMENT, index.select(tersa::span<const float>(q).first(3), SCALE, room));
  THROWS(TERSA_ERR_ARGUMENT, index.refresh(rows(k, MOST), tersa::span<const float>(q).first(3)));
  THROWS(TERSA_ERR_SHORT_BUFFER, index.select(q, SCALE, tersa::span<std::uint32_t>(room).first(2)));
  THROWS(TERSA_ERR_NULL, index.append({}));
  THROWS(TERSA_ERR_NULL, tersa::index().inspect());
  std::puts("index: ok");
}
