// SPDX-License-Identifier: GPL-2.0
//! What the self-tests share. Each program under `bin/` is one suite that
//! speaks KTAP; run it with words to choose cases, with `--list` to see them.

pub mod effects;
pub mod fixtures;
pub mod hostmem;
pub mod ktap;
pub mod leaving;
pub mod race;
pub mod starve;
mod stuck;
pub mod tdx;
pub mod tool;
