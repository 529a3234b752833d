#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# moe-data as a user calls it: build, inspect, verify, and what it says to bad input.
# Usage: moe_data_test.sh BUILD_FOLDER
set -u
moe_data=$(realpath "$1")/moe-data
repository=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failures=0

fail() { echo "FAILED: $1"; failures=$((failures + 1)); }

# expect CODE TEXT ARGUMENTS...: the exit code, and TEXT somewhere in the output.
expect() {
  local code=$1 text=$2 output
  shift 2
  output=$("$moe_data" "$@" 2>&1)
  local actual=$?
  [ $actual -eq "$code" ] || fail "exit code $actual instead of $code: moe-data $* ($output)"
  [[ $output == *"$text"* ]] || fail "no '$text' in the output of: moe-data $* ($output)"
}

printf '{"input_ids":[1,5,6]}\n{"input_ids":[]}\n{"input_ids":[1,7]}\n{"input_ids":[9]}\n' > ids.jsonl
gzip -k ids.jsonl

expect 0 'moe-data ' --version
expect 0 'Examples:' --help
expect 0 '--separator' build --help
expect 2 'moe-data: error: ' # no command
expect 2 'moe-data: error: ' build --nonsense
expect 2 '--output is required' build --tokenized ids.jsonl --vocab-size 10 --domain d

build=(build --tokenized ids.jsonl.gz --vocab-size 10 --domain numbers --output a.h5)
expect 0 '"documents":3,"tokens":6,"empty_documents":1,' "${build[@]}" --json
expect 2 'a.h5: exists; --force replaces it' "${build[@]}"
expect 0 'a.h5: 3 documents, 6 tokens' "${build[@]}" --force
expect 0 '"domain":"numbers","documents":3,"tokens":6,"vocabulary_size":10,' inspect a.h5 --json
expect 0 '{"input_ids":[1,7]}' inspect a.h5 --show 2
expect 0 'a.h5: good (3 documents, 6 tokens)' verify a.h5
expect 2 'ids.jsonl:3: token id 7 at position 1 is beyond the vocabulary of 7' \
  build --tokenized ids.jsonl --vocab-size 7 --domain d --output b.h5
[ ! -e b.h5 ] && [ ! -e b.h5.json ] || fail 'a failed build left a shard'

