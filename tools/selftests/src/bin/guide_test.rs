// SPDX-License-Identifier: GPL-2.0
//! Follows README.md and Documentation/operations.rst: every command that can be run here
//! is, and answers as they say. Numbers differ, bars too.
//!
//! A command stands behind `# ` in a literal block of operations.rst, its output below it;
//! `...` stands for any lines. In README.md it is an indented line.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Output, Stdio};

use privmemctl::memory::MemoryMap;
use privmemctl::owners::{reach, scan, Owner};
use privmemfd_ioctls::{Mobility, Options};
use selftests::cases;
use selftests::effects::{affects_machine, Effect};
use selftests::fixtures::{bind_or_skip, child, device, role, two_nodes, vm, MIB, PAGE};
use selftests::ktap::{self, note, skip};
use selftests::tool::Holder;
use vmm::layout::PRIVATE_BASE;
use vmm::VmType;

const README: &str = include_str!("../../../../README.md");
const OPERATIONS: &str = include_str!("../../../../Documentation/operations.rst");
const MAKEFILE: &str = include_str!("../../../../Makefile");

/// What the guide calls the machine's things.
const BLOCK: &str = "memory47";
const ADDRESS: &str = "0x179bf1000";
const PINNED_BLOCK: &str = "memory34";

const SIZE: u64 = 48 * MIB;

/// A command and what the guide says that it prints.
#[derive(Debug)]
struct Step {
    command: String,
    output: Vec<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let Some(inside) = line.strip_prefix("  ") else {
            open = false;
            continue;
        };
        if let Some(command) = inside.trim_start().strip_prefix("# ") {
            steps.push(Step {
                command: command.to_owned(),
                output: Vec::new(),
            });
            open = true;
        } else if open {
            let step = steps.last_mut().expect("a step is open");
            step.output.push(inside.trim().to_owned());
        }
    }
    steps
}

/// A line without what differs from machine to machine.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let line = line.replace(['█', '░'], "~");
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        // Which zones and nodes there are is the machine's business.
        let counted = |part: &str| {
            let number = part.split_once(':').map_or("", |(_, number)| number);
            !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        };
        if word.split(',').all(counted) {
            shape.push_str("N:N ");
            continue;
        }
        if let Some(of_machine) = ["zone", "Linux"].into_iter().find(|w| *w == word) {
            words.next();
            shape.push_str(of_machine);
            shape.push_str(" X ");
            continue;
        }
        let mut rest = word;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit() || c == '~') {
            shape.push_str(&rest[..at]);
            let number = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ',' | 'x' | '~');
            let digits = rest[at..].trim_start_matches(number);
            // What ends a sentence or a part of it is no digit.
            let taken = &rest[at..rest.len() - digits.len()];
            shape.push('N');
            shape.push_str(&taken[taken.trim_end_matches([',', '.', 'x']).len()..]);
            rest = digits;
        }
        shape.push_str(rest);
        shape.push(' ');
    }
    // Sizes have the unit that suits them.
    for unit in ["GiB", "MiB", "KiB"] {
        shape = shape.replace(&format!("N {unit}"), "N B");
    }
    shape.trim_end().to_owned()
}

/// Panics unless every line that the guide shows comes, in this order.
fn compare(step: &Step, printed: &str) {
    let mut lines = printed.lines();
    let mut skipping = false;
    for expected in &step.output {
        if expected == "..." {
            skipping = true;
            continue;
        }
        let found = if skipping {
            lines.any(|line| shape(line) == shape(expected))
        } else {
            lines
                .next()
                .is_some_and(|line| shape(line) == shape(expected))
        };
        assert!(found, "{}: not {expected:?} in\n{printed}", step.command);
        skipping = false;
    }
    if !skipping && !step.output.is_empty() {
        let more: Vec<&str> = lines.collect();
        assert!(more.is_empty(), "{}: more: {more:?}", step.command);
    }
}

