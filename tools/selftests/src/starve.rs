// SPDX-License-Identifier: GPL-2.0
//! Memory that runs out, for the calling thread only, and copies that fail.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::ktap::skip;

const DEBUGFS: &str = "/sys/kernel/debug";
const MARK: &str = "/proc/thread-self/make-it-fail";

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
        Self::new("failslab", 100, &[("ignore-gfp-wait", "N")])
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
