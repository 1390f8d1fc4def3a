#!/usr/bin/env bash
# Tokens a second of decode steps, dense and selecting, by length of the context: prompts of TEXT are run once and saved, then
# every kind of session is resumed in turns, ROUNDS times, and the best of them counts.
#   bench.sh MODEL.gguf TEXT [LENGTHS [ROUNDS [STEPS]]]
set -euo pipefail
model=$1 text=$2 lengths=${3:-"1024 2048 4096 8064"} rounds=${4:-3} steps=${5:-32}
cd "$(dirname "$0")"
generate=${GENERATE:-target/release/generate}
[ -x "$generate" ] || cargo build --release
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
kinds=("dense" "default 0.1" "default 0.05" "paper 0.1")
session() { echo "$dir/$1-$2.tersa"; }
options() { echo "--model $model --select $1${2:+ --budget $2}"; }

for n in $lengths; do
  for select in dense default paper; do
    # shellcheck disable=SC2046 # words are meant
    "$generate" $(options "$select") --prompt-file "$text" --prompt-tokens "$n" -n 1 --json \
      --save "$(session "$n" "$select")" | sed -E 's/.*"prompt_seconds":([0-9.]+).*/'"$n $select"' prompt: \1 s/'
  done
  for ((round = 0; round < rounds; round++)); do
    for kind in "${kinds[@]}"; do
      # shellcheck disable=SC2086,SC2046 # words are meant
      "$generate" $(options $kind) --resume "$(session "$n" ${kind% *})" -n $((steps + 1)) --ignore-eos --json |
        sed -E 's/.*"tokens_per_second":([0-9.]+).*/\1/' >> "$dir/$n-${kind/ /-}"
    done
  done
  for kind in "${kinds[@]}"; do
    echo "$n $kind: $(sort -g "$dir/$n-${kind/ /-}" | tail -1) tokens/s (slowest round $(sort -g "$dir/$n-${kind/ /-}" | head -1))"
  done
done