/// A command of the guide with this machine's names, which may look like others of the guide.
fn named(command: &str, names: &[(&str, String)]) -> String {
    let found = |(name, here)| Some((command.find(name)?, name, here));
    let places = names.iter().map(|(name, here)| (*name, here));
    match places.filter_map(found).min_by_key(|(at, ..)| *at) {
        Some((at, name, here)) => {
            let rest = named(&command[at + name.len()..], names);
            format!("{}{here}{rest}", &command[..at])
        }
        None => command.to_owned(),
    }
}

/// In the shell, with the tool in the path.
fn shell(command: &str) -> Output {
    let mut beside = std::env::current_exe().unwrap();
    beside.pop();
    // Not by the environment: std needs sockets for that, which the test kernel has none of.
    let path = format!("PATH={}:$PATH; export PATH", beside.display());
    Command::new("/bin/sh")
        .args(["-c", &format!("{path}; timeout 60 sh -c '{command}' 2>&1")])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A process that looks like QEMU, with a VM and its memory.
struct Qemu(Child, Owner);

const QEMU: &str = "qemu-system-x86";

impl Qemu {
    fn new(node: u32) -> Self {
        let mut task = child("qemu", &[&node.to_string(), "-name", "debian"]);
        let mut line = String::new();
        let mut output = BufReader::new(task.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        if line.trim() != "ready" {
            skip(format!("no VM with memory of ours: {line}"));
        }
        let pid = task.id() as i32;
        let owner = scan().unwrap().into_iter().find(|o| o.pid == pid);
        Self(task, owner.unwrap())
    }

    /// The child's part.
    fn run(node: &str) -> ExitCode {
        rustix::thread::set_name(c"qemu-system-x86").unwrap();
        let options = Options::new(Mobility::Movable).node(node.parse().unwrap());
        let file = device().create(SIZE, options).unwrap();
        file.allocate(0..SIZE).unwrap();
        let vm = vm(VmType::SwProtected);
        bind_or_skip(&vm, PRIVATE_BASE..PRIVATE_BASE + SIZE, file.as_fd());
        println!("ready");
        let _ = std::io::stdin().read(&mut [0]);
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A block of movable memory with pages of this file that goes offline, and an address there.
fn block_of(owner: &Owner) -> (u64, u64) {
    let map = MemoryMap::read().unwrap();
    let pages = reach(owner.pid, owner.fd).unwrap().pages(0..SIZE).unwrap();
    let census = map.count(&pages);
    let goes = |block: &u64| {
        let first = block * map.block_pages();
        let flags = privmemctl::frames::flags(first..first + map.block_pages()).unwrap();
        let reserved =
            |f: &privmemctl::frames::Flags| f.usage() == privmemctl::frames::Usage::Reserved;
        map.block(*block).is_movable() && !flags.iter().any(reserved)
    };
    let Some(block) = census.keys().copied().find(goes) else {
        skip("no memory of the VM lies where it can be taken offline");
    };
    let mut frames = pages.iter().flatten();
    let frame = frames.find(|f| map.block_of(**f) == block).unwrap();
    (block, frame * PAGE)
}

/// A node whose ZONE_MOVABLE is large, so that pages get there.
fn roomy_node() -> u32 {
    let map = MemoryMap::read().unwrap();
    let movable = |node: u32| {
        let of_node = map
            .blocks
            .values()
            .filter(|b| b.node == Some(node) && b.is_movable());
        of_node.count()
    };
    two_nodes();
    map.nodes()
        .into_iter()
        .max_by_key(|node| movable(*node))
        .unwrap()
}

fn operations_are_as_written() {
    affects_machine(Effect::Offline);
    let node = roomy_node();
    // Behind what lies in blocks with pages of the kernel's own.
    let before = Options::new(Mobility::Movable).node(node);
    let ballast = device().create(272 * MIB, before).unwrap();
    ballast.allocate(0..272 * MIB).unwrap();
    let qemu = Qemu::new(node);
    let (block, address) = block_of(&qemu.1);
    let pinned = Holder::new("--size 4M --pinned");
    let map = MemoryMap::read().unwrap();
    let census = map.count(&pinned.file().pages(0..4 * MIB).unwrap());
    let of_pinned = census.into_iter().max_by_key(|(_, n)| *n).unwrap().0;
    let names = [
        (ADDRESS, format!("{address:#x}")),
        (BLOCK, format!("memory{block}")),
        (PINNED_BLOCK, format!("memory{of_pinned}")),
    ];
    let steps = steps(OPERATIONS);
    assert!(steps.len() >= 8, "{} steps", steps.len());
    for step in &steps {
        let command = named(&step.command, &names);
        let output = shell(&command);
        let printed = String::from_utf8(output.stdout).unwrap();
        // 3: something stays, as the guide shows.
        let status = output.status.code();
        assert!(
            matches!(status, Some(0 | 3)),
            "{command}: {status:?} {printed}"
        );
        // So that the guide can be written from a run.
        note(format!("  # {}", step.command));
        for line in printed.lines() {
            note(format!("  {line}"));
        }
        compare(step, &printed);
    }
    note(format!("{} commands", steps.len()));
    drop(ballast);
}

fn readme_is_as_written() {
    let qemu = Qemu::new(roomy_node());
    let owner = &qemu.1;
    let (mut ran, mut targets) = (0, 0);
    let commands = README.lines().filter_map(|l| l.strip_prefix("    "));
    for line in commands {
        let (command, _) = line.split_once(" #").unwrap_or((line, ""));
        let mut words = command.split_whitespace();
        match words.next() {
            Some("make") => {
                let target = words
                    .next()
                    .filter(|w| !w.contains('='))
                    .unwrap_or("module");
                let rule = |l: &str| {
                    let names = l.split_once(':').map_or("", |(names, _)| names);
                    names.split_whitespace().any(|name| name == target)
                };
                assert!(MAKEFILE.lines().any(rule), "no target {target}: {line}");
                targets += 1;
            }
            Some("privmemctl") => {
                let words: Vec<String> = command
                    .split_whitespace()
                    .map(|w| match w {
                        "P" => owner.pid.to_string(),
                        "N" => owner.fd.to_string(),
                        other => other.to_owned(),
                    })
                    .collect();
                let output = shell(&words.join(" "));
                let printed = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{line}: {printed}");
                ran += 1;
            }
            _ => {}
        }
    }
    assert!(
        ran >= 2 && targets >= 2,
        "{ran} commands, {targets} targets"
    );
}

fn what_the_guide_names_is_there() {
    for path in ["/sys/devices/system/memory", "/proc/kpageflags"] {
        assert!(fs::metadata(path).is_ok(), "{path}");
    }
    assert_eq!(
        shape("memory46 (node 1, 0x17f-0x2a): 1,024 pages."),
        "memoryN (node N, N-N): N pages."
    );
    assert_eq!(shape("took 1.5 GiB ███░ 3"), shape("took 20 MiB ░░ 17"));
    let names = [("a1", "b2".to_owned()), ("b2", "c3".to_owned())];
    assert_eq!(named("x a1 b2/a1", &names), "x b2 c3/b2");
    let parsed = steps("text\n\n  # one\n  out\n\n  not\n# no\n");
    assert_eq!(parsed.len(), 1);
    assert_eq!(parsed[0].output, ["out"]);
}

fn main() -> ExitCode {
    if let Some((name, arguments)) = role() {
        assert_eq!(name, "qemu");
        return Qemu::run(&arguments[0]);
    }
    assert!(QEMU.len() == 15, "a name as long as the kernel keeps");
    ktap::main(cases![
        "the guide can be followed" => what_the_guide_names_is_there,
        "operations.rst is as written" => operations_are_as_written,
        "README.md is as written" => readme_is_as_written,
    ])
}
