#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What every CUDA kernel takes of a Hopper multiprocessor, as ptxas says: compiles kernels/cuda/*.cu
# with the flags of the preset cuda and writes docs/kernel_resources.md. Fails where registers spill.
# Needs nvcc 13, no GPU.
#
#   tests/bench/kernel_resources.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PATH=$PATH:/usr/local/cuda/bin
command -v nvcc > /dev/null || { echo "kernel_resources.sh: no nvcc on PATH" >&2; exit 2; }
report=docs/kernel_resources.md
cmake --preset cuda > /dev/null

# Of the targets, Hopper alone; the launcher and the output go.
commands=$(sed -n 's/^ *"command": "\(.* -c [^ ]*kernels\/cuda\/[^ ]*\.cu\) -o .*/\1/p' \
  build/cuda/compile_commands.json |
  sed -E 's/^[^ ]*ccache //; s/ --generate-code=arch=[^ ]*,code=\[(sm_8|compute_)[^ ]*//g; s/ -Xptxas=-Werror//g' |
  awk '{ print $NF "\t" $0 }' | sort | cut -f 2)

# One line a kernel: file, name, registers, static shared memory, stack, bytes stored and loaded.
table() {
  while read -r command; do
    file=$(basename "${command##* }")
    (cd build/cuda && eval "$command -o /dev/null -Xptxas=-v" 2>&1) | c++filt |
      awk -v file="$file" '
        function short(name) {
          gsub(/\(anonymous namespace\)::|_GLOBAL__N_[A-Za-z0-9_]*::|moe::|^void /, "", name)
          gsub(/unsigned int|[(](unsigned )?int[)]|[(]bool[)]/, "", name)
          depth = 0
          for (i = 1; i <= length(name); ++i) {  # the arguments begin at the first ( outside of < >
            c = substr(name, i, 1)
            depth += (c == "<") - (c == ">")
            if (c == "(" && depth == 0) return substr(name, 1, i - 1)
          }
          return name
        }
        /Compiling entry function/ {
          sub(/^[^\047]*\047/, ""); sub(/\047 for .*/, "")
          kernel = short($0)
        }
        / bytes stack frame/ && kernel != "" { stack = $1; stores = $5; loads = $9 }
        /: Used [0-9]+ registers/ && kernel != "" {
          match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
          shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH - 11) : 0
          printf "%s|%s|%d|%d|%d|%d|%d\n", file, kernel, registers, shared, stack, stores, loads
          kernel = ""
        }' | sort
  done <<< "$commands"
}

lines=$(table)
[ -n "$lines" ] || { echo "kernel_resources.sh: ptxas said nothing of any kernel" >&2; exit 1; }
{
  cat << END
# What the kernels take

Made by \`tests/bench/kernel_resources.sh\`, which fails where registers spill. $(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/nvcc \1/p'), for Hopper,
one row for each type a kernel is compiled for. Shared memory: static, in bytes; what a launch asks for
besides is in the kernel's source. Spills: bytes stored and loaded.

| file | kernel | registers | shared | stack | spills |
|---|---|---:|---:|---:|---:|
END
  echo "$lines" | awk -F '|' '{ printf "| %s | `%s` | %d | %d | %d | %d / %d |\n", $1, $2, $3, $4, $5, $6, $7 }'
} > "$report"

echo "$lines" | awk -F '|' '
  $6 + $7 > 0 { print $1 ": " $2 " spills " $6 " / " $7 " bytes"; spilled = 1 }
  { registers = $3 > registers ? $3 : registers }
  END { print NR " kernels, " registers " registers at most" (spilled ? "" : ", no spills"); exit spilled }'
