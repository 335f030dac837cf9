// SPDX-License-Identifier: GPL-2.0
//! Settings of the kernel that are put back.

use std::fs;
use std::io;

/// Settings of the kernel, changed while it lives.
pub struct Settings(Vec<(&'static str, String)>);

impl Settings {
    /// Sets each path's value.
    pub fn new(values: &[(&'static str, &str)]) -> io::Result<Self> {
        let mut this = Self(Vec::new());
        for (path, value) in values {
            let old = fs::read_to_string(path)?;
            fs::write(path, value)?;
            this.0.push((path, chosen(&old).to_owned()));
        }
        Ok(this)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, old) in self.0.iter().rev() {
            let _ = fs::write(path, old);
        }
    }
}

/// What to write to get a setting back: of choices, the one in brackets.
fn chosen(text: &str) -> &str {
    let text = text.trim();
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(text, |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn a_setting_of_choices_is_the_one_in_brackets() {
        assert_eq!(chosen("always defer [madvise] never\n"), "madvise");
        assert_eq!(chosen("256 32 0 0\n"), "256 32 0 0");
    }
}
