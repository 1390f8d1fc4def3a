// Codecs through tersa.hpp, with exceptions: views of every kind, round trips, handles, failures.
#include "check.hpp"

#include <array>
#include <type_traits>

namespace {

constexpr std::size_t LAYERS = 2, TOKENS = 96, HEADS = 2, DIM = 64, BLOCK = 16, N = TOKENS * HEADS * DIM;
constexpr tersa::rows ROWS{TERSA_F32, HEADS, DIM};
constexpr tersa::range ALL_LAYERS{0, LAYERS}, ALL_TOKENS{0, TOKENS};

using tersa::const_kv;
using tersa::kv;

// One handle and nothing else; moved, never copied.
static_assert(sizeof(tersa::codec) == sizeof(void*) && sizeof(tersa::reader) == sizeof(void*));
static_assert(!std::is_copy_constructible_v<tersa::codec> && std::is_nothrow_move_constructible_v<tersa::codec>);
static_assert(std::is_nothrow_move_assignable_v<tersa::pool> && !std::is_copy_assignable_v<tersa::writer>);
static_assert(std::is_same_v<tersa::result<int>, int> && std::is_same_v<tersa::result<void>, void>);
// What is written to may be read, not the other way round.
static_assert(std::is_convertible_v<kv, const_kv> && !std::is_convertible_v<const_kv, kv>);
static_assert(std::is_convertible_v<std::vector<unsigned char>&, tersa::mutable_bytes>);
static_assert(std::is_convertible_v<const std::string&, tersa::bytes>);
static_assert(!std::is_convertible_v<const std::vector<std::byte>&, tersa::mutable_bytes>);
static_assert(!std::is_convertible_v<std::vector<float>&, tersa::bytes>);
static_assert(std::is_convertible_v<std::vector<std::uint32_t>&, tersa::span<const std::uint32_t>>);
static_assert(std::is_convertible_v<const std::array<void*, 3>&, tersa::span<void* const>>);
static_assert(std::is_convertible_v<tersa::span<int>, tersa::span<const int>>);
static_assert(!std::is_convertible_v<const std::vector<int>&, tersa::span<int>>);
static_assert(!std::is_convertible_v<std::vector<int>&, tersa::span<const unsigned>>);

tersa::codec_params params() {
  tersa::codec_params p;
  CHECK(p.n_layers == 1 && p.chunk_tokens == 256);
  p.n_layers = LAYERS;
  p.dtype_k = p.dtype_v = TERSA_F32;
  p.n_kv_heads = HEADS;
  p.head_dim_k = p.head_dim_v = DIM;
  p.chunk_tokens = 32;
  return p;
}

void spans() {
  int numbers[] = {1, 2, 3};
  tersa::span<int> s = numbers;
  CHECK(s.size() == 3 && s[2] == 3 && s.data() == numbers && !s.empty() && s.first(2).size() == 2);
  int sum = 0;
  for (int n : tersa::span<const int>(s)) sum += n;
  CHECK(sum == 6 && tersa::span<int>().empty());
}

void views() {
  const const_kv none;
  CHECK(none.get() == nullptr);
  std::vector<float> data(N);
  kv one(ROWS, TOKENS, data.data(), N * sizeof(float));
  // A view of one layer holds its pointer; copies hold their own.
  const const_kv copy = one;
  kv moved = std::move(one);
  one = kv();
  CHECK(copy.get()->pointers[0] == data.data() && moved.get()->pointers[0] == data.data());
  CHECK(copy.get()->pointers != moved.get()->pointers && copy.get()->n_pointers == 1);
  CHECK(one.get() == nullptr);
}

void round_trips() {
  const std::vector<float> k_data = made_up(LAYERS * N, 1), v_data = made_up(LAYERS * N, 2);
  std::vector<const void*> k_at, v_at;
  for (std::size_t l = 0; l < LAYERS; ++l) {
    k_at.push_back(&k_data[l * N]);
    v_at.push_back(&v_data[l * N]);
  }
  const const_kv k(ROWS, TOKENS, k_at, N * sizeof(float)), v(ROWS, TOKENS, v_at, N * sizeof(float));

  const tersa::codec codec = tersa::codec::create("k=had+lm4,v=raw", params());
  CHECK(codec.name() == "k=had+lm4,v=raw");
  tersa::workspace ws = tersa::workspace::create();
  ws.reserve(codec, TOKENS);
  std::vector<unsigned char> blob(codec.bound(LAYERS, TOKENS));
  blob.resize(codec.encode(k, v, ALL_LAYERS, ALL_TOKENS, blob, &ws));
  const std::vector<std::byte> again = codec.encode(k, v, ALL_LAYERS, ALL_TOKENS);
  CHECK(again.size() == blob.size() && std::memcmp(again.data(), blob.data(), blob.size()) == 0);

  const tersa::blob_info info = tersa::blob_info::of(blob);
  CHECK(info.n_layers == LAYERS && info.n_tokens == TOKENS && info.n_kinds == 2 && info.len_bytes == blob.size());

  // Values are exact; a range of tokens of one layer is what lies there in the whole.
  std::vector<float> k_back(LAYERS * N), v_back(LAYERS * N), part(8 * HEADS * DIM);
  std::vector<void*> k_to{&k_back[0], &k_back[N]}, v_to{&v_back[0], &v_back[N]};
  codec.decode(blob, ALL_LAYERS, ALL_TOKENS, kv(ROWS, TOKENS, k_to, N * sizeof(float)),
               kv(ROWS, TOKENS, v_to, N * sizeof(float)), 0, &ws);
  CHECK(v_back == v_data);
  codec.decode(blob, {1, 2}, {60, 68}, kv(ROWS, 8, part.data(), part.size() * sizeof(float)), {});
  CHECK(std::memcmp(part.data(), &k_back[N + 60 * HEADS * DIM], part.size() * sizeof(float)) == 0);

  // Pages in any order, and one pointer for each block.
  const std::vector<std::uint32_t> table{5, 3, 1, 0, 2, 4};
  std::vector<float> pool(LAYERS * N);
  std::vector<const void*> pool_at, block_at;
  for (std::size_t l = 0; l < LAYERS; ++l) {
    pool_at.push_back(&pool[l * N]);
    for (std::size_t b = 0; b < TOKENS / BLOCK; ++b) {
      const float* from = &k_data[l * N + b * BLOCK * HEADS * DIM];
      std::memcpy(&pool[l * N + table[b] * BLOCK * HEADS * DIM], from, BLOCK * HEADS * DIM * sizeof(float));
      block_at.push_back(from);
    }
  }
  const_kv paged(ROWS, TOKENS, pool_at, N * sizeof(float));
  paged.blocks(BLOCK, table, BLOCK * HEADS * DIM);
  CHECK(codec.encode(paged, v, ALL_LAYERS, ALL_TOKENS) == again);
  const_kv scattered(ROWS, TOKENS, block_at, BLOCK * HEADS * DIM * sizeof(float));
  scattered.blocks(BLOCK);
  CHECK(codec.encode(scattered, v, ALL_LAYERS, ALL_TOKENS) == again);
  // [head][token][dim].
  std::vector<float> heads_first(N);
  for (std::size_t t = 0; t < TOKENS; ++t)
    for (std::size_t h = 0; h < HEADS; ++h)
      std::memcpy(&heads_first[(h * TOKENS + t) * DIM], &v_data[(t * HEADS + h) * DIM], DIM * sizeof(float));
  const const_kv strided = const_kv(ROWS, TOKENS, heads_first.data(), N * sizeof(float)).strides(DIM, TOKENS * DIM);
  CHECK(codec.encode(const_kv(ROWS, TOKENS, k_at[0], N * sizeof(float)), strided, {0, 1}, ALL_TOKENS) ==
        codec.encode(const_kv(ROWS, TOKENS, k_at[0], N * sizeof(float)),
                     const_kv(ROWS, TOKENS, v_at[0], N * sizeof(float)), {0, 1}, ALL_TOKENS));

  // A codec that learns, saved and loaded.
  const tersa::codec learned = tersa::codec::create("pq:16x4", params(), k, v);
  const tersa::codec loaded = tersa::codec::load(learned.save());
  CHECK(loaded.name() == learned.name());
  const auto coded = learned.encode(k, v, ALL_LAYERS, ALL_TOKENS);
  loaded.decode(coded, ALL_LAYERS, ALL_TOKENS, kv(ROWS, TOKENS, k_to, N * sizeof(float)), {});

  // Failures.
  THROWS(TERSA_ERR_SPEC, tersa::codec::create("had+lm7", params()));
  THROWS(TERSA_ERR_NULL, tersa::codec::create("pq:16x4", params()));
  THROWS(TERSA_ERR_NULL, codec.encode(k, {}, ALL_LAYERS, ALL_TOKENS, blob));
  THROWS(TERSA_ERR_ARGUMENT, codec.encode(k, v, {1, 0}, ALL_TOKENS));
  THROWS(TERSA_ERR_ARGUMENT, codec.encode(k, v, {0, LAYERS + 1}, ALL_TOKENS));
  THROWS(TERSA_ERR_SHORT_BUFFER, codec.encode(k, v, ALL_LAYERS, ALL_TOKENS, tersa::mutable_bytes(blob.data(), 3)));
  THROWS(TERSA_ERR_CORRUPT, tersa::blob_info::of("no such bytes"));
  THROWS(TERSA_ERR_CODEC, learned.decode(blob, ALL_LAYERS, ALL_TOKENS, kv(ROWS, TOKENS, k_to, N * sizeof(float)), {}));
  blob.back() ^= 1;
  THROWS(TERSA_ERR_CORRUPT, codec.decode(blob, ALL_LAYERS, ALL_TOKENS, {}, kv(ROWS, TOKENS, v_to, N * sizeof(float))));
}

void handles() {
  tersa::codec empty;
  CHECK(!empty && empty.get() == nullptr);
  THROWS(TERSA_ERR_NULL, empty.name());
  tersa::codec a = tersa::codec::create("safe", params()), b = std::move(a);
  CHECK(!a && b && b.name() == "k=mean+had+lm4+ls,v=had+lm4+ls");
  b = tersa::codec::create("raw", params());
  CHECK(b.name() == "raw");
  a = std::move(b);
  tersa_codec* raw = a.release();
  CHECK(!a && raw != nullptr);
  b = tersa::codec(raw);
  CHECK(b.name() == "raw");
  std::vector<tersa::codec> many;
  for (int i = 0; i < 3; ++i) many.push_back(tersa::codec::create("raw", params()));
}

}  // namespace

int main() {
  CHECK(tersa::is_compatible());
  CHECK(tersa::cpu_lower_to(tersa_cpu_level()) == tersa_cpu_level());
  THROWS(TERSA_ERR_ARGUMENT, tersa::cpu_lower_to(99));
  spans();
  views();
  round_trips();
  handles();
  std::puts("codec: ok");
}
