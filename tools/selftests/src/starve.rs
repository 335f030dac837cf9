// SPDX-License-Identifier: GPL-2.0
//! Memory that runs out, for the calling thread only, and copies that fail.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::ktap::skip;

const DEBUGFS: &str = "/sys/kernel/debug";
const MARK: &str = "/proc/thread-self/make-it-fail";
/// `failslab:5`: in each case so many percent of the allocations of kernel objects fail,
/// `fail_page_alloc:5`: of pages. A whole program cannot be starved, it would not start.
const ASKED_FOR: &str = "STARVE";

/// While it lives, allocations of one kind by the thread that made it fail. The kernel's fault injection does it.
pub struct Starved {
    name: &'static str,
    // Opening a file takes memory, which the thread does not get.
    mark: File,
}

impl Starved {
    /// Allocations of pages.
    pub fn of_pages() -> Self {
        Self::of_some_pages(100)
    }

    /// Some allocations of pages, in percent: the kernel's own needs few.
    pub fn of_some_pages(percent: u32) -> Self {
        Self::new(
            "fail_page_alloc",
            percent,
            &[
                ("ignore-gfp-wait", "N"),
                ("ignore-gfp-highmem", "N"),
                ("min-order", "0"),
            ],
        )
    }

    /// Allocations of kernel objects.
    pub fn of_objects() -> Self {
        Self::of_some_objects(100)
    }

    fn of_some_objects(percent: u32) -> Self {
        Self::new("failslab", percent, &[("ignore-gfp-wait", "N")])
    }

    /// What the environment asks for, for a case.
    pub(crate) fn as_asked_for() -> Option<Self> {
        let text = std::env::var(ASKED_FOR).ok()?;
        let (what, percent) = asked_for(&text).unwrap_or_else(|| {
            panic!("{ASKED_FOR}={text}: not failslab:PERCENT or fail_page_alloc:PERCENT")
        });
        Some(match what {
            Allocation::Object => Self::of_some_objects(percent),
            Allocation::Page => Self::of_some_pages(percent),
        })
    }

    fn new(name: &'static str, percent: u32, settings: &[(&str, &str)]) -> Self {
        if !Path::new(DEBUGFS).join(name).exists() || !Path::new(MARK).exists() {
            skip(format!("no {name} in this kernel"));
        }
        let mark = File::options().write(true).open(MARK).unwrap();
        let mut starved = Self { name, mark };
        for (file, value) in settings {
            starved.set(file, value);
        }
        for (file, value) in [
            ("task-filter", "Y"),
            ("verbose", "0"),
            ("interval", "1"),
            ("times", "-1"),
        ] {
            starved.set(file, value);
        }
        starved.set("probability", &percent.to_string());
        starved.mark.write_all(b"1").unwrap();
        starved
    }

    fn set(&self, file: &str, value: &str) {
        let path = Path::new(DEBUGFS).join(self.name).join(file);
        fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Allocation {
    Object,
    Page,
}

fn asked_for(text: &str) -> Option<(Allocation, u32)> {
    let (what, percent) = text.split_once(':')?;
    let what = match what {
        "failslab" => Allocation::Object,
        "fail_page_alloc" => Allocation::Page,
        _ => return None,
    };
    let percent = percent.parse().ok().filter(|p| *p <= 100)?;
    Some((what, percent))
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.mark.write_all(b"0").unwrap();
        self.set("probability", "0");
    }
}

/// Copies of pages that fail, as if the memory of the old page did; until it is
/// dropped, and for whoever copies.
pub struct FailingCopies(());

impl FailingCopies {
    const COPIES: &str = "/sys/module/copyfail/parameters/copies";

    /// The next so many; skips where the module for that is not loaded.
    pub fn next(count: u64) -> Self {
        if !Path::new(Self::COPIES).exists() {
            skip("no copies fail here (insmod copyfail.ko)");
        }
        fs::write(Self::COPIES, count.to_string()).unwrap();
        Self(())
    }

    /// How many are left to fail.
    pub fn left(&self) -> u64 {
        let text = fs::read_to_string(Self::COPIES).unwrap();
        text.trim().parse().unwrap()
    }
}

impl Drop for FailingCopies {
    fn drop(&mut self) {
        let _ = fs::write(Self::COPIES, "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starvation_is_asked_for_by_kind_and_percent() {
        assert_eq!(asked_for("failslab:5"), Some((Allocation::Object, 5)));
        assert_eq!(
            asked_for("fail_page_alloc:100"),
            Some((Allocation::Page, 100))
        );
        for wrong in ["", "failslab", "failslab:101", "failslab:x", "slab:5"] {
            assert_eq!(asked_for(wrong), None, "{wrong}");
        }
    }
}
