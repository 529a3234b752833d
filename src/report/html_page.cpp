// SPDX-License-Identifier: Apache-2.0
#include "report/html_page.h"

#include <fmt/format.h>

namespace moe {
namespace {

// The eight colours stay apart for eyes without one kind of cones: the least CIE76 distance of two,
// after Machado's matrices for each kind, is 14 in the light and 15 in the dark.
constexpr std::string_view kStyle = R"(
:root {
  color-scheme: light dark;
  --surface: #fcfcfb; --ink: #17171a; --soft: #5c5b57; --grid: #e4e3dc;
  --c1: #1a5fd8; --c2: #b8400a; --c3: #14a880; --c4: #43267f;
  --c5: #dd9200; --c6: #62b4f0; --c7: #33302e; --c8: #c98ab4;
  --more: #d4622a; --less: #2a78d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --surface: #1a1a19; --ink: #f2f1ee; --soft: #b3b2ab; --grid: #353532;
    --c1: #4a94ff; --c2: #dd5a1c; --c3: #3dc08a; --c4: #7a5cf5;
    --c5: #f3d76b; --c6: #93e6ff; --c7: #f8f4e0; --c8: #c4609c;
    --more: #e0763f; --less: #4a8ee0;
  }
}
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem; background: var(--surface);
  color: var(--ink); font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.05rem; margin: 0 0 .4rem; }
p { margin: 0; }
.soft, figcaption { color: var(--soft); overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin: 1.2rem 0; }
.tiles b { display: block; font-size: 1.6rem; font-weight: 600; line-height: 1.2; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 2rem 0 0; min-width: 0; }
figcaption { font-size: .87rem; margin-top: .35rem; max-width: 46rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
.scroll { overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; }
.wide svg { max-width: none; }
svg text { fill: var(--soft); font-size: 12px; font-family: inherit; }
svg text.value { fill: var(--ink); }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .dashed { stroke-dasharray: 6 4; }
svg .dotted { stroke-dasharray: 2 4; }
svg .reference { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 2 3; }
svg .dot { stroke: var(--surface); stroke-width: 1.5; }
svg .marked { stroke: var(--ink); stroke-width: 2; }
svg .more { fill: var(--more); }
svg .less { fill: var(--less); }
svg .cell { fill: none; stroke: var(--grid); }
.c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); }
.c7 { color: var(--c7); } .c8 { color: var(--c8); }
svg .line.c1, svg .line.c2, svg .line.c3, svg .line.c4, svg .line.c5, svg .line.c6, svg .line.c7,
svg .line.c8 { stroke: currentColor; }
svg circle { fill: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.3rem; font-size: .87rem; }
.legend span { display: inline-flex; align-items: center; gap: .4rem; overflow-wrap: anywhere; }
.legend em { color: var(--ink); font-style: normal; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th.text, td.text { text-align: left; }
.warning { border-left: 3px solid var(--more); padding-left: .7rem; margin: .8rem 0; }
)";

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t')
          out += "\xEF\xBF\xBD";  // U+FFFD
        else
          out += c;
    }
  }
  return out;
}

std::string html_page(std::string_view title, std::string_view body, std::string_view more_style) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{}</title>\n<style>{}{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
      html_escape(title), kStyle, more_style, body);
}

std::string html_figure(std::string_view heading, std::string_view content,
                        std::string_view explanation) {
  return fmt::format("<figure>\n<h2>{}</h2>\n{}<figcaption>{}</figcaption>\n</figure>\n",
                     html_escape(heading), content, html_escape(explanation));
}

}  // namespace moe
