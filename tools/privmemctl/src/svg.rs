// SPDX-License-Identifier: GPL-2.0
//! The picture of `privmemctl where` as a file.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use plotters::prelude::*;

use crate::draw::number;
use crate::memory::{Census, MemoryMap};

const WIDTH: u32 = 900;
const ROW: i32 = 22;
const MARGIN: i32 = 16;
/// Where a block's bar begins and ends.
const BAR: (i32, i32) = (230, 780);
const EMPTY: RGBColor = RGBColor(228, 228, 228);

/// Draws one bar for each memory block that holds pages, with a colour for each file.
///
/// # Errors
///
/// The file cannot be written.
pub fn draw(path: &Path, map: &MemoryMap, files: &[(String, &Census)]) -> anyhow::Result<()> {
    let picture = render(map, files).context("cannot draw")?;
    std::fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))
}

fn render(map: &MemoryMap, files: &[(String, &Census)]) -> anyhow::Result<String> {
    let blocks: BTreeSet<u64> = files.iter().flat_map(|(_, c)| c.keys().copied()).collect();
    let rows = files.len() + 1 + blocks.len().max(1);
    let height = 2 * MARGIN as u32 + rows as u32 * ROW as u32;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let font = ("sans-serif", 14).into_font();
        let mut y = MARGIN;
        for (i, (name, census)) in files.iter().enumerate() {
            let colour = Palette99::pick(i).filled();
            area.draw(&Rectangle::new(
                [(MARGIN, y + 3), (MARGIN + 12, y + 15)],
                colour,
            ))?;
            let pages = number(census.values().sum());
            let text = format!("{name}: {pages} pages");
            area.draw(&Text::new(text, (MARGIN + 20, y + 3), font.clone()))?;
            y += ROW;
        }
        y += ROW;
        if blocks.is_empty() {
            area.draw(&Text::new("no pages", (MARGIN, y + 3), font.clone()))?;
        }
        for index in blocks {
            let block = map.block(index);
            let node = block.node.map_or("?".into(), |n| n.to_string());
            let zone = if block.zone == "none" {
                "(mixed)"
            } else {
                &block.zone
            };
            let text = format!("node {node}  {zone}  memory{index}");
            area.draw(&Text::new(text, (MARGIN, y + 3), font.clone()))?;
            let (left, right) = BAR;
            area.draw(&Rectangle::new(
                [(left, y + 2), (right, y + 17)],
                EMPTY.filled(),
            ))?;
            let (mut from, mut sum) = (0, 0);
            for (i, (_, census)) in files.iter().enumerate() {
                sum += census.get(&index).copied().unwrap_or(0);
                let to = scale(sum, map.block_pages(), right - left);
                if to > from {
                    let part = [(left + from, y + 2), (left + to, y + 17)];
                    area.draw(&Rectangle::new(part, Palette99::pick(i).filled()))?;
                }
                from = to;
            }
            area.draw(&Text::new(number(sum), (right + 12, y + 3), font.clone()))?;
            y += ROW;
        }
        area.present()?;
    }
    Ok(svg)
}

/// Pixels of a part; whatever is more than nothing shows.
fn scale(part: u64, whole: u64, pixels: i32) -> i32 {
    let exact = (u128::from(part) * pixels as u128).div_ceil(u128::from(whole.max(1)));
    i32::try_from(exact).unwrap_or(pixels).min(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_every_block_and_file() {
        let map = MemoryMap {
            block_size: 128 << 20,
            blocks: [].into(),
        };
        let (one, two) = (Census::from([(3, 1500)]), Census::from([(3, 1), (4, 7)]));
        let svg = render(&map, &[("a".into(), &one), ("b".into(), &two)]).unwrap();
        for text in [
            "<svg",
            "memory3",
            "memory4",
            "a: 1,500 pages",
            "b: 8 pages",
            "1,501",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(render(&map, &[]).unwrap().contains("no pages"));
        assert_eq!(scale(1, 1 << 40, 500), 1);
    }
}
