// SPDX-License-Identifier: GPL-2.0
//! The command line: help, man page and completions all come from here.

use clap::{Args, Parser, Subcommand};
use privmemctl::owners::Selection;

use crate::commands::{
    doctor, evacuate, generate, hold, latency, move_pages, set_state, stat, trace, watch, where_is,
    why,
};

/// Look at guest-private memory that the host can move, and move it.
#[derive(Parser)]
#[command(name = "privmemctl", version, long_about = LONG_ABOUT, after_long_help = EXAMPLES, max_term_width = 80)]
pub struct Cli {
    /// Print JSON: an object, or one a line for what goes on
    #[arg(long, global = true)]
    pub json: bool,
    /// Draw with ASCII characters only
    #[arg(long, global = true)]
    pub ascii: bool,
    #[command(subcommand)]
    pub command: Command,
}

const LONG_ABOUT: &str = "\
Look at guest-private memory that the host can move, and move it.

A privmemfd is a file whose pages a VM uses as private memory. No process can \
read or map it; privmemctl shows where its pages are, how often the kernel \
moved them and why it did not, moves them on request, and says what keeps a \
piece of memory from being taken away. Guests go on running.

Files are named by a process that has them open (--pid, --name), its VM (--vm, \
as QEMU's -name says) or, if there are several, the descriptor (--fd). Reaching \
into another process needs CAP_SYS_PTRACE, page frame numbers need \
CAP_SYS_ADMIN: run it as root.";

const EXAMPLES: &str = "\
EXAMPLES
  What is missing on this machine?
      privmemctl doctor
  Who has guest-private memory, and how much?
      privmemctl list
  What keeps a memory block from going, and how does it go?
      privmemctl why memory36
      privmemctl evacuate memory36 --offline --timeout 60
  Move the first 64 MiB of a VM's memory to node 1, and see what moves:
      privmemctl move --vm debian --len 64M --node 1
      privmemctl trace --vm debian
  A file to play with, until Ctrl-C:
      privmemctl hold --size 64M --movable

EXIT STATUS
  0 if all went well, 1 if a request failed or something is missing (the \
message says what to do), 2 for wrong arguments, 3 if why or evacuate has found \
something that stays, 4 if evacuate ran out of time.

SEE ALSO
  Documentation/operations.rst for taking memory away, step by step;
  Documentation/userspace-api.rst for every request and errno.";

#[derive(Subcommand)]
pub enum Command {
    /// List every privmemfd that a process has open
    ///
    /// Columns: process, its name, descriptor, size, pages that have memory,
    /// the same by node and zone, bound VMs, relocations done.
    List(MaybeTarget),
    /// Print all counters of files, as JSON
    Stat(stat::Args),
    /// Draw where the pages of files are
    ///
    /// One bar per memory block that holds pages; a full bar is a full block.
    Where(where_is::Args),
    /// Print relocations as they happen, until Ctrl-C
    ///
    /// On a terminal a table of files, else a line of sums each time.
    Watch(watch::Args),
    /// Move pages to a node, or anywhere else
    ///
    /// Passes over pages that have no memory or are on the node already, goes on
    /// past pages that cannot move, and says how many of each there were and why
    /// they did not move. Exit status 1 if there was one. Pinned files refuse.
    Move(move_pages::Args),
    /// Say what keeps memory from going, and what to do about it
    ///
    /// For each kind of page in the place: whether it stays, whose it is, and why.
    /// Exit status 3 if something stays.
    Why(why::Args),
    /// Move private memory out of a place, and take it offline if asked
    ///
    /// Moves every page of a movable file there to another node and names what is
    /// not such a page. With --offline it then takes the memory blocks offline,
    /// which moves everything else that can move. What has moved stays moved: run it
    /// again to go on.
    #[command(after_long_help = evacuate::EXIT_STATUS)]
    Evacuate(evacuate::Args),
    /// Say what this machine needs, what is missing, and the next command to type
    ///
    /// Changes nothing. Exit status 1 if something is missing.
    Doctor(doctor::Args),
    /// Print a line for every page that moves, until Ctrl-C
    Trace(trace::Args),
    /// Draw how long pages took to move
    Latency(latency::Args),
    /// Make a file, give it memory and hold it until Ctrl-C
    Hold(hold::Args),
    /// Write the man pages and the completions of bash, zsh and fish
    #[command(hide = true)]
    Generate(generate::Args),
    /// Write the state of a memory block; the exit status is the errno
    #[command(hide = true)]
    SetState(set_state::Args),
}

/// Files that the user means.
#[derive(Args, Clone)]
pub struct Select {
    /// Process that has the file open
    #[arg(long, allow_negative_numbers = true)]
    pid: Option<i32>,
    /// Descriptor in that process; all of its files if not given
    #[arg(long, requires = "pid")]
    fd: Option<i32>,
    /// Name of the process (the first 15 characters)
    #[arg(long)]
    name: Option<String>,
    /// Name of the VM, as QEMU's -name says
    #[arg(long)]
    vm: Option<String>,
}

impl Select {
    pub fn selection(&self) -> Selection {
        Selection {
            pid: self.pid,
            fd: self.fd,
            name: self.name.clone(),
            vm: self.vm.clone(),
        }
    }
}

/// Files that must be named.
#[derive(Args, Clone)]
#[group(required = true, multiple = true, args = ["pid", "name", "vm", "all"])]
pub struct Target {
    #[command(flatten)]
    select: Select,
    /// Every file that a process has open
    #[arg(long, conflicts_with_all = ["pid", "fd", "name", "vm"])]
    all: bool,
}

impl Target {
    pub fn selection(&self) -> Selection {
        self.select.selection()
    }
}

/// Files; all of them if none is named.
#[derive(Args, Clone)]
pub struct MaybeTarget {
    #[command(flatten)]
    select: Select,
    /// Every file that a process has open (what is meant if no file is named)
    #[arg(long, conflicts_with_all = ["pid", "fd", "name", "vm"])]
    all: bool,
}

impl MaybeTarget {
    pub fn selection(&self) -> Selection {
        self.select.selection()
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
