// Tersa as the attention of an unmodified llama.cpp, through llama.cpp's public API only.
//
// llama.cpp shows every node of its graph to an eval callback before it computes anything. `Attention::eval` turns the
// flash-attention nodes of decoded tokens into custom nodes, which llama.cpp's CPU backend calls from all of its threads in the
// place of its own kernel. Keys and values stay in llama.cpp's cache; Tersa keeps codes of the keys.
//
// Prompts (batches of more than `prompt_batch` tokens) are attended to by llama.cpp; their last queries are noted for
// training. Written for ggml 0.25 and 0.26, f16 caches, one sequence that fills the cache from its first cell on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include "ggml.h"
#include "llama.h"
#include "tersa.h"

class Attention {
 public:
  struct Options {
    bool on = true;
    uint32_t preset = TERSA_INDEX_DEFAULT;
    double budget = 0.1;        // share of the context's tokens that a step attends to, besides sinks and window
    size_t min_context = 4096;  // dense below: there selecting costs more than it saves
    int64_t prompt_batch = 32;
    std::vector<int> dense_layers;
  };

  explicit Attention(uint32_t n_ctx) : n_ctx_(n_ctx), workspaces_(64) {}
  virtual ~Attention() = default;

  Options options;

  /** Before the context is made. Sliding-window layers are told by their smaller cache, and stay llama.cpp's. */
  void install(llama_context_params& params) {
    params.cb_eval = eval;
    params.cb_eval_user_data = this;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.swa_full = false;
  }

  /** Codebooks are trained anew when they are next needed. */
  void forget() {
    for (auto& [number, heads] : layers_)
      for (Head& head : heads) head.index.reset();
  }

  /** What llama.cpp calls for each node: before it is computed (`ask`) and, where that returned true, after. */
  bool see(ggml_tensor* t, bool ask) {
    Custom custom;
    std::memcpy(&custom, t->op_params, sizeof custom);
    const bool ours = t->op == GGML_OP_CUSTOM && custom.run == run;
    const ggml_tensor* cache = t->src[1] ? t->src[1]->view_src : nullptr;
    int layer;
    if ((t->op != GGML_OP_FLASH_ATTN_EXT && !ours) || !cache || std::sscanf(cache->name, "cache_k_l%d", &layer) != 1) return !ask;
    const auto& dense = options.dense_layers;
    if (t->src[1]->type != GGML_TYPE_F16 || t->src[2]->type != GGML_TYPE_F16 || cache->ne[1] < int64_t(n_ctx_) ||
        std::find(dense.begin(), dense.end(), layer) != dense.end())
      return !ask;
    std::vector<Head>& heads = layers_[layer];
    heads.resize(size_t(t->src[1]->ne[2]));
    if (!ask) return note(heads, t), true;
    const bool prompt = t->src[0]->ne[1] > options.prompt_batch;
    const bool want = options.on && !prompt;
    if (want && !ours) {  // before it is computed: make it ours
      std::memcpy(&t->op_params[SAVED], t->op_params, 16);
      custom = {run, GGML_N_TASKS_MAX, this};
      std::memcpy(t->op_params, &custom, sizeof custom);
      t->op_params[LAYER] = layer;
      t->op = GGML_OP_CUSTOM;
    } else if (!want && ours) {  // llama.cpp uses a graph again
      std::memcpy(t->op_params, &t->op_params[SAVED], 16);
      std::memset(&t->op_params[4], 0, sizeof t->op_params - 16);
      t->op = GGML_OP_FLASH_ATTN_EXT;
    }
    return prompt && options.on;
  }

 protected:
  struct Free {
    void operator()(tersa_index* index) const { tersa_index_destroy(index); }
    void operator()(tersa_workspace* workspace) const { tersa_workspace_destroy(workspace); }
  };
  using Index = std::unique_ptr<tersa_index, Free>;

  struct Head {
    Index index;
    size_t n_tokens = 0;         // that the index knows
    std::vector<float> queries;  // the prompt's last ones, [token][head of the group][dim]
    std::vector<float> q;        // the current token's
  };

  /** One token's attention in one KV head: the rows of all tokens up to it. */
  struct Step {
    tersa_view keys, values;
    size_t group;
    float scale;
    float* out;  // [group][dim]
    tersa_workspace* workspace;
  };

  static void check(tersa_status status, const tersa_error& err) {
    if (status != TERSA_OK) throw std::runtime_error(err.message);
  }

  /** An index of nothing, as the options say. */
  Index make_index(const Step& step) const {
    tersa_index_params params;
    tersa_index* index = nullptr;
    tersa_error err;
    check(tersa_index_params_init(&params, sizeof params, options.preset, step.keys.dim, &err), err);
    params.group = uint32_t(step.group);
    params.sinks = 32;
    params.window = {TERSA_TOKENS, 128, 0};
    params.budget = {TERSA_SHARE_OF_CONTEXT, 0, options.budget};
    check(tersa_index_create(&params, &index, &err), err);
    return Index(index);
  }

  /** An index that knows of no tokens attends to all of them. */
  void attend_with(const tersa_index* index, const Head& head, const Step& s) const {
    tersa_error err;
    check(tersa_index_attend(index, head.q.data(), s.scale, &s.keys, &s.values, s.out, nullptr, s.workspace, &err), err);
  }

