// SPDX-License-Identifier: GPL-2.0
//! `privmemctl`: look at privmemfds and move their pages.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context};
use clap::{Args, Parser, Subcommand};
use privmemctl::draw::{bytes, number, picture};
use privmemctl::evacuate::{evacuate, Tally};
use privmemctl::host::compaction_obstacle;
use privmemctl::memory::MemoryMap;
use privmemctl::owners::{reach, scan, Owner};
use privmemctl::size::parse_size;
use privmemfd_ioctls::{Device, Mobility, Options, PrivMemFd, Refusal, Stat, Zone};
use serde_json::json;

/// Look at guest-private memory that the host can move, and move it.
#[derive(Parser)]
#[command(version, long_about = LONG_ABOUT, after_long_help = EXAMPLES, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Look at guest-private memory that the host can move, and move it.

A privmemfd is a file whose pages a VM uses as private memory. No process can \
read or map it; privmemctl shows where its pages are, how often the kernel \
moved them and why it did not, and moves them on request. Guests go on running.

Files are named by a process that has them open and its descriptor number, as \
`privmemctl list` prints them. Reaching into another process needs \
CAP_SYS_PTRACE, page frame numbers need CAP_SYS_ADMIN: run it as root.";

const EXAMPLES: &str = "\
EXAMPLES
  Who has guest-private memory, and how much?
      privmemctl list
  Where are the pages of QEMU's descriptor 23?
      privmemctl where --pid 4711 --fd 23
  Move the first 64 MiB to node 1, then watch what the kernel does:
      privmemctl move --pid 4711 --fd 23 --len 64M --node 1
      privmemctl watch --pid 4711 --fd 23
  A file to play with, until Ctrl-C:
      privmemctl hold --size 64M --movable

EXIT STATUS
  0 if all went well, 1 if a request failed (the message says what to do), \
2 for wrong arguments.

SEE ALSO
  Documentation/userspace-api.rst for every request and errno.";

#[derive(Subcommand)]
enum Command {
    /// List every privmemfd that a process has open
    ///
    /// Columns: process, its name, descriptor, size, pages that have memory,
    /// the same by node and zone, bound VMs, relocations done.
    List,
    /// Print all counters of one file, as JSON
    Stat(Target),
    /// Draw where the pages of a file (or of all files) are
    ///
    /// One bar per memory block that holds pages; a full bar is a full block.
    Where(MaybeTarget),
    /// Print relocations as they happen, until Ctrl-C
    Watch {
        #[command(flatten)]
        target: MaybeTarget,
        /// Seconds between two lines
        #[arg(long, default_value_t = 1.0)]
        interval: f64,
        /// Stop after this many lines
        #[arg(long)]
        count: Option<u64>,
    },
    /// Move pages to a node, or anywhere else
    ///
    /// Passes over pages that have no memory or are on the node already, goes on
    /// past pages that cannot move, and says how many of each there were and why
    /// they did not move. Exit status 1 if there was one. Pinned files refuse.
    Move {
        #[command(flatten)]
        target: Target,
        /// First byte, such as 0 or 2M
        #[arg(long, default_value = "0", value_parser = parse_size)]
        offset: u64,
        /// Bytes; up to the end if not given
        #[arg(long, value_parser = parse_size)]
        len: Option<u64>,
        /// NUMA node; any new place if not given
        #[arg(long)]
        node: Option<u32>,
    },
    /// Make a file, give it memory and hold it until Ctrl-C
    Hold {
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
    },
}

#[derive(Args)]
struct Target {
    /// Process that has the file open
    #[arg(long)]
    pid: i32,
    /// Descriptor in that process
    #[arg(long)]
    fd: i32,
}

#[derive(Args)]
struct MaybeTarget {
    /// Process that has the file open; all of them if not given
    #[arg(long, requires = "fd")]
    pid: Option<i32>,
    /// Descriptor in that process
    #[arg(long, requires = "pid")]
    fd: Option<i32>,
}

fn targets(target: &MaybeTarget) -> anyhow::Result<Vec<(Owner, PrivMemFd)>> {
    let owners = match (target.pid, target.fd) {
        (Some(pid), Some(fd)) => vec![Owner {
            pid,
            comm: std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .map(|c| c.trim().to_owned())
                .unwrap_or_default(),
            fd,
        }],
        _ => scan()?,
    };
    if owners.is_empty() {
        bail!("nobody has a privmemfd open (or you are not root)");
    }
    owners
        .into_iter()
        .map(|o| reach(o.pid, o.fd).map(|f| (o, f)))
        .collect()
}

fn by_node(file: &PrivMemFd) -> anyhow::Result<String> {
    let mut parts = Vec::new();
    for node in MemoryMap::read().map(|m| m.nodes()).unwrap_or_default() {
        let pages = file.stat_node(node)?.pages;
        if pages > 0 {
            parts.push(format!("{node}:{pages}"));
        }
    }
    Ok(if parts.is_empty() {
        "-".into()
    } else {
        parts.join(",")
    })
}

fn by_zone(stat: &Stat) -> String {
    let parts: Vec<String> = Zone::ALL
        .into_iter()
        .filter(|z| stat.in_zone(*z) > 0)
        .map(|z| format!("{}:{}", z.name(), stat.in_zone(z)))
        .collect();
    if parts.is_empty() {
        "-".into()
    } else {
        parts.join(",")
    }
}

/// Says, beside what was asked for, what keeps mm from moving pages.
fn note_obstacles() {
    if let Some(obstacle) = compaction_obstacle() {
        eprintln!("privmemctl: note: {obstacle}");
    }
}

