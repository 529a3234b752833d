#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Parts text into documents and prints each as a line {"text": "..."}. Needs no module.
#
#   demo_corpus.pl chapters|entries|sections|files [FILE...]
#   demo_corpus.pl text [FILE.jsonl...]       the other way: the text of such lines
use strict;
use warnings;

my $longest = 4000;   # bytes of a document; longer ones are cut where a line is empty
my %escape = ('"' => '\\"', '\\' => '\\\\', "\n" => '\\n', "\t" => '\\t', "\r" => '\\r');
my %unescape = (n => "\n", t => "\t", r => "\r");

sub print_document {
  my ($text) = @_;
  while (length $text > $longest) {
    my $end = rindex $text, "\n\n", $longest - 2;
    last if $end <= 0;
    print_document(substr $text, 0, $end + 2, '');
  }
  $text =~ s/\s+\z/\n/;
  return if length $text < 40;
  utf8::decode($text);  # bytes that are no UTF-8 stay as they are: Latin-1
  $text =~ s/(["\\\x00-\x1f])/$escape{$1} || sprintf('\\u%04x', ord $1)/ge;
  utf8::encode($text);
  print "{\"text\": \"$text\"}\n";
}

my $kind = shift @ARGV // '';
if ($kind eq 'chapters') {
  # "Ge1:3 And God said, ...": a document is a chapter, without the numbers of its verses.
  my ($chapter, $document) = ('', '');
  while (my $line = <>) {
    if ($line =~ s/^(\w+):\d+ //) {
      print_document($document), $document = '' if $1 ne $chapter;
      $chapter = $1;
    }
    $document .= $line;
  }
  print_document($document);
} elsif ($kind eq 'entries') {
  # Headwords stand at the margin, what is said about them is indented.
  print_document($_) for split /\n\n(?=\S)/, do { local $/; <> };
} elsif ($kind eq 'sections') {
  for my $file (@ARGV) {
    open my $in, '<', $file or die "$file: $!\n";
    print_document($_) for split /^(?==head1 )/m, do { local $/; <$in> };
  }
} elsif ($kind eq 'files') {
  for my $file (@ARGV) {
    open my $in, '<', $file or die "$file: $!\n";
    print_document(do { local $/; <$in> });
  }
} elsif ($kind eq 'text') {
  while (<>) {
    s/^\{"text": "|"\}$//g;
    s/\\(u00(..)|.)/defined $2 ? chr hex $2 : $unescape{$1} || $1/ge;
    print;
  }
} else {
  die "usage: demo_corpus.pl chapters|entries|sections|files|text [FILE...]\n";
}
