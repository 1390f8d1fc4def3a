// A text goes on: llama.cpp runs the model, Tersa chooses which tokens its attention reads.
//
// usage: generate MODEL.gguf PROMPT.txt [--tokens N] [--context N] [--budget SHARE] [--threads N] [--off]
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "attention.hpp"

namespace {

using Seconds = std::chrono::duration<double>;

/** Decodes tokens that follow those of the context and gives the likeliest next one. */
llama_token decode(llama_context* ctx, std::vector<llama_token>& tokens) {
  const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
  const auto n_batch = size_t(llama_n_batch(ctx));
  for (size_t at = 0; at < tokens.size(); at += n_batch) {
    const size_t n = std::min(n_batch, tokens.size() - at);
    if (llama_decode(ctx, llama_batch_get_one(&tokens[at], int32_t(n))) != 0) throw std::runtime_error("llama_decode failed");
  }
  const float* logits = llama_get_logits_ith(ctx, -1);
  return llama_token(std::max_element(logits, logits + n_vocab) - logits);
}

void generate(int argc, char** argv) {
  uint32_t n_new = 64, n_ctx = 8192;
  int threads = 1;
  Attention::Options options;
  for (int i = 3; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--off") options.on = false;
    else if (i + 1 == argc) throw std::runtime_error(word + " needs a number");
    else if (word == "--tokens") n_new = uint32_t(std::atoi(argv[++i]));
    else if (word == "--context") n_ctx = uint32_t(std::atoi(argv[++i]));
    else if (word == "--budget") options.budget = std::atof(argv[++i]);
    else if (word == "--threads") threads = std::atoi(argv[++i]);
    else throw std::runtime_error("no such option: " + word);
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  std::unique_ptr<llama_model, void (*)(llama_model*)> model(llama_model_load_from_file(argv[1], model_params), llama_model_free);
  if (!model) throw std::runtime_error(std::string(argv[1]) + ": no model");

  Attention attention(n_ctx);
  attention.options = options;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = n_ctx;
  params.n_threads = params.n_threads_batch = threads;
  attention.install(params);
  std::unique_ptr<llama_context, void (*)(llama_context*)> ctx(llama_init_from_model(model.get(), params), llama_free);
  if (!ctx) throw std::runtime_error("no context");

  std::ifstream file(argv[2]);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  std::vector<llama_token> tokens(text.size() + 8);
  const int n = llama_tokenize(vocab, text.data(), int32_t(text.size()), tokens.data(), int32_t(tokens.size()), true, false);
  if (n <= 0) throw std::runtime_error(std::string(argv[2]) + ": no text");
  tokens.resize(std::min(size_t(n), size_t(n_ctx - n_new)));

  const auto start = std::chrono::steady_clock::now();
  std::vector<llama_token> next{decode(ctx.get(), tokens)};
  const auto decoding = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < n_new; ++i) {
    char piece[64];
    const int len = llama_token_to_piece(vocab, next[0], piece, sizeof piece, 0, false);
    std::cout.write(piece, std::max(len, 0)).flush();
    next[0] = decode(ctx.get(), next);
  }
  const auto end = std::chrono::steady_clock::now();
  std::cerr << "\n" << tokens.size() << " tokens of prompt in " << Seconds(decoding - start).count() << " s, " << n_new << " more in "
            << Seconds(end - decoding).count() << " s\n";
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: generate MODEL.gguf PROMPT.txt [--tokens N] [--context N] [--budget SHARE] [--threads N] [--off]");
  generate(argc, argv);
} catch (const std::exception& e) {
  std::cerr << e.what() << "\n";
  return 1;
}
