// SPDX-License-Identifier: GPL-2.0
//! A node that is full but for a CMA area.

use std::io;
use std::ops::Range;
use std::path::Path;

use privmemctl::memory::ShortFreeLists;

use crate::hog::{HogProcess, Plan};
use crate::settings::Settings;

/// Bytes of other memory that stay free.
pub const SPARE: u64 = 12 << 20;

/// A node with no free memory but for a CMA area and [`SPARE`], until it is dropped: what comes
/// to it gets into the area.
pub struct FullNode {
    // First the memory comes back, then what let it be taken.
    _hog: HogProcess,
    _lists: ShortFreeLists,
    _settings: Settings,
}

impl FullNode {
    /// Has `program`, the demonstration's, fill the node that has the area `frames`.
    pub fn new(program: &Path, node: u32, frames: &Range<u64>) -> io::Result<Self> {
        // Nobody compacts to get a huge page: it would be the guest's pages that move. Zones
        // keep next to nothing back, neither for lower zones' users nor for emergencies.
        let settings = Settings::new(&[
            ("/sys/kernel/mm/transparent_hugepage/defrag", "never"),
            ("/proc/sys/vm/lowmem_reserve_ratio", "0 0 0 0"),
            ("/proc/sys/vm/min_free_kbytes", "4096"),
        ])?;
        let lists = ShortFreeLists::new()?;
        let plan = Plan::Fill {
            node,
            spare: SPARE,
            from: frames.start,
            to: frames.end,
        };
        let (hog, _) = HogProcess::start(program, &plan)?;
        Ok(Self {
            _hog: hog,
            _lists: lists,
            _settings: settings,
        })
    }
}
