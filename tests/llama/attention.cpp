// The attention of examples/llama with the switches of the evaluation, as a shared library for Python.
#include <cmath>
#include <numeric>

#include "attention.hpp"

namespace {

enum Way { LLAMA, DENSE, EXACT, INDEX };

class Switched : public Attention {
 public:
  using Attention::Attention;
  Way way = LLAMA;

 private:
  void attend(Head& head, const Step& step) const override {
    const size_t n = step.keys.n_tokens;
    if (way == INDEX) return Attention::attend(head, step);
    const size_t sinks = 32, window = 128;
    const size_t past = n - std::min(n, sinks), k = size_t(options.budget * double(past));
    if (way == DENSE || past < window + 1 + k) return attend_with(make_index(step).get(), head, step);
    // The best by true score, judged without the library: the softmax of each head over the middle, summed.
    const size_t middle = past - window - 1, dim = step.keys.dim, group = step.group;
    std::vector<float> key(dim), scores(group * middle), weights(middle, 0.0f);
    for (size_t i = 0; i < middle; ++i) {
      const auto* row = static_cast<const ggml_fp16_t*>(step.keys.data) + (sinks + i) * step.keys.row_stride;
      ggml_fp16_to_fp32_row(row, key.data(), int64_t(dim));
      for (size_t g = 0; g < group; ++g) {
        const float* q = &head.q[g * dim];
        float partial[16] = {};
        for (size_t j = 0; j < dim; j += 16)
          for (size_t x = 0; x < 16; ++x) partial[x] += q[j + x] * key[j + x];
        scores[g * middle + i] = step.scale * std::accumulate(partial, partial + 16, 0.0f);
      }
    }
    for (size_t g = 0; g < group; ++g) {
      float* s = &scores[g * middle];
      const float top = *std::max_element(s, s + middle);
      float sum = 0;
      for (size_t i = 0; i < middle; ++i) sum += s[i] = std::exp(s[i] - top);
      for (size_t i = 0; i < middle; ++i) weights[i] += s[i] / sum;
    }
    std::vector<uint32_t> order(middle);
    std::iota(order.begin(), order.end(), 0u);
    std::nth_element(order.begin(), order.begin() + ptrdiff_t(k), order.end(),
                     [&](uint32_t a, uint32_t b) { return weights[a] != weights[b] ? weights[a] > weights[b] : a < b; });
    order.resize(k);
    for (uint32_t& token : order) token += uint32_t(sinks);
    for (size_t i = 0; i < sinks; ++i) order.push_back(uint32_t(i));
    for (size_t i = sinks + middle; i < n; ++i) order.push_back(uint32_t(i));
    std::sort(order.begin(), order.end());
    // Blocks of one token: a list.
    Step chosen = step;
    for (tersa_view* view : {&chosen.keys, &chosen.values}) {
      view->n_tokens = order.size();
      view->block_size = 1;
      view->block_table = order.data();
      view->n_block_table = order.size();
      view->block_stride = view->row_stride;
    }
    attend_with(make_index(step).get(), head, chosen);
  }
};

}  // namespace

extern "C" {
void* attention_create(uint32_t n_ctx) { return static_cast<Attention*>(new Switched(n_ctx)); }
void attention_destroy(void* attention) { delete static_cast<Attention*>(attention); }
void attention_forget(void* attention) { static_cast<Attention*>(attention)->forget(); }
void attention_set(void* attention, int way, uint32_t preset, double budget, size_t min_context, int64_t prompt_batch) {
  auto* switched = static_cast<Switched*>(static_cast<Attention*>(attention));
  switched->way = static_cast<Way>(way);
  switched->options.on = way != LLAMA;
  switched->options.preset = preset;
  switched->options.budget = budget;
  switched->options.min_context = min_context;
  switched->options.prompt_batch = prompt_batch;
}
bool attention_eval(ggml_tensor* t, bool ask, void* attention) { return static_cast<Attention*>(attention)->see(t, ask); }
}
