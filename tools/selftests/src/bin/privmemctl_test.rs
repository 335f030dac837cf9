// SPDX-License-Identifier: GPL-2.0
//! What people look at: the tool, run as they run it, and `/proc`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use selftests::cases;
use selftests::fixtures::{
    bind_or_skip, movable, two_nodes, vm, wait_for, Guest, MIB, PAGE, PATIENCE,
};
use selftests::hostmem::{heal, CompactUnevictable};
use selftests::ktap;
use selftests::starve::FailingCopies;
use selftests::tool::{complains, run, says, tells, tool, Holder};
use vmm::layout::PRIVATE_BASE;
use vmm::VmType;

const SIZE: u64 = 4 * MIB;

fn list_shows_every_file() {
    let holders = [Holder::new("--size 4M"), Holder::new("--size 2M --pinned")];
    let lines = says("list");
    for (holder, pages) in holders.iter().zip([1024, 512]) {
        let line: Vec<&str> = lines
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.first() == Some(&holder.pid.to_string().as_str()))
            .unwrap_or_else(|| panic!("no line of {}:\n{lines}", holder.pid));
        assert_eq!(line[1], "privmemctl", "{lines}");
        assert_eq!(line[2], holder.fd.to_string(), "{lines}");
        assert_eq!(line[5], pages.to_string(), "{lines}");
    }
    drop(holders);
    assert_eq!(says("list").lines().count(), 1, "files without an owner");
}

fn stat_is_json() {
    let holder = Holder::new("--size 4M");
    holder.file().move_range(0..MIB, None).unwrap();
    let text = says(&format!("stat {}", holder.target()));
    let stat: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stat["mobility"], "movable");
    assert_eq!(stat["size"], SIZE);
    assert_eq!(stat["pages"], SIZE / PAGE);
    assert_eq!(stat["relocated"], MIB / PAGE);
    assert_eq!(stat["refused"], serde_json::json!({}));
    let zones = stat["zones"].as_object().unwrap().values();
    let sum: u64 = zones.map(|z| z.as_u64().unwrap()).sum();
    assert_eq!(sum, SIZE / PAGE, "{text}");
}

fn where_draws_every_page() {
    let holder = Holder::new("--size 4M");
    for arguments in [format!("where {}", holder.target()), "where".into()] {
        let text = says(&arguments);
        let (head, blocks) = text.split_once('\n').unwrap();
        assert!(head.contains("1,024 pages"), "{text}");
        let pages = |line: &str| -> u64 {
            let last = line.split_whitespace().next_back().unwrap();
            last.replace(',', "").parse().unwrap()
        };
        assert_eq!(
            blocks.lines().map(pages).sum::<u64>(),
            SIZE / PAGE,
            "{text}"
        );
        assert!(blocks.lines().all(|l| l.contains('█')), "{text}");
    }
}

/// A VMM may make a file that is larger than any memory.
fn sparse_files_are_looked_at_where_they_have_pages() {
    let file = movable(1 << 46);
    file.allocate(0..3 * PAGE).unwrap();
    let start = Instant::now();
    let text = says(&format!("where --pid {}", std::process::id()));
    assert!(text.contains("64.0 TiB, 3 pages"), "{text}");
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
}

fn move_moves_what_it_was_told() {
    let (first, second) = two_nodes();
    let holder = Holder::new("--size 4M");
    let file = holder.file();
    for node in [first, second] {
        says(&format!("move {} --node {node}", holder.target()));
        assert_eq!(file.stat_node(node).unwrap().pages, SIZE / PAGE);
    }
    let before = file.pages(0..SIZE).unwrap();
    let text = says(&format!("move {} --offset 1M --len 2M", holder.target()));
    assert_eq!(text, "512 pages moved\n");
    let after = file.pages(0..SIZE).unwrap();
    for (i, (old, new)) in before.iter().zip(&after).enumerate() {
        assert_eq!(old != new, (256..768).contains(&i), "page {i}");
    }
}

/// What cannot move is told, with the reason, and is the exit status.
fn move_tells_what_did_not_move() {
    let holder = Holder::new("--size 4M");
    let file = holder.file();
    // Content: a page without any moves without a copy.
    let mut guest = Guest::new(&file, 1);
    guest.fill();
    let before = file.pages(0..SIZE).unwrap();
    let arguments = format!("move {}", holder.target());
    let output = {
        let _failing = FailingCopies::next(3);
        run(&arguments)
    };
    let (text, errors) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(
        text,
        "1,021 pages moved\n3 did not move: their memory has failed\n"
    );
    assert_eq!(errors, "privmemctl: 3 pages did not move\n");
    assert_eq!(output.status.code(), Some(1));
    heal(&file, &mut guest, &before, 3);
    guest.fill();
    assert_eq!(says(&arguments), "1,024 pages moved\n");
    guest.verify();
}

