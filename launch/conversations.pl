#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Makes small conversations: every way to ask crossed with everything there is to ask about.
#
#   conversations.pl words|sums train NUMBER   lines {"messages": [...]}, one to three questions each
#   conversations.pl words|sums test NUMBER    lines {"prompt": QUESTION, "answer": ANSWER}
#   conversations.pl score TEST ANSWERS        how many answers (moe-generate --json) are right
#   conversations.pl show TEST ANSWERS         every eighth question with its answer
#
# A question in eight is for the test and stands in no conversation; all others are asked again and
# again. Tests of any number are spread evenly over what there is.
use strict;
use warnings;
use JSON::PP;

my @opposites = qw(hot cold big small old young long short high low near far open closed full empty
  dark light wet dry hard soft rich poor fast slow strong weak early late first last good bad);
my @plurals = qw(king kings house houses day days river rivers child children man men woman women
  foot feet tooth teeth mouse mice city cities fly flies wolf wolves leaf leaves box boxes
  dish dishes
  book books tree trees word words hand hands);
my @young = qw(dog puppy cat kitten cow calf sheep lamb horse foal hen chick duck duckling bear cub
  deer fawn goat kid);
my @colours = qw(grass green snow white coal black blood red the_sky blue gold yellow milk white ink
  black);

# [ways to ask, answer, things to ask about]: {a} and {b} stand for the two words of a thing.
sub pairs { map { [@_[2 * $_, 2 * $_ + 1]] } 0 .. @_ / 2 - 1 }
my @both = map { ($_, [reverse @$_]) } pairs(@opposites);
my @numbers = map { my $x = $_; map { [$x, $_] } 0 .. 9 } 0 .. 9;
my %subjects = (
  words => [
    [['What is the opposite of {a}?', 'Tell me the opposite of {a}.', 'Which word means not {a}?',
      'Give me a word that is the opposite of {a}.'], 'The opposite of {a} is {b}.', @both],
    [['What is the plural of {a}?', 'One {a}, two what?', 'How do I write more than one {a}?',
      'Tell me the plural of {a}.'], 'The plural of {a} is {b}.', pairs(@plurals)],
    [['What is a young {a} called?', 'Tell me the word for a young {a}.',
      'How do we call a young {a}?'],
      'A young {a} is called a {b}.', pairs(@young)],
    [['What colour is {a}?', 'Tell me the colour of {a}.', 'Which colour has {a}?'],
      'The colour of {a} is {b}.', pairs(@colours)],
  ],
  sums => [
    [['What is {a} plus {b}?', 'Add {a} and {b}.', '{a} + {b} = ?'], '{a} + {b} = {sum}.',
      @numbers],
    [['What is {a} minus {b}?', 'Take {b} from {a}.', '{a} - {b} = ?'], '{a} - {b} = {difference}.',
      grep { $$_[0] >= $$_[1] } @numbers],
    [['Write a Python function that adds {a} to {b}.', 'Show me Python code to add {a} to {b}.'],
      "def add({b}):\n    return {b} + {a}", code_things()],
    [['Write a Python function that doubles {b} and adds {a}.',
      'Show me Python code to double {b} and add {a}.'],
      "def double({b}):\n    return 2 * {b} + {a}", code_things()],
  ],
);

sub code_things {
  my @names = qw(x n size value count total age width);
  return map { my $n = $_; map { [$n, $_] } @names } 1 .. 9;
}

sub filled {
  my ($text, $first, $second) = @_;
  my %value = (a => $first, b => $second);
  @value{qw(sum difference)} = ($first + $second, $first - $second)
    if "$first$second" =~ /^\d+$/;
  s/_/ /g for @value{qw(a b)};
  $text =~ s/\{(\w+)\}/$value{$1}/g;
  return $text;
}

my $json = JSON::PP->new->canonical;

sub lines_of {
  my ($file) = @_;
  open my $in, '<', $file or die "conversations.pl: $file: $!\n";
  return map { $json->decode($_) } <$in>;
}

if (@ARGV == 3 && $ARGV[0] =~ /^(score|show)$/) {
  my ($what, @files) = @ARGV;
  my ($test, $answers) = map { [lines_of($_)] } @files;
  die "conversations.pl: $files[1]: not one answer for each question\n" if @$test != @$answers;
  my $right = 0;
  for my $i (0 .. $#$test) {
    my $given = $$answers[$i]{text} =~ s/^\s+|\s+$//gr;
    my $is_right = $given eq $$test[$i]{answer};
    $right += $is_right;
    print "  $$test[$i]{prompt}\n    ", $given =~ s/\n/\n    /gr, $is_right ? "\n" : "   (wrong)\n"
      if $what eq 'show' && $i % 8 == 3;
  }
  print "$right of ", scalar @$test, "\n" if $what eq 'score';
  exit;
}

my ($subject, $what, $number) = @ARGV;
die "conversations.pl: see the head of this file\n"
  unless $subject && $subjects{$subject} && ($what // '') =~ /^(train|test)$/
  && ($number // '') =~ /^[1-9]\d*$/;

my (@train, @test);
for my $group (@{$subjects{$subject}}) {
  my ($ways, $answer, @things) = @$group;
  for my $t (0 .. $#things) {
    for my $w (0 .. $#$ways) {
      my $pair = [filled($$ways[$w], @{$things[$t]}), filled($answer, @{$things[$t]})];
      push @{(3 * $t + $w) % 8 == 5 ? \@test : \@train}, $pair;
    }
  }
}

if ($what eq 'test') {
  $number = @test if $number > @test;
  for (map { $test[$_ * @test / $number] } 0 .. $number - 1) {
    print $json->encode({prompt => $$_[0], answer => $$_[1]}), "\n";
  }
  exit;
}
srand 1;
for (1 .. $number) {
  my @messages;
  for (1 .. 1 + int rand 3) {
    my ($question, $answer) = @{$train[rand @train]};
    push @messages, {role => 'user', content => $question},
      {role => 'assistant', content => $answer};
  }
  print $json->encode({messages => \@messages}), "\n";
}
