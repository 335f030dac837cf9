// SPDX-License-Identifier: GPL-2.0
//! Text pictures.

use std::fmt::Write as _;

use crate::memory::{Census, MemoryMap};

/// A bar that is `width` characters wide, filled to `part` of `whole`. Whatever
/// is more than nothing shows.
pub fn bar(part: u64, whole: u64, width: usize) -> String {
    let exact = (u128::from(part) * width as u128).div_ceil(u128::from(whole.max(1)));
    let filled = usize::try_from(exact).unwrap_or(width).min(width);
    format!("{}{}", "█".repeat(filled), "░".repeat(width - filled))
}

/// A number with a comma every three digits.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// Bytes in the unit that suits them.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(value < 10.0 && unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// One line per memory block that holds pages, or held them in `before`.
pub fn picture(map: &MemoryMap, census: &Census, before: Option<&Census>) -> String {
    let mut out = String::new();
    let mut blocks: Vec<u64> = census.keys().copied().collect();
    blocks.extend(before.into_iter().flat_map(|b| b.keys().copied()));
    blocks.sort_unstable();
    blocks.dedup();
    for index in blocks {
        let block = map.block(index);
        let pages = census.get(&index).copied().unwrap_or(0);
        let node = block.node.map_or("?".into(), |n| n.to_string());
        write!(
            out,
            "  node {node} {:<8} memory{index:<4} {} {:>7}",
            if block.zone == "none" {
                "(mixed)"
            } else {
                &block.zone
            },
            bar(pages, map.block_pages(), 32),
            number(pages),
        )
        .expect("strings take everything");
        if let Some(before) = before {
            let was = before.get(&index).copied().unwrap_or(0);
            match pages.cmp(&was) {
                std::cmp::Ordering::Greater => write!(out, "  +{}", number(pages - was)),
                std::cmp::Ordering::Less => write!(out, "  -{}", number(was - pages)),
                std::cmp::Ordering::Equal => Ok(()),
            }
            .expect("strings take everything");
        }
        out.push('\n');
    }
    if out.is_empty() {
        out.push_str("  no pages\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Block;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bar_keeps_its_width(part: u64, whole: u64, width in 0usize..200) {
            prop_assert_eq!(bar(part, whole, width).chars().count(), width);
        }

        #[test]
        fn more_is_never_drawn_shorter(a in 0u64..1000, b in 0u64..1000) {
            let filled = |n| bar(n, 1000, 40).matches('█').count();
            prop_assert!(filled(a.min(b)) <= filled(a.max(b)));
        }

        #[test]
        fn numbers_keep_their_digits(n: u64) {
            prop_assert_eq!(number(n).replace(',', ""), n.to_string());
        }
    }

    #[test]
    fn bars_show_little_and_all() {
        assert_eq!(bar(0, 100, 4), "░░░░");
        assert_eq!(bar(1, 100, 4), "█░░░");
        assert_eq!(bar(100, 100, 4), "████");
        assert_eq!(bar(0, 0, 2), "░░");
    }

    #[test]
    fn numbers_and_bytes_are_readable() {
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }

    #[test]
    fn a_picture_shows_what_came_and_what_went() {
        let block = |index, zone: &str| Block {
            index,
            node: Some(0),
            zone: zone.into(),
            online: true,
        };
        let map = MemoryMap {
            block_size: 128 << 20,
            blocks: [block(3, "Movable"), block(4, "none")]
                .map(|b| (b.index, b))
                .into(),
        };
        let text = picture(
            &map,
            &Census::from([(3, 1500)]),
            Some(&Census::from([(4, 500)])),
        );
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("Movable") && lines[0].ends_with("1,500  +1,500"));
        assert!(lines[1].contains("(mixed)") && lines[1].ends_with("0  -500"));
        assert_eq!(picture(&map, &Census::new(), None), "  no pages\n");
    }
}
