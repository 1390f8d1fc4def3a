// Background jobs through tersa.hpp: a full queue, waiting, cancelling, failures of jobs, destruction with work left.
#include "check.hpp"

#include <algorithm>

namespace {

constexpr std::size_t TOKENS = 256, DIM = 64, JOBS = 6, N = TOKENS * DIM;
constexpr tersa::rows ROWS{TERSA_F32, 1, DIM};
constexpr tersa::range LAYER{0, 1}, ALL{0, TOKENS};

}  // namespace

int main() {
  using namespace std::chrono_literals;
  tersa::codec_params p;
  p.dtype_k = TERSA_F32;
  p.n_kv_heads = 1;
  p.head_dim_k = DIM;
  const tersa::codec codec = tersa::codec::create("lossless", p);
  const std::size_t bound = codec.bound(1, TOKENS);
  const std::vector<float> data = made_up(JOBS * N, 4);
  std::vector<float> back(JOBS * N);
  std::vector<std::vector<std::byte>> blobs(JOBS, std::vector<std::byte>(bound));

  tersa::pool_params params;
  params.n_threads = 2;
  params.capacity = JOBS;
  const tersa::pool pool = tersa::pool::create(params);
  CHECK(pool.event_fd() >= 0);
  tersa::completion room[JOBS];
  CHECK(pool.poll(room).empty() && pool.wait(room).empty() && pool.wait(room, 1ms).empty());

  const auto rows = [&](std::size_t j) { return tersa::const_kv(ROWS, TOKENS, &data[j * N], N * sizeof(float)); };
  for (std::size_t j = 0; j < JOBS; ++j) CHECK(pool.encode(codec, rows(j), {}, LAYER, ALL, blobs[j], j));
  // Nothing was taken: full, which is an answer and no failure.
  CHECK(!pool.encode(codec, rows(0), {}, LAYER, ALL, blobs[0]));
  THROWS(TERSA_ERR_SHORT_BUFFER, pool.encode(codec, rows(0), {}, LAYER, ALL, tersa::mutable_bytes(blobs[0].data(), 1)));
  std::size_t left = JOBS;
  while (left > 0)
    for (const tersa::completion& done : pool.wait(room)) {
      blobs[done.user_data].resize(tersa::written(done));
      --left;
    }
  CHECK(blobs[3] == codec.encode(rows(3), {}, LAYER, ALL));

  for (std::size_t j = 0; j < JOBS; ++j)
    CHECK(pool.decode(codec, blobs[j], LAYER, ALL, tersa::kv(ROWS, TOKENS, &back[j * N], N * sizeof(float)), {}, 0, j));
  for (left = JOBS; left > 0;) left -= pool.wait(room, 1h).size();
  CHECK(back == data);

  // Damage is the failure of one job.
  blobs[1].back() ^= std::byte{1};
  CHECK(pool.decode(codec, blobs[1], LAYER, ALL, tersa::kv(ROWS, TOKENS, &back[0], N * sizeof(float)), {}));
  const auto done = pool.wait(room);
  CHECK(done.size() == 1);
  THROWS(TERSA_ERR_CORRUPT, tersa::written(done[0]));
  CHECK(!pool.cancel(done[0].job));

  // Destroyed with work in it.
  tersa::pool busy = tersa::pool::create();
  for (auto& blob : blobs) blob.resize(bound);
  for (std::size_t j = 0; j < JOBS; ++j) {
    const auto job = busy.encode(codec, rows(j), {}, LAYER, ALL, blobs[j]);
    if (j + 1 == JOBS) (void)busy.cancel(*job);
  }
  busy = tersa::pool();
  std::puts("pool: ok");
}
