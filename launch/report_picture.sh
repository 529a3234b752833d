#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A picture of a page that moe-report has written, by headless Chromium.
#
#   launch/report_picture.sh REPORT.html OUT.png [WIDTH HEIGHT [light|dark]]    default: 1280 1100 light
set -euo pipefail

fail() {
  echo "report_picture.sh: $*" >&2
  exit 2
}

[ $# -ge 2 ] || { sed -n '3,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
[ -f "$1" ] || fail "$1: no such file"
page=$(realpath "$1")
picture=$(realpath -m "$2")
width=${3:-1280} height=${4:-1100}
case ${5:-light} in
  light) scheme=1 ;;
  dark) scheme=0 ;;
  *) fail "'$5' is neither light nor dark" ;;
esac
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  fail "no chromium is installed"

profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" \
  --blink-settings="preferredColorScheme=$scheme" --window-size="$width,$height" \
  --screenshot="$picture" "file://$page" > "$profile/log" 2>&1 || {
  cat "$profile/log" >&2
  fail "chromium"
}
[ -s "$picture" ] || fail "$picture: chromium made no picture"