fn move_tells_what_was_there() {
    let (first, second) = two_nodes();
    let holder = Holder::new("--size 4M");
    says(&format!("move {} --node {first}", holder.target()));
    says(&format!(
        "move {} --node {second} --len 1M",
        holder.target()
    ));
    assert_eq!(
        says(&format!("move {} --node {second}", holder.target())),
        format!("768 pages moved\n256 were on node {second}\n")
    );
}

fn watch_counts_what_moves() {
    let holder = Holder::new("--size 4M");
    let file = holder.file();
    let watch = format!("watch {} --interval 0.1", holder.target());
    let mut task = tool()
        .args(watch.split(' '))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(task.stdout.take().unwrap()).lines();
    let mut next = || -> Vec<String> {
        let line = lines.next().expect("it watches on").unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(next()[..2], ["PAGES", "RELOCATED"]);
    assert_eq!(next()[..2], [(SIZE / PAGE).to_string(), "0".into()]);
    let moved = file.move_range(0..SIZE, None).unwrap().to_string();
    let end = Instant::now() + PATIENCE;
    let seen = std::iter::from_fn(|| (Instant::now() < end).then(&mut next))
        .any(|line| line[0] == (SIZE / PAGE).to_string() && line[1] == moved);
    let _ = task.kill();
    let _ = task.wait();
    assert!(seen, "{moved} pages moved, and it does not say so");
    let text = says(&format!("{watch} --count 2"));
    assert_eq!(text.lines().count(), 3, "{text}");
}

fn mistakes_are_explained() {
    let pinned = Holder::new("--size 1M --pinned");
    complains(&format!("move {}", pinned.target()), 1, "busy");
    let movable = Holder::new("--size 1M");
    let target = movable.target();
    complains(&format!("move {target} --offset 1"), 1, "argument");
    complains(
        &format!("move {target} --offset 2M --len 1M"),
        1,
        "argument",
    );
    complains(&format!("move {target} --node 1000"), 1, "argument");
    complains(&format!("watch {target} --interval 0"), 1, "--interval");
    complains(
        &format!("stat --pid {} --fd 999", movable.pid),
        1,
        "is it open?",
    );
    complains("stat --pid 0 --fd 3", 1, "not a process id");
    complains("stat --pid 1", 1, "no privmemfd fits");
    complains("stat", 2, "--all");
    complains("stat --fd 3", 2, "--pid");
    complains("hold --size 10qqM", 2, "\"qqM\" is no unit");
    complains("hold --size 1MB", 2, "\"MB\" is no unit");
    complains("hold --size 16777216T", 2, "too large");
    complains(
        "hold --size 1M --movable --pinned",
        2,
        "cannot be used with",
    );
    complains("hold --size 1000", 1, "argument");
    // Standard input of the holder is no privmemfd.
    complains(&format!("stat --pid {} --fd 0", movable.pid), 1, "ioctl");
}

/// One errno a message, and `T` is taken: a file has no memory until it is given some.
fn messages_name_one_errno() {
    let movable = Holder::new("--size 1M");
    let fd = movable.fd + 1000;
    for (arguments, errno) in [
        (format!("move {} --node 1000", movable.target()), 22),
        (
            format!("move {} --offset 1T --len 1T", movable.target()),
            22,
        ),
        (format!("stat --pid {} --fd 0", movable.pid), 25),
        (format!("stat --pid {} --fd {fd}", movable.pid), 9),
        (String::from("stat --pid 999999999 --fd 0"), 3),
    ] {
        let errors = String::from_utf8(run(&arguments).stderr).unwrap();
        let named = errors.matches("os error").count();
        assert_eq!(named, 1, "{arguments}: {errors}");
        assert!(errors.contains(&format!("(os error {errno})")), "{errors}");
    }
}

/// Beside the answer, not in it.
fn what_keeps_compaction_off_is_said() {
    let holder = Holder::new("--size 1M");
    for arguments in [
        "list".into(),
        format!("where {}", holder.target()),
        format!("watch {} --interval 0.01 --count 1", holder.target()),
    ] {
        for allowed in [false, true] {
            let _sysctl = CompactUnevictable::allowed(allowed);
            let output = run(&arguments);
            let (text, notes) = (
                String::from_utf8(output.stdout).unwrap(),
                String::from_utf8(output.stderr).unwrap(),
            );
            assert!(output.status.success(), "{arguments}: {notes}");
            assert!(!text.contains("note"), "{text}");
            let said = notes.contains("vm.compact_unevictable_allowed is 0");
            assert_eq!(said, !allowed, "{arguments}: {notes:?}");
        }
    }
}

/// By process, by its name, by one descriptor, all.
fn files_are_selected() {
    let holders = [Holder::new("--size 4M"), Holder::new("--size 2M")];
    let pids = |arguments: &str| -> Vec<i64> {
        let rows = tells(&format!("where {arguments}"), 0);
        let rows = rows.as_array().unwrap();
        rows.iter()
            .map(|row| row["pid"].as_i64().unwrap())
            .collect()
    };
    let [first, second] = holders.each_ref().map(|h| i64::from(h.pid));
    for (arguments, expected) in [
        (String::new(), vec![first, second]),
        ("--all".into(), vec![first, second]),
        (format!("--pid {first}"), vec![first]),
        (holders[1].target(), vec![second]),
        ("--name privmemctl".into(), vec![first, second]),
        (format!("--name privmemctl --pid {second}"), vec![second]),
    ] {
        assert_eq!(pids(&arguments), expected, "{arguments}");
    }
    complains(
        "where --name nosuch",
        1,
        "no privmemfd fits; there are: privmemctl (pid",
    );
    complains("move --vm nosuch", 1, "no privmemfd fits");
    complains("where --all --pid 1", 2, "cannot be used with");
    let text = says(&format!("move --pid {first} --len 1M"));
    assert_eq!(text, "256 pages moved\n");
    assert_eq!(tells("move --all --len 1M", 0)["moved"], 512);
    assert_eq!(tells("stat --all", 0).as_array().unwrap().len(), 2);
}

/// A VM by what QEMU's command line says.
fn files_are_selected_by_their_vm() {
    let vm = vm(VmType::SwProtected);
    let file = movable(SIZE);
    bind_or_skip(&vm, PRIVATE_BASE..PRIVATE_BASE + SIZE, file.as_fd());
    let name = format!("of pid {}", std::process::id());
    let output = tool()
        .args(["--json", "stat", "--vm", &name])
        .output()
        .unwrap();
    let stat: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stat["vm"], name);
    assert_eq!(stat["vms"], 1);
}

