#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/support/make_model.py makes folders that the programs read from GGUF and llama2.c. Skipped
# (77) where MOE_PYTHON (default python3) has no numpy. Usage: make_model_test.sh BUILD_FOLDER
set -u
tests=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
source "$tests/../support/small_run.sh"
python=${MOE_PYTHON:-python3}
"$python" -c 'import numpy' 2> /dev/null || { echo "skipped: $python has no numpy"; exit 77; }
in_copy "$tests/../.." "$1"
must "$python" "$tests/make_model_test.py" "$tests/../support/make_model.py"

# a and b are one token, but digits stay alone.
printf '{"text": "a0 ab 22"}\n' > text.jsonl
must moe-data build --input text.jsonl --tokenizer folder --domain text --output text.h5
must moe-data inspect text.h5 --show 1
has '"input_ids":\[95,46,30,254,30,48,48\]' last.log
must moe-eval loss --model folder --data text.h5
must moe-split verify folder from-llama2c --data text.h5
has '^equal' last.log
echo passed
