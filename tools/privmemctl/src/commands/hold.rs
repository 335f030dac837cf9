// SPDX-License-Identifier: GPL-2.0
//! `privmemctl hold`.

use std::os::fd::AsRawFd;
use std::time::Duration;

use privmemctl::draw::bytes;
use privmemctl::size::parse_size;
use privmemfd_ioctls::{Device, Mobility, Options};
use serde_json::json;

use crate::output::Out;
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    /// Bytes, such as 64M
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// The host may move pages (the default)
    #[arg(long, conflicts_with = "pinned")]
    movable: bool,
    /// The host never moves pages
    #[arg(long)]
    pinned: bool,
    /// Take pages from this node
    #[arg(long)]
    node: Option<u32>,
    /// Seconds to hold it
    #[arg(long)]
    seconds: Option<u64>,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let mut options = Options::new(match args.pinned {
        true => Mobility::Pinned,
        false => Mobility::Movable,
    });
    if let Some(node) = args.node {
        options = options.node(node);
    }
    let file = Device::open()?.create(args.size, options)?;
    file.allocate(0..args.size)?;
    let (fd, pid) = (file.as_raw_fd(), std::process::id());
    let size = bytes(args.size);
    out.put_line(
        &json!({ "pid": pid, "fd": fd, "size": args.size }),
        &format!("holding {size} as descriptor {fd} of process {pid}; Ctrl-C ends it"),
    )?;
    match args.seconds {
        Some(s) => std::thread::sleep(Duration::from_secs(s)),
        None => loop {
            std::thread::park();
        },
    }
    Ok(End::Well)
}