fn pictures_are_files_and_ascii_too() {
    let holder = Holder::new("--size 4M");
    let text = says(&format!("where {} --ascii", holder.target()));
    assert!(text.contains('#') && text.is_ascii(), "{text}");
    let path = std::env::temp_dir().join(format!("where-{}.svg", std::process::id()));
    says(&format!(
        "where {} --svg {}",
        holder.target(),
        path.display()
    ));
    let svg = fs::read_to_string(&path).unwrap();
    fs::remove_file(path).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("1,024 pages"),
        "{svg}"
    );
    complains(
        "where --svg /nowhere/x.svg",
        1,
        "cannot write /nowhere/x.svg",
    );
    let live = format!("where {} --live 0.05 --count 2", holder.target());
    assert_eq!(says(&live).matches("1,024 pages").count(), 2);
}

fn holding_ends_in_time() {
    let mut holder = Holder::new("--size 1M --seconds 1");
    let mut status = None;
    wait_for(Duration::from_secs(30), || {
        status = holder.task.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
}

fn fdinfo_has_the_counters() {
    let holder = Holder::new("--size 4M");
    holder.file().move_range(0..MIB, None).unwrap();
    let text = fs::read_to_string(format!("/proc/{}/fdinfo/{}", holder.pid, holder.fd)).unwrap();
    let ours: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("privmemfd-"))
        .collect();
    assert_eq!(
        ours,
        [
            "flags:\t0x1",
            "size:\t4194304",
            "pages:\t1024",
            "vms:\t0",
            "slots:\t0",
            "relocated:\t256"
        ]
    );
}

fn main() -> ExitCode {
    ktap::main(cases![
        "list shows every file with its owner" => list_shows_every_file,
        "stat prints the counters as JSON" => stat_is_json,
        "where draws every page" => where_draws_every_page,
        "where looks at a sparse file where it has pages" => sparse_files_are_looked_at_where_they_have_pages,
        "move moves the range it was told, to the node it was told" => move_moves_what_it_was_told,
        "move tells what did not move and why" => move_tells_what_did_not_move,
        "move tells what was there already" => move_tells_what_was_there,
        "watch counts what moves" => watch_counts_what_moves,
        "mistakes end with their exit status and a message" => mistakes_are_explained,
        "messages name one errno" => messages_name_one_errno,
        "list, where and watch say what keeps compaction off" => what_keeps_compaction_off_is_said,
        "files are selected by process, name and descriptor" => files_are_selected,
        "files are selected by their VM" => files_are_selected_by_their_vm,
        "where draws into a file, in ASCII and again" => pictures_are_files_and_ascii_too,
        "hold ends in time" => holding_ends_in_time,
        "fdinfo shows flags, size, pages, VMs, memslots and relocations" => fdinfo_has_the_counters,
    ])
}
