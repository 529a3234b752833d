#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the demo's corpus: four kinds of text that Debian packages ship, fetched by apt-get and
# unpacked into the folder, not installed.
#
#   launch/demo_corpus.sh FOLDER      writes FOLDER/{scripture,dictionary,manual,code}.jsonl
set -euo pipefail
split="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/demo_corpus.pl"
mkdir -p "$1/packages" "$1/files"
cd "$1"

packages=(bible-kjv bible-kjv-text dict-foldoc perl-doc libpython3.11-stdlib)
fetch() (cd packages && apt-get -q download "${packages[@]}")
rm -f packages/*.deb
# Lists may be absent or name versions that the mirrors have replaced since.
fetch || { apt-get -q update && fetch; }
for package in packages/*.deb; do dpkg-deb -x "$package" files; done

files/usr/bin/bible -p "$PWD/files/usr/lib/" -f -l72 gen1:1-rev22:21 < /dev/null |
  perl "$split" chapters > scripture.jsonl
zcat < files/usr/share/dictd/foldoc.dict.dz | perl "$split" entries > dictionary.jsonl
# Neither the tables of contents and code points nor the long list of past changes.
find files/usr/share/perl -type f -name '*.pod' ! -name 'perltoc*' ! -name 'perluniprops*' \
  ! -name 'perl5*delta*' | LC_ALL=C sort | xargs perl "$split" sections > manual.jsonl
find files/usr/lib/python3.11 -type f -name '*.py' ! -path '*/pydoc_data/*' | LC_ALL=C sort |
  xargs perl "$split" files > code.jsonl
rm -r packages files
wc -lc ./*.jsonl
