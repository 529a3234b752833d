// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "eval/record.h"

namespace moe {

/// A text with fields of a record in it: "Question: {question}\nAnswer:". "{{" and "}}" stand for
/// braces. A field may pass through filters, "{sentence|after _|trim}":
///   trim            without white space at both ends
///   capitalize      first letter upper case, the rest lower (ASCII)
///   spaces          underscores become spaces
///   before X        what stands before the first X; the record must hold it
///   after X         what stands after it
///   but_last_word   all but the last word: what stands before the last space
///   last_word       the last word
///   wikihow         WikiHow's marks removed, as lm-evaluation-harness does for HellaSwag: trimmed,
///                   " [title]" to ". ", [...] dropped, double spaces to single ones
/// Throws InputError: at the record for its fields, naming the template for what is wrong with it.
std::string fill_template(const std::string& text, const Record& record);

/// Passes `text` through one filter, "wikihow" or "after X". `where` begins the message about a
/// text that the filter cannot take.
std::string filter_text(const std::string& filter, const std::string& text,
                        const std::string& where);

}  // namespace moe