fn list() -> anyhow::Result<()> {
    println!(
        "{:>7} {:<15} {:>4} {:>9} {:>9} {:<16} {:<20} {:>3} {:>10}",
        "PID", "COMM", "FD", "SIZE", "PAGES", "NODES", "ZONES", "VMS", "RELOCATED"
    );
    for owner in scan()? {
        let line = reach(owner.pid, owner.fd).and_then(|f| Ok((f.stat()?, by_node(&f)?)));
        print!("{:>7} {:<15} {:>4} ", owner.pid, owner.comm, owner.fd);
        match line {
            Ok((s, nodes)) => println!(
                "{:>9} {:>9} {:<16} {:<20} {:>3} {:>10}",
                bytes(s.size),
                s.pages,
                nodes,
                by_zone(&s),
                s.vms,
                s.relocated
            ),
            Err(e) => println!("{e:#}"),
        }
    }
    note_obstacles();
    Ok(())
}

fn refused(stat: &Stat) -> BTreeMap<&'static str, u64> {
    Refusal::ALL
        .into_iter()
        .map(|r| (r.name(), stat.refused_for(r)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

fn stat(target: &Target) -> anyhow::Result<()> {
    let s = reach(target.pid, target.fd)?.stat()?;
    let zones: BTreeMap<_, _> = Zone::ALL
        .into_iter()
        .map(|z| (z.name(), s.in_zone(z)))
        .collect();
    let mobility = match s.mobility() {
        Some(Mobility::Movable) => "movable",
        Some(Mobility::Pinned) => "pinned",
        None => "unknown",
    };
    let out = json!({
        "mobility": mobility, "size": s.size, "pages": s.pages, "zones": zones,
        "poisoned": s.poisoned, "vms": s.vms, "slots": s.slots,
        "relocated": s.relocated, "refused": refused(&s),
    });
    println!("{out:#}");
    Ok(())
}

fn show_where(target: &MaybeTarget) -> anyhow::Result<()> {
    let map = MemoryMap::read().context("this kernel has no memory hotplug: no memory blocks")?;
    for (o, file) in targets(target)? {
        let s = file.stat()?;
        let census = map.count(&file.pages(0..s.size)?);
        println!(
            "{} (pid {}) descriptor {}: {}, {} pages, zones {}",
            o.comm,
            o.pid,
            o.fd,
            bytes(s.size),
            number(s.pages),
            by_zone(&s)
        );
        print!("{}", picture(&map, &census, None));
    }
    note_obstacles();
    Ok(())
}

fn watch(target: &MaybeTarget, interval: f64, count: Option<u64>) -> anyhow::Result<()> {
    if !(0.01..=86400.0).contains(&interval) {
        bail!("--interval takes 0.01 to 86400 seconds");
    }
    let files = targets(target)?;
    note_obstacles();
    let sum = |files: &[(Owner, PrivMemFd)]| -> anyhow::Result<(u64, u64, u64)> {
        files.iter().try_fold((0, 0, 0), |(r, f, p), (_, file)| {
            let s = file.stat()?;
            Ok((
                r + s.relocated,
                f + s.refused.iter().sum::<u64>(),
                p + s.pages,
            ))
        })
    };
    println!(
        "{:>10} {:>12} {:>10} {:>10}",
        "PAGES", "RELOCATED", "PER SECOND", "REFUSED"
    );
    let mut last = sum(&files)?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        std::thread::sleep(Duration::from_secs_f64(interval));
        let now = sum(&files)?;
        let rate = now.0.saturating_sub(last.0) as f64 / interval;
        println!("{:>10} {:>12} {rate:>10.0} {:>10}", now.2, now.0, now.1);
        last = now;
        left -= 1;
    }
    Ok(())
}

fn move_pages(t: &Target, offset: u64, len: Option<u64>, node: Option<u32>) -> anyhow::Result<()> {
    let file = reach(t.pid, t.fd)?;
    let end = match len {
        Some(len) => offset
            .checked_add(len)
            .context("--offset and --len are too large")?,
        None => file.stat()?.size,
    };
    let mut tally = Tally::default();
    let result = evacuate(&file, offset..end, node, &mut tally);
    if result.is_ok() || tally != Tally::default() {
        print!("{}", tally.text(node));
    }
    result?;
    match tally.not_moved() {
        0 => Ok(()),
        n => bail!("{} pages did not move", number(n)),
    }
}

fn hold(size: u64, options: Options, seconds: Option<u64>) -> anyhow::Result<()> {
    let file = Device::open()?.create(size, options)?;
    file.allocate(0..size)?;
    println!(
        "holding {} as descriptor {} of process {}; Ctrl-C ends it",
        bytes(size),
        file.as_raw_fd(),
        std::process::id()
    );
    match seconds {
        Some(s) => std::thread::sleep(Duration::from_secs(s)),
        None => loop {
            std::thread::park();
        },
    }
    Ok(())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::List => list(),
        Command::Stat(t) => stat(t),
        Command::Where(t) => show_where(t),
        Command::Watch {
            target,
            interval,
            count,
        } => watch(target, *interval, *count),
        Command::Move {
            target,
            offset,
            len,
            node,
        } => move_pages(target, *offset, *len, *node),
        Command::Hold {
            size,
            pinned,
            node,
            seconds,
            movable: _,
        } => {
            let kind = if *pinned {
                Mobility::Pinned
            } else {
                Mobility::Movable
            };
            let mut options = Options::new(kind);
            if let Some(node) = node {
                options = options.node(*node);
            }
            hold(*size, options, *seconds)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("privmemctl: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
