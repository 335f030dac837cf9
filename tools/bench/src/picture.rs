// SPDX-License-Identifier: GPL-2.0
//! The figures as pictures.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use privmemctl::draw::number;

use crate::report::{Growth, Pair, Pause, Report};

const WIDTH: u32 = 900;
const PANEL: u32 = 280;
const FONT: &str = "sans-serif";
const GRAY: RGBColor = RGBColor(150, 150, 150);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A figure, as people read it.
fn grouped(n: f64) -> String {
    number(n.round() as u64)
}

fn area(path: &Path, height: u32) -> anyhow::Result<Area<'_>> {
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

/// What a page costs, ours beside others.
fn costs(pairs: &[Pair], path: &Path) -> anyhow::Result<()> {
    let root = area(path, 70 + 64 * pairs.len() as u32)?;
    let most = pairs.iter().map(|p| p.ours_per_page.max(p.theirs_per_page));
    let most = most.fold(1.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(&root)
        .caption("Instructions per page", (FONT, 18))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..most, 0.0..pairs.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|n| grouped(*n))
        .draw()?;
    type Side = (&'static str, RGBColor, fn(&Pair) -> f64, f64);
    let sides: [Side; 2] = [
        ("privmemfd", BLUE, |p| p.ours_per_page, 0.62),
        ("beside it", GRAY, |p| p.theirs_per_page, 0.34),
    ];
    // The first is at the top: its name, and below it a bar of each side.
    let bottom = |nr: usize| (pairs.len() - 1 - nr) as f64;
    chart.draw_series(pairs.iter().enumerate().map(|(nr, p)| {
        Text::new(
            p.name.trim().to_owned(),
            (0.0, bottom(nr) + 0.92),
            (FONT, 13),
        )
    }))?;
    for (label, color, value, top) in sides {
        let bars = pairs.iter().enumerate().map(|(nr, p)| {
            let corners = [(0.0, bottom(nr) + top), (value(p), bottom(nr) + top - 0.26)];
            Rectangle::new(corners, color.filled())
        });
        chart
            .draw_series(bars)?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
        chart.draw_series(pairs.iter().enumerate().map(|(nr, p)| {
            let at = (value(p) + most * 0.005, bottom(nr) + top - 0.04);
            Text::new(grouped(value(p)), at, (FONT, 12))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// What a page costs while something grows.
fn growths(all: &[Growth], path: &Path) -> anyhow::Result<()> {
    let rows = all.len().div_ceil(2);
    let root = area(path, PANEL * rows as u32)?;
    for (g, area) in all.iter().zip(root.split_evenly((rows, 2))) {
        let most = g.points.iter().map(|p| p.1).fold(1.0, f64::max) * 1.25;
        let last = g.points.len().saturating_sub(1);
        let mut chart = ChartBuilder::on(&area)
            .caption(g.what.as_ref(), (FONT, 14))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(60)
            .build_cartesian_2d(0..last.max(1), 0.0..most)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("n")
            .x_labels(g.points.len())
            .x_label_formatter(&|nr| g.points.get(*nr).map_or(String::new(), |p| p.0.to_string()))
            .y_label_formatter(&|n| grouped(*n))
            .draw()?;
        let points = || g.points.iter().enumerate().map(|(nr, p)| (nr, p.1));
        chart.draw_series(LineSeries::new(points(), BLUE.stroke_width(2)))?;
        chart.draw_series(points().map(|at| Circle::new(at, 3, BLUE.filled())))?;
    }
    root.present()?;
    Ok(())
}

/// What a vCPU waits, and what a page costs, by the size of a batch.
fn pauses(all: &[Pause], path: &Path) -> anyhow::Result<()> {
    let mut vms: Vec<&str> = Vec::new();
    for p in all {
        if !vms.contains(&p.vm.as_ref()) {
            vms.push(&p.vm);
        }
    }
    let root = area(path, PANEL * vms.len() as u32 * 4 / 3)?;
    for (vm, area) in vms.iter().zip(root.split_evenly((vms.len(), 1))) {
        let mut of: Vec<&Pause> = all.iter().filter(|p| p.vm == *vm).collect();
        of.sort_by_key(|p| p.batch);
        let most = of.iter().map(|p| p.longest).fold(1e4, f64::max) * 3.0;
        let mut chart = ChartBuilder::on(&area)
            .caption(
                format!("{vm}: instructions, by pages in a batch"),
                (FONT, 16),
            )
            .margin(8)
            .margin_right(24)
            .x_label_area_size(34)
            .y_label_area_size(90)
            .build_cartesian_2d((0.8..700.0).log_scale(), (1e3..most).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("pages in a batch")
            .x_label_formatter(&|n| grouped(*n))
            .y_label_formatter(&|n| grouped(*n))
            .draw()?;
        type Line = (&'static str, RGBColor, fn(&Pause) -> f64);
        let lines: [Line; 3] = [
            ("longest pause", RED, |p| p.longest),
            ("pause, 99th percentile", MAGENTA, |p| p.p99),
            ("cost of a page", BLUE, |p| p.move_per_page),
        ];
        for (label, color, value) in lines {
            let points = || of.iter().map(|p| (p.batch as f64, value(p).max(1e3)));
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
            chart.draw_series(points().map(|at| Circle::new(at, 3, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// Draws cost.svg, growth.svg and pause.svg into `folder`, as far as there are figures.
///
/// # Errors
///
/// A file cannot be written.
pub fn draw(report: &Report, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    if !report.pairs.is_empty() {
        costs(&report.pairs, &folder.join("cost.svg"))?;
    }
    if !report.growth.is_empty() {
        growths(&report.growth, &folder.join("growth.svg"))?;
    }
    if !report.pause.is_empty() {
        pauses(&report.pause, &folder.join("pause.svg"))?;
    }
    Ok(())
}
