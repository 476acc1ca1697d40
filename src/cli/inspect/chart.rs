//! An SVG chart inside the HTML page: the size of each image and its shared part as a bar, the largest image first.

use std::fmt::Write as _;

use docker_mirror::{Inventory, Sharing, human_bytes};

use super::markup::escape;
use crate::cli::output::counted;

/// Maximum number of images with a bar.
const MAX_BARS: usize = 40;

/// Lengths in units of the chart: columns for names and bars, total width, and height of a row.
const NAME: f64 = 380.0;
const BARS: f64 = 560.0;
const WIDTH: f64 = 1060.0;
const ROW: f64 = 22.0;

/// Maximum number of characters of an image's name in the chart.
const MAX_NAME: usize = 50;

/// Appends the chart of an inventory to the page `out`.
#[allow(clippy::cast_precision_loss, reason = "lengths of bars")]
pub(super) fn draw(out: &mut String, inventory: &Inventory, sharing: &Sharing) {
    let mut bars: Vec<(u64, u64, &str)> = inventory
        .images
        .iter()
        .map(|image| {
            (
                image.content.bytes(),
                sharing.shared_bytes(image),
                image.reference.as_str(),
            )
        })
        .collect();
    bars.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(b.2)));
    let more = bars.len().saturating_sub(MAX_BARS);
    bars.truncate(MAX_BARS);
    let Some(largest) = bars.first().map(|(bytes, ..)| *bytes) else {
        return;
    };
    let height = ROW * bars.len() as f64;
    let _ = writeln!(
        out,
        "<div class=\"scroll\" role=\"region\" aria-label=\"Sizes of images\" tabindex=\"0\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Sizes of images, the largest first\">"
    );
    for (number, (bytes, shared, name)) in bars.iter().enumerate() {
        let y = ROW * number as f64;
        let scale = |bytes: u64| BARS * bytes as f64 / largest.max(1) as f64;
        let (own, shared) = (scale(bytes - shared), scale(*shared));
        let _ = write!(out, "<text x=\"0\" y=\"{:.0}\">", y + 15.0);
        let count = name.chars().count();
        if count > MAX_NAME {
            out.push('…');
        }
        // A long name is cut at its start, since names of images differ mostly at the end.
        escape(
            out,
            &name.chars().skip(count.saturating_sub(MAX_NAME)).collect::<String>(),
        );
        let _ = writeln!(
            out,
            "</text><rect class=\"own\" x=\"{NAME}\" y=\"{:.0}\" width=\"{own:.1}\" height=\"14\"/><rect class=\"shared\" x=\"{:.1}\" y=\"{:.0}\" width=\"{shared:.1}\" height=\"14\"/><text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            y + 4.0,
            NAME + own,
            y + 4.0,
            NAME + own + shared + 8.0,
            y + 15.0,
            human_bytes(*bytes)
        );
    }
    out.push_str("</svg></div>\n");
    if more > 0 {
        let _ = writeln!(
            out,
            "<p class=\"dim\">The list below has {} more.</p>",
            counted(more as u64, "smaller image", "smaller images")
        );
    }
}
