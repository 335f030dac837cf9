// SPDX-License-Identifier: GPL-2.0
//! The samples of a run as a picture.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use privmemctl::draw::number;

use crate::relocate::{Result, Sample};

const WIDTH: u32 = 900;
const TITLE: u32 = 40;
const PANEL: u32 = 220;

/// What a panel shows, in which unit.
struct Panel {
    caption: &'static str,
    unit: &'static str,
    value: fn(&Sample) -> u64,
}

const PANELS: [Panel; 4] = [
    Panel {
        caption: "Slab that cannot be reclaimed (SUnreclaim)",
        unit: "KiB",
        value: |s| s.slab,
    },
    Panel {
        caption: "Free pages (nr_free_pages)",
        unit: "pages",
        value: |s| s.free,
    },
    Panel {
        caption: "Unevictable pages (nr_unevictable)",
        unit: "pages",
        value: |s| s.unevictable,
    },
    Panel {
        caption: "Leaked: pages that the TDX module has kept",
        unit: "pages",
        value: |s| s.leaked,
    },
];

/// The values of an axis, with some air, so that a flat line is one.
fn scale(values: impl Iterator<Item = u64> + Clone) -> Range<u64> {
    let low = values.clone().min().unwrap_or(0);
    let high = values.max().unwrap_or(0);
    let air = (high - low).max(high / 10).max(5);
    low.saturating_sub(air)..high + air
}

/// Draws one panel for each number, over the pages moved.
///
/// # Errors
///
/// The file cannot be written.
pub fn draw(result: &Result, path: &Path) -> anyhow::Result<()> {
    let size = (WIDTH, TITLE + PANEL * PANELS.len() as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!(
        "{} pages moved by the software backend, then {} by the TDX module",
        number(result.software),
        number(result.tdx)
    );
    let area = root.titled(&title, ("sans-serif", 18))?;
    let last = result.samples.last().map_or(1, |s| s.moved.max(1));
    for (panel, area) in PANELS.iter().zip(area.split_evenly((PANELS.len(), 1))) {
        let scale = scale(result.samples.iter().map(panel.value));
        let mut chart = ChartBuilder::on(&area)
            .caption(panel.caption, ("sans-serif", 15))
            .margin(8)
            .margin_right(24)
            .x_label_area_size(36)
            .y_label_area_size(88)
            .build_cartesian_2d(0..last, scale.clone())?;
        chart
            .configure_mesh()
            .x_desc("pages moved")
            .y_desc(panel.unit)
            .x_label_formatter(&|n| number(*n))
            .y_label_formatter(&|n| number(*n))
            .y_labels(5)
            .light_line_style(TRANSPARENT)
            .draw()?;
        let phase = |tdx| result.samples.iter().filter(move |s| result.is_of(tdx, s));
        for (tdx, name, color) in [(false, "software", BLUE), (true, "TDX", RED)] {
            let points = phase(tdx).map(|s| (s.moved, (panel.value)(s)));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_line_has_a_scale() {
        assert_eq!(scale([0, 0].into_iter()), 0..5);
        assert_eq!(scale([100, 110].into_iter()), 89..121);
    }
}
