// SPDX-License-Identifier: GPL-2.0
//! Sizes as people type them.

/// What may stand behind the digits, and the power of two that it stands for.
const UNITS: [(&str, u32); 14] = [
    ("", 0),
    ("B", 0),
    ("K", 10),
    ("k", 10),
    ("KiB", 10),
    ("M", 20),
    ("m", 20),
    ("MiB", 20),
    ("G", 30),
    ("g", 30),
    ("GiB", 30),
    ("T", 40),
    ("t", 40),
    ("TiB", 40),
];

/// Bytes of a size such as `4096`, `64K`, `64MiB` or `1T`; a K is 1024.
///
/// # Errors
///
/// A sentence for whoever has typed it: no digits, another unit (`KB` too, which
/// some take for 1000), or more than 2^64 - 1 bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let behind = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - behind.len()];
    if digits.is_empty() {
        return Err("not a size: give bytes, or K, M, G or T of them, such as 64M".into());
    }
    let Some((_, shift)) = UNITS.into_iter().find(|(unit, _)| *unit == behind) else {
        return Err(format!(
            "not a size: {behind:?} is no unit; K, M, G and T are (or KiB, MiB, GiB, TiB, B)"
        ));
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| "too large: sizes end below 16777216T".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_and_a_unit_is_their_product(n: u64, unit in 0..UNITS.len()) {
            let (unit, shift) = UNITS[unit];
            let exact = u128::from(n) << shift;
            let size = parse_size(&format!("{n}{unit}"));
            match u64::try_from(exact) {
                Ok(exact) => prop_assert_eq!(size, Ok(exact)),
                Err(_) => prop_assert!(size.unwrap_err().starts_with("too large")),
            }
        }

        #[test]
        fn nothing_but_digits_and_a_unit_is_a_size(text in "[0-9+ .x_-]{0,4}[0-9KMGTPkmgtiBbqx. ]{0,4}") {
            let digits = text.chars().take_while(char::is_ascii_digit).count();
            let known = digits > 0 && UNITS.iter().any(|(unit, _)| *unit == &text[digits..]);
            prop_assert_eq!(parse_size(&text).is_ok(), known, "{:?}", text);
        }

        #[test]
        fn any_text_has_an_answer(text: String) {
            if let Err(why) = parse_size(&text) {
                prop_assert!(!why.is_empty());
            }
        }

        #[test]
        fn zeroes_in_front_change_nothing(n: u64, zeroes in 0usize..30) {
            prop_assert_eq!(parse_size(&format!("{}{n}", "0".repeat(zeroes))), Ok(n));
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("64K", 64 << 10),
            ("64MiB", 64 << 20),
            ("1g", 1 << 30),
            ("1T", 1 << 40),
            ("2TiB", 2 << 40),
            ("16777215T", 16_777_215 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        for (text, why) in [
            ("", "not a size: give"),
            ("M", "not a size: give"),
            ("-1", "not a size: give"),
            ("+1", "not a size: give"),
            (" 1", "not a size: give"),
            ("0x10", "\"x10\" is no unit"),
            ("10qqM", "\"qqM\" is no unit"),
            ("1 M", "\" M\" is no unit"),
            ("1.5G", "\".5G\" is no unit"),
            ("1MB", "\"MB\" is no unit"),
            ("1iB", "\"iB\" is no unit"),
            ("1P", "\"P\" is no unit"),
            ("1MM", "\"MM\" is no unit"),
            ("16777216T", "too large"),
            ("18446744073709551616", "too large"),
            ("99999999999G", "too large"),
        ] {
            let said = parse_size(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
