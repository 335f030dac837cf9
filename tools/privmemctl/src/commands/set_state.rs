// SPDX-License-Identifier: GPL-2.0
//! What [`privmemctl::offline::take_offline`] starts.

use crate::End;

#[derive(clap::Args)]
pub struct Args {
    block: u64,
    state: String,
}

pub fn run(args: &Args) -> End {
    End::Status(privmemctl::offline::set_state(args.block, &args.state))
}
