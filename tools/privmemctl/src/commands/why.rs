// SPDX-License-Identifier: GPL-2.0
//! `privmemctl why`.

use anyhow::Context;
use privmemctl::host::compaction_obstacle;
use privmemctl::memory::MemoryMap;
use privmemctl::place::{self, Name, Place};
use privmemctl::shares::OpenFile;
use privmemctl::why::survey;
use serde_json::json;

use super::note_obstacles;
use crate::output::Out;
use crate::End;

/// The memory that is meant.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Places {
    /// memory36, memory36-40, node1, or a physical address such as 0x123456000
    #[arg(value_name = "BLOCK|NODE")]
    places: Vec<Name>,
    /// The areas for contiguous allocations
    #[arg(long)]
    pub cma: bool,
}

impl Places {
    pub fn find(&self) -> anyhow::Result<Vec<Place>> {
        if self.cma {
            return place::cma(MemoryMap::read().ok().as_ref());
        }
        place::find(&self.map()?, &self.places)
    }

    pub fn map(&self) -> anyhow::Result<MemoryMap> {
        MemoryMap::read().context("this kernel has no memory hotplug: no memory blocks")
    }
}

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Places,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let places = args.places.find()?;
    let cma = place::cma(None).unwrap_or_default();
    let surveys = survey(&places, &OpenFile::all()?, &cma)?;
    let answer = json!({ "places": surveys, "compaction": compaction_obstacle() });
    out.put(&answer, |w| surveys.iter().try_for_each(|s| s.write(w)))?;
    out.flush()?;
    note_obstacles();
    Ok(if surveys.iter().any(|s| s.stays()) {
        End::Stays
    } else {
        End::Well
    })
}