cat > talk.json << 'JSON'
[{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
 {"conversations": [{"from": "human", "value": "Bye"}]},
 {"instruction": "Add", "input": "1 1", "output": "2"}]
JSON
chat=(chat --input talk.json --tokenizer "$repository/tests/data/tokenizers/byte_level.json")
expect 2 'talk.json:2: no turn of the assistant' "${chat[@]}" --template plain --output talk.h5
expect 2 'no special token' "${chat[@]}" --template chatml --output talk.h5
expect 2 'no such chat template and no such file; templates here: alpaca, chatml, llama2' \
  "${chat[@]}" --template nonesuch --output talk.h5
expect 2 '--over-long goes with --max-tokens' \
  "${chat[@]}" --template plain --over-long drop --output talk.h5
[ ! -e talk.h5 ] && [ ! -e talk.h5.json ] || fail 'a failed chat left a shard'
expect 0 '"skipped_by_reason":{"no assistant turn":1}' \
  "${chat[@]}" --template plain --skip-bad --json --output talk.h5
expect 0 'talk.h5: good (2 documents' verify talk.h5
expect 0 '"learned":[0,0,' inspect talk.h5 --show 1
expect 0 'learned: ' stats talk.h5
expect 2 'says which tokens are learned, which other tokens cannot' retokenize --input talk.h5 \
  --from "$repository/tests/data/tokenizers/byte_level.json" \
  --to "$repository/tests/data/tokenizers/byte_fallback.json" --output other.h5
expect 2 "field 'text' is missing (choose another with --field)" \
  build --tokenized ids.jsonl --field text --vocab-size 10 --domain d --output b.h5
expect 2 'text needs a tokenizer' build --input ids.jsonl --domain d --output b.h5
expect 2 'give either --input (text) or --tokenized' \
  build --input ids.jsonl --tokenized ids.jsonl --domain d --output b.h5
head -c 30 ids.jsonl.gz > short.gz
expect 2 'truncated' build --tokenized short.gz --vocab-size 10 --domain d --output b.h5
expect 0 'b.h5: 1 documents' build --tokenized ids.jsonl --vocab-size 10 --domain d --output b.h5 \
  --held-out 2 --held-out-output c.h5
expect 0 'good (2 documents' verify b.h5 c.h5

# Shards out of shards.
expect 0 '"documents":3,"tokens":6,' merge --input b.h5 c.h5 --output m.h5 --json
expect 0 'cut-00002.h5: 1 documents' cut --input m.h5 --output cut.h5 --shard-documents 1
expect 2 'say how large' cut --input m.h5 --output cut2.h5
expect 0 's.h5: 3 documents, 6 tokens' shuffle --input cut-*.h5 --output s.h5 --seed 3
expect 0 '"duplicate_documents":3' stats m.h5 s.h5 --json
expect 0 'd: 3 documents, 6 tokens in 1 shards' stats m.h5
for i in 0 1 2; do
  tokens=$("$moe_data" inspect cut-0000$i.h5 --json | sed 's/.*"tokens":\([0-9]*\).*/\1/')
  echo "{\"shard\":\"m.h5\",\"document\":$i,\"tokens\":$tokens,\"loss\":$i.5}"
done > scores.jsonl
expect 0 'f.h5: 2 documents' select --input m.h5 --scores scores.jsonl --max-loss 1.5 --output f.h5
expect 2 'where one of s.h5 is expected' \
  select --input s.h5 --scores scores.jsonl --max-loss 1.5 --output g.h5

# Raw lines: sets become domains, rules remove, repetitions go, a broken line is named.
raw() { printf '{"text":"%s","meta":{"redpajama_set_name":"RedPajama%s"}}\n' "$1" "$2"; }
{ raw 'one two three' C4; raw 'four five six' Book; raw 'one two three' Book; raw 'x' C4; } > r.jsonl
printf 'rules:\n  - {domains: [en_c4], words: {min: 2}}\n' > rules.yaml
expect 0 'en_c4: 1 documents (1 bytes) left out: words < 2' \
  split-raw --input r.jsonl --output raw --filter rules.yaml --deduplicate --removed removed.jsonl.zst
expect 0 '"domain":"en_book","documents":1,"text_bytes":13,' \
  split-raw --input raw/en_book/00000.jsonl.zst --output raw/again --json
expect 0 '"documents":2,' split-raw --input removed.jsonl.zst --domain d --output raw/removed --json
echo '{' >> r.jsonl
expect 2 'r.jsonl:5: not valid JSON' split-raw --input r.jsonl --output raw2
expect 2 '--max-bad allows 0' split-raw --input r.jsonl --output raw2 --skip-bad --max-bad 0
expect 0 '"skipped_documents":1' split-raw --input r.jsonl --output raw2 --skip-bad --json
sed s/words/word/ rules.yaml > bad_rules.yaml
expect 2 'bad_rules.yaml:2' split-raw --input r.jsonl --output raw3 --filter bad_rules.yaml

mv c.h5.json hidden
expect 2 'its manifest c.h5.json is missing' verify c.h5
mv hidden c.h5.json
truncate -s -1 c.h5
expect 2 'c.h5: ' verify b.h5 c.h5
expect 2 'truncated' inspect c.h5

offset=$(sed -n 's/.*"token_offset": \([0-9]*\).*/\1/p' a.h5.json)
printf '\x02' | dd of=a.h5 bs=1 seek="$offset" conv=notrunc status=none
expect 2 'wrong checksum of tokens [0, 6)' verify a.h5

[ $failures -eq 0 ] && echo 'all good'
exit $((failures > 0))
