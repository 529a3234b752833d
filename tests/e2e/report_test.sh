#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# moe-report on real runs: its numbers, its errors, and its page as headless Chromium opens it: no
# script error, every chart drawn, the values below a pointer. The browser's part is left out, and
# the test skipped (77), where no chromium is found.
# Usage: report_test.sh BUILD_FOLDER
set -u
source "$(dirname "${BASH_SOURCE[0]}")/../support/small_run.sh"
export PATH="$(realpath "$1"):$PATH"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

small_run || exit 1
held_out='data.held_out=[{domain: numbers, files: [train.h5]}]'
train() {
  moe-train --config run.yaml --set parallel.expert=1 --set "$held_out" --set train.eval_every=10 \
    "$@" > train.log 2>&1 || { cat train.log; fail "training"; }
}
train --set train.steps=120 --inject nan:rank=0,step=35
train --set run.folder=other --set optimizer.learning_rate=0.003 --set train.steps=110

moe-report run other --output page.html --title 'Two runs' --json > summary.json 2> log ||
  { cat log; fail "moe-report"; }
has '"name":"run".*"steps":120,.*"skipped":1,' summary.json
has '"name":"other".*"steps":110,.*"output":"page.html"' summary.json
has '>optimizer.learning_rate<' page.html
has 'step 35: ' page.html
grep -Eq 'https?:' page.html && fail "the page names the network"
moe-report run > text || fail "no page asked for"
has '^  steps +120' text

# A run that goes on and one that has nothing yet; what is no run.
head -c -30 run/metrics.jsonl > torn.jsonl
mkdir torn empty none
mv torn.jsonl torn/metrics.jsonl
: > empty/metrics.jsonl
moe-report torn empty --output trouble.html > text || fail "a torn line or an empty run"
has 'torn/metrics.jsonl:120: is torn' text
has 'empty/metrics.jsonl: no step yet' text
moe-report run none --output none.html > text 2>&1
[ $? -eq 2 ] || fail "a folder without metrics: exit code"
has 'none: no metrics.jsonl' text
[ ! -e none.html ] || fail "a page of no run"

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  { echo 'the programs are good; skipped: no chromium to open the page'; exit 77; }

# seen PAGE: what the browser makes of the page, with a line that counts at its end.
seen() {
  local probe='
    const charts = [...document.querySelectorAll(".chart")];
    for (const chart of charts) {
      const box = chart.getBoundingClientRect();
      chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2}));
    }
    const tips = charts.filter(chart => {
      const values = [...chart.querySelectorAll(".tip b")].map(b => b.textContent);
      return values.length && values.every(v => /^-?[\d.]+(e-?\d+)?[kMGT]?$/.test(v));
    }).length;
    for (const key of document.querySelectorAll(".legend span")) key.click();
    const drawn = path => {
      const box = path.getBBox();
      return /\d/.test(path.getAttribute("d")) && isFinite(box.width) && box.width + box.height > 0;
    };
    const bad = charts.filter(chart => {
      const curves = [...chart.querySelectorAll("path[data-name]")];
      return !curves.length || !curves.every(c => c.classList.contains("hidden") || drawn(c)) ||
        !chart.querySelector(".yt") || chart.getBoundingClientRect().height < 50;
    });
    const report = document.createElement("pre");
    report.textContent = "charts " + charts.length + ", not drawn " + bad.length + ", with values " +
      tips + ", off " + document.querySelectorAll(".legend .off").length + ", maps " +
      document.querySelectorAll(".map path").length + ", wide " +
      (document.documentElement.scrollWidth > innerWidth) + ", errors " + window.faults.length +
      " " + window.faults.join("; ");
    document.body.append(report);'
  { sed 's|<head>|<head><script>window.faults = []; window.onerror = m => { faults.push(m); };</script>|' "$1"
    echo "<script>$probe</script>"; } > probed.html
  timeout 100 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$work/profile" \
    --window-size="$2" --dump-dom "file://$work/probed.html" 2> browser.log |
    grep -o 'charts [0-9]*, not drawn.*</pre>'
}
for size in 1280,900 500,800; do
  seen page.html $size > dom || { cat browser.log; fail "the browser"; }
  cat dom
  has 'charts 22, not drawn 0, with values 22, off [1-9][0-9]*, maps [1-9][0-9]*, wide false, errors 0 <' dom
done
seen trouble.html 1280,900 > dom
has 'charts 1[0-9], not drawn 0, .*errors 0 <' dom
echo passed
