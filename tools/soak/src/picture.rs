// SPDX-License-Identifier: GPL-2.0
//! The samples of a run as a picture.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

use crate::relocate::{Result, Sample};

const WIDTH: u32 = 900;
const PANEL: u32 = 220;

type Panel = (&'static str, fn(&Sample) -> u64);

const PANELS: [Panel; 4] = [
    ("kernel objects, KiB (SUnreclaim)", |s| s.slab),
    ("free pages", |s| s.free),
    ("unevictable pages", |s| s.unevictable),
    ("pages that the TDX module has kept", |s| s.leaked),
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
    let size = (WIDTH, PANEL * PANELS.len() as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let last = result.samples.last().map_or(1, |s| s.moved.max(1));
    for ((name, value), area) in PANELS.iter().zip(root.split_evenly((PANELS.len(), 1))) {
        let values = result.samples.iter().map(value);
        let scale = scale(values);
        let mut chart = ChartBuilder::on(&area)
            .caption(*name, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(80)
            .build_cartesian_2d(0..last, scale.clone())?;
        chart
            .configure_mesh()
            .x_desc("pages moved")
            .y_labels(5)
            .draw()?;
        let points = result.samples.iter().map(|s| (s.moved, value(s)));
        chart.draw_series(LineSeries::new(points, &BLUE))?;
        // Left of it the software backend, right of it the TDX module.
        let border = [(result.software, scale.start), (result.software, scale.end)];
        chart.draw_series(LineSeries::new(border, &RED))?;
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
