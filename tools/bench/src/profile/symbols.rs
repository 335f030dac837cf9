// SPDX-License-Identifier: GPL-2.0
//! Names of the kernel's functions, from `/proc/kallsyms`.

use std::fs;

use anyhow::{ensure, Context};

/// Functions by address.
pub struct Symbols(Vec<(u64, String)>);

/// A line: address, type, name, and a module's name in brackets.
fn symbol(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let at = u64::from_str_radix(words.next()?, 16).ok()?;
    if !matches!(words.next()?, "t" | "T" | "w" | "W") {
        return None;
    }
    let name = words.next()?;
    // Without the hashes, and without what the compiler has called a part of a function.
    let name = format!("{:#}", rustc_demangle::demangle(name));
    let module = words.next().map_or(String::new(), |m| format!(" {m}"));
    Some((at, name + &module))
}

impl Symbols {
    /// Needs root.
    pub fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
        let mut all: Vec<_> = text.lines().filter_map(symbol).collect();
        all.sort();
        all.dedup_by_key(|(at, _)| *at);
        ensure!(
            all.last().is_some_and(|(at, _)| *at != 0),
            "/proc/kallsyms tells no addresses"
        );
        Ok(Self(all))
    }

    /// Of the function at an address.
    pub fn name(&self, at: u64) -> String {
        // User space is one function, this program.
        if at >> 63 == 0 {
            return "user space".into();
        }
        let after = self.0.partition_point(|(start, _)| *start <= at);
        match after.checked_sub(1) {
            Some(nr) => self.0[nr].1.clone(),
            None => format!("{at:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_the_function_before_it() {
        let text = "\
ffffffff81000000 T first
ffffffff81000010 d data
ffffffff81000020 t second\t[module]
";
        let symbols = Symbols(text.lines().filter_map(symbol).collect());
        assert_eq!(symbols.name(0xffffffff81000018), "first");
        assert_eq!(symbols.name(0xffffffff81000020), "second [module]");
        assert_eq!(symbols.name(0xffffffff80000000), "0xffffffff80000000");
        assert_eq!(symbols.name(0x401000), "user space");
    }
}