  /** The whole of one decode step. */
  virtual void attend(Head& head, const Step& s) const {
    const size_t n = s.keys.n_tokens;
    if (n < options.min_context) return attend_with(make_index(s).get(), head, s);
    tersa_error err;
    if (!head.index) {
      head.index = make_index(s);
      head.n_tokens = 0;
    }
    tersa_view before = s.keys;
    before.n_tokens = n - 1;
    if (head.n_tokens >= n) {  // the sequence was cut
      check(tersa_index_truncate(head.index.get(), n - 1, &err), err);
    } else if (head.n_tokens < n - 1) {  // a prompt
      check(tersa_index_prefill(head.index.get(), &before, head.queries.data(), head.queries.size() / s.keys.dim, s.workspace, &err), err);
    }
    check(tersa_index_append(head.index.get(), &s.keys, s.workspace, &err), err);
    head.n_tokens = n;
    check(tersa_index_set_budget(head.index.get(), {TERSA_SHARE_OF_CONTEXT, 0, options.budget}, &err), err);
    attend_with(head.index.get(), head, s);
  }

 private:
  static constexpr uint16_t MASKED = 0xFC00;  // -inf in f16

  // ggml's record of a custom operator, at the start of op_params. Behind it we keep what was there, and the layer.
  struct Custom {
    ggml_custom_op_t run;
    int n_tasks;
    void* user;
  };
  static constexpr int SAVED = 8, LAYER = 12;

  static bool eval(ggml_tensor* t, bool ask, void* user) { return static_cast<Attention*>(user)->see(t, ask); }

  /** Copies the group's queries of one token. */
  static void copy_queries(const ggml_tensor* q, size_t head, size_t group, size_t token, float* out) {
    for (size_t j = 0; j < group; ++j)
      std::memcpy(out + j * size_t(q->ne[0]), static_cast<const char*>(q->data) + token * q->nb[1] + (head * group + j) * q->nb[2],
                  size_t(q->ne[0]) * sizeof(float));
  }

  /** The tokens that row `token` of the mask shows: the first ones. */
  static size_t visible(const ggml_tensor* mask, size_t token) {
    const auto* row = reinterpret_cast<const uint16_t*>(static_cast<const char*>(mask->data) + token * mask->nb[1]);
    const auto n = size_t(std::find(row, row + mask->ne[0], MASKED) - row);
    if (n == 0 || std::find_if(row + n, row + mask->ne[0], [](uint16_t x) { return x != MASKED; }) != row + mask->ne[0])
      throw std::runtime_error("a token sees other cells than the first ones");
    return n;
  }

  /** Notes the last queries of a prompt, at most 1024 for each KV head, for the transform of keys. */
  static void note(std::vector<Head>& heads, const ggml_tensor* t) {
    const ggml_tensor* q = t->src[0];
    const size_t dim = size_t(q->ne[0]), n = size_t(q->ne[1]), group = size_t(q->ne[2]) / heads.size();
    const size_t first = visible(t->src[3], 0) - 1, keep = 1024 / group * group * dim;
    for (size_t h = 0; h < heads.size(); ++h) {
      Head& head = heads[h];
      if (first == 0) head = Head();
      if (first < head.n_tokens) {
        tersa_error err;
        check(tersa_index_truncate(head.index.get(), first, &err), err);
        head.n_tokens = first;
      }
      const size_t old = head.queries.size();
      head.queries.resize(old + n * group * dim);
      for (size_t i = 0; i < n; ++i) copy_queries(q, h, group, i, &head.queries[old + i * group * dim]);
      if (head.queries.size() > keep) head.queries.erase(head.queries.begin(), head.queries.end() - ptrdiff_t(keep));
    }
  }

  static tersa_view rows(const ggml_tensor* t, size_t head, size_t n) {
    tersa_view view;
    tersa_error err;
    check(tersa_view_init(&view, sizeof view, &err), err);
    view.dim = uint32_t(t->ne[0]);
    view.n_tokens = n;
    view.data = static_cast<const char*>(t->data) + head * t->nb[2];
    view.row_stride = t->nb[1] / sizeof(uint16_t);
    view.len_bytes = (n - 1) * t->nb[1] + size_t(t->ne[0]) * sizeof(uint16_t);
    return view;
  }

  /** The node: called by each of llama.cpp's threads. A KV head has one thread. */
  static void run(ggml_tensor* dst, int thread, int n_threads, void* user) {
    auto& self = *static_cast<Attention*>(user);
    const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2], *mask = dst->src[3];
    std::vector<Head>& heads = self.layers_.at(dst->op_params[LAYER]);
    auto& workspace = self.workspaces_.at(size_t(thread));
    tersa_error err;
    if (!workspace) {
      tersa_workspace* made = nullptr;
      check(tersa_workspace_create(&made, &err), err);
      workspace.reset(made);
    }
    Step step;
    step.group = size_t(q->ne[2]) / heads.size();
    std::memcpy(&step.scale, &dst->op_params[SAVED], sizeof step.scale);
    step.workspace = workspace.get();
    for (size_t h = size_t(thread); h < heads.size(); h += size_t(n_threads)) {
      heads[h].q.resize(step.group * size_t(q->ne[0]));
      for (size_t token = 0; token < size_t(q->ne[1]); ++token) {
        const size_t n = visible(mask, token);
        step.keys = rows(k, h, n);
        step.values = rows(v, h, n);
        step.out = reinterpret_cast<float*>(static_cast<char*>(dst->data) + token * dst->nb[2] + h * step.group * dst->nb[1]);
        copy_queries(q, h, step.group, token, heads[h].q.data());
        self.attend(heads[h], step);
      }
    }
  }

  uint32_t n_ctx_;
  std::map<int, std::vector<Head>> layers_;
  std::vector<std::unique_ptr<tersa_workspace, Free>> workspaces_;  // one for each thread
};
