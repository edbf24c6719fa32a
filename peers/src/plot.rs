//! Bar charts as SVG.

use std::fmt::Write as _;

/// One bar.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// The value as it is written beside the bar.
    pub(crate) text: String,
    pub(crate) ours: bool,
}

const LABELS: f64 = 330.0;
const LENGTH: f64 = 330.0;
const HEIGHT: f64 = 22.0;
const TOP: f64 = 34.0;

/// Horizontal bars on a logarithmic scale, which begins at the power of ten below the least value.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    let least = bars.iter().map(|bar| bar.value).fold(f64::INFINITY, f64::min).max(1e-12).log10();
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max).max(1e-12).log10();
    let from = (least - 0.15).floor();
    let span = (most - from).max(1.0);
    let (width, height) = (LABELS + LENGTH + 90.0, TOP + HEIGHT * bars.len() as f64 + 8.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (index, bar) in bars.iter().enumerate() {
        let y = TOP + HEIGHT * index as f64;
        let length = ((bar.value.max(1e-12).log10() - from) / span * LENGTH).max(1.0);
        let colour = if bar.ours { "#c2410c" } else { "#64748b" };
        let (label, text, middle) = (escaped(&bar.label), escaped(&bar.text), y + 14.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{label}</text>\
             <rect x=\"{LABELS}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{middle}\">{text}</text>",
            LABELS - 6.0,
            y + 2.0,
            HEIGHT - 5.0,
            LABELS + length + 5.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_bar_is_a_larger_value_and_markup_in_labels_is_text() {
        let bar = |label: &str, value| Bar { label: label.to_owned(), value, text: String::new(), ours: false };
        let svg = bars("a < b", &[bar("x", 1.0), bar("y & z", 100.0)]);
        assert!(svg.contains("a &lt; b") && svg.contains("y &amp; z"));
        let widths: Vec<f64> = svg
            .lines()
            .filter_map(|line| line.split_once("width=\"")?.1.split('"').next()?.parse().ok())
            .skip(1)
            .collect();
        assert_eq!(widths.len(), 2);
        assert!(widths[0] < widths[1]);
    }
}
