#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Evaluation and generation as a user calls them, on small models of random weights.
# Usage: eval_test.sh BUILD_FOLDER
set -u
source "$(dirname "${BASH_SOURCE[0]}")/../support/small_run.sh"
export PATH="$(realpath "$1"):$PATH"
repository=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

ranks() { mpirun -n "$1" --oversubscribe --bind-to none "${@:2}"; }
# The program's standard output alone.
out_of() { "$@" 2> last.log || { cat last.log; fail "$*"; }; }

small_run || fail 'no small run'
sed -i 's/^parallel:.*//' run.yaml
must moe-train --config run.yaml
must moe-checkpoint export run --format llama-moe --output moe
must moe-data build --tokenized ids.jsonl --vocab-size 64 --domain others --output others.h5
sed 's/experts: 4, top_k: 2//; s/folder: run/folder: dense/' run.yaml > dense.yaml
must moe-train --config dense.yaml --set train.steps=2 --set train.checkpoint_every=2

# Loss: by domain, by document, and the same on two ranks.
one=$(out_of moe-eval loss --model run --data train.h5 others.h5 --per-document \
  --scores scores.jsonl --json)
two=$(out_of ranks 2 moe-eval loss --model run --data train.h5 others.h5 --per-document --json)
for key in '"domains":{"numbers":{"tokens":[0-9]+' '"others":{"tokens":' '^{"tokens":[0-9]+,"loss":'
do
  grep -Eq -- "$key" <<< "$one" || fail "loss does not say $key: $one"
done
loss() { sed 's/^{"tokens":\([0-9]*\),"loss":\([0-9]*\.[0-9]\{6\}\).*/\1 \2/' <<< "$1"; }
[ "$(loss "$one")" = "$(loss "$two")" ] || fail "two ranks differ: $one $two"
[ "$(wc -l < scores.jsonl)" -eq 800 ] || fail 'not one line for every document'
has '^{"shard":"others.h5","document":399,"tokens":60,"loss":[0-9.]+}$' scores.jsonl
refused 'scores needs --per-document' moe-eval loss --model run --data train.h5 --scores x

# Generation: the run and its export agree, a batch and one by one agree.
printf '{"prompt_ids":[1,7]}\n{"prompt_ids":[1,20,63]}\n{"prompt_ids":[5]}\n' > prompts.jsonl
ids() { sed 's/.*"ids":\[\([0-9,]*\)\],"prompt.*/\1/'; }
generate=(moe-generate --prompts prompts.jsonl --max-tokens 12 --ignore-eos --json)
alone=$(out_of "${generate[@]}" --model run | ids)
[ "$(wc -l <<< "$alone")" -eq 3 ] || fail "not three texts: $alone"
[ "$alone" = "$(out_of "${generate[@]}" --model moe | ids)" ] || fail 'the export writes differently'
[ "$alone" = "$(out_of "${generate[@]}" --model run --batch 2 | ids)" ] || fail 'a batch differs'
hot=(--temperature 1 --top-k-sampling 20 --top-p 0.9 --repetition-penalty 1.1 --seed 5)
drawn=$(out_of "${generate[@]}" --model run "${hot[@]}" | ids)
[ "$drawn" != "$alone" ] || fail 'nothing was drawn'
[ "$drawn" = "$(out_of "${generate[@]}" --model run "${hot[@]}" --batch 3 | ids)" ] ||
  fail 'a batch draws differently'
must moe-generate --model run --prompt-ids 1,7 --max-tokens 3 --ignore-eos --show-routing
has '^ token +id +layer 0 +layer 1' last.log
has '^ +1 +7 +[0-3],[0-3] +[0-3],[0-3]' last.log
has 'prompt: 2 tokens, .*; then 2 tokens one by one' last.log
must moe-generate --model dense --prompt-ids 1,7 --max-tokens 3 --show-routing
has 'no experts: the model is dense' last.log
refused 'prompts.jsonl:1: token id 64' \
  env sh -c 'echo "{\"prompt_ids\":[64]}" > prompts.jsonl; moe-generate --model run --prompts prompts.jsonl'
refused 'a top-p of 2' moe-generate --model run --prompt-ids 1 --top-p 2

# Chat and tasks of generation, with a tokenizer of more ids than the small run's model has.
tokenizer=$repository/tests/data/tokenizers/byte_level.json
printf '%s\n' '{"prompt": "Hi", "response": "Hello there, hello there."}' \
  '{"prompt": "Bye", "response": "See you."}' > talk.jsonl
must moe-data chat --input talk.jsonl --template plain --tokenizer "$tokenizer" --output talk.h5
sed 's/vocab_size: 64/vocab_size: 502/; s/train.h5/talk.h5/; s/sequence_length: 32/&\n  packing: best_fit\n  document_masks: true/
  s/numbers/chat/; s/folder: run/folder: talk/; s/max_positions: 32/max_positions: 64/' run.yaml > talk.yaml
must moe-train --config talk.yaml
answer=$(out_of moe-generate --model talk --tokenizer "$tokenizer" --chat plain --prompt Hi)
[ "$answer" = 'Hello there, hello there.' ] || fail "not the answer that was learned: '$answer'"
printf '%s\n' '{"prompt": "Bye"}' '{"messages": [{"role": "user", "content": "Hi"}]}' > asked.jsonl
out_of moe-generate --model talk --tokenizer "$tokenizer" --chat plain --prompts asked.jsonl --json \
  > answers.jsonl
has '"stopped":true,"text":"See you."' answers.jsonl
has '"stopped":true,"text":"Hello there, hello there."' answers.jsonl
printf '%s\n' '{"task_id": "T/0", "prompt": "Hi"}' '{"task_id": "T/1", "prompt": "Bye"}' > tasks.jsonl
must moe-generate --model talk --tokenizer "$tokenizer" --chat plain --task humaneval --samples 2 \
  --prompts tasks.jsonl --output completions.jsonl --batch 3
[ "$(wc -l < completions.jsonl)" -eq 4 ] || fail 'not two samples of two tasks'
[ "$(head -n 1 completions.jsonl)" = '{"task_id":"T/0","completion":"Hello there, hello there."}' ] ||
  fail "$(cat completions.jsonl)"
[ "$(sort completions.jsonl | uniq -c | tr -s ' ')" = ' 2 {"task_id":"T/0","completion":"Hello there, hello there."}
 2 {"task_id":"T/1","completion":"See you."}' ] || fail "not two of each: $(cat completions.jsonl)"
ask=(moe-generate --model talk --tokenizer "$tokenizer")
refused "templates here: alpaca, chatml" "${ask[@]}" --chat nonesuch --prompt Hi
refused "turn 1: the content of 'user' is empty" "${ask[@]}" --chat plain
refused 'system goes with --chat' "${ask[@]}" --prompt Hi --system Hush
refused 'go together' "${ask[@]}" --task humaneval --prompts tasks.jsonl
sed 's/shots: 8/shots: 0/' "$repository/configs/generation/gsm8k.yaml" > own.yaml
refused "tasks.jsonl:1: field 'question' is missing" \
  "${ask[@]}" --task own.yaml \
  --prompts tasks.jsonl --output none.jsonl

# Tasks: what needs no tokenizer's vocabulary is refused before the model is asked.
must moe-eval tasks --list
has 'arc_challenge +25 shots' last.log
refused 'nonsense: no such task and no such file; tasks here: .*arc_easy' \
  moe-eval tasks --model run --tasks nonsense
echo all good
