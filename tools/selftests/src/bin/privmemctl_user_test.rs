// SPDX-License-Identifier: GPL-2.0
//! Who runs the tool and where: an ordinary user, a pipe that is closed, with and without
//! the module. And what goes on while it looks: trace, latency, watch.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, ExitCode, Stdio};

use privmemctl::memory::MemoryMap;
use privmemfd_ioctls::PrivMemFd;
use selftests::cases;
use selftests::effects::{affects_machine, Effect};
use selftests::fixtures::{in_movable_zone, movable, role, Guest, MIB, PAGE};
use selftests::hostmem::compact;
use selftests::ktap::{self, skip};
use selftests::starve::FailingCopies;
use selftests::tool::{
    become_nobody, complains, ends, run_as_nobody, run_into_closed_pipe, tells, tool, Holder,
    NOBODY_ROLE,
};
use serde_json::Value;

const SIZE: u64 = 4 * MIB;

fn is_loaded() -> bool {
    Path::new("/sys/module/privmemfd").exists()
}

fn needs_the_module() {
    if !is_loaded() {
        skip("privmemfd.ko is not loaded");
    }
}

/// Every subcommand with arguments that do something, and its exit status for root.
fn all(holder: &Holder, block: u64) -> Vec<(String, i32)> {
    let (pid, target) = (holder.pid, holder.target());
    let pinned = format!("memory{block}");
    vec![
        ("list".into(), 0),
        (format!("stat {target}"), 0),
        (format!("where --pid {pid}"), 0),
        (format!("watch {target} --interval 0.01 --count 2"), 0),
        (format!("move {target} --len 4K"), 0),
        (format!("why {pinned}"), 0),
        (format!("evacuate {pinned} --dry-run"), 0),
        ("doctor".into(), 0),
        (format!("trace {target} --seconds 0.05"), 0),
        (format!("latency {target} --seconds 0.05"), 0),
        ("hold --size 4K --seconds 0".into(), 0),
    ]
}

fn holder_and_block() -> (Holder, u64) {
    let holder = Holder::new("--size 4M");
    let map = MemoryMap::read().unwrap();
    let pages = holder.file().pages(0..SIZE).unwrap();
    let block = *map.count(&pages).keys().next().unwrap();
    (holder, block)
}

/// Whether something else stays in that block is not what this is about.
fn fits(arguments: &str, code: Option<i32>, expected: i32) -> bool {
    let command = arguments.trim_start_matches("--json ");
    let stays = command.starts_with("why") || command.starts_with("evacuate");
    code == Some(expected) || stays && code == Some(3)
}

fn a_closed_pipe_is_no_panic() {
    needs_the_module();
    let (holder, block) = holder_and_block();
    for (arguments, expected) in all(&holder, block) {
        for arguments in [arguments.clone(), format!("--json {arguments}")] {
            let output = run_into_closed_pipe(&arguments);
            let errors = String::from_utf8_lossy(&output.stderr);
            let code = output.status.code();
            assert!(
                fits(&arguments, code, expected),
                "{arguments}: {code:?} {errors}"
            );
            assert!(
                !errors.contains("panic") && !errors.contains("pipe"),
                "{errors}"
            );
        }
    }
}

/// What needs root says so; what does not, works.
fn an_ordinary_user_is_told() {
    needs_the_module();
    let (holder, block) = holder_and_block();
    for (arguments, _) in all(&holder, block) {
        let output = run_as_nobody(&arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout);
        let (code, said) = match arguments.split(' ').next().unwrap() {
            "list" => (0, String::from("PID")),
            "doctor" => (1, "not for this user".into()),
            "hold" => (1, "Permission denied".into()),
            "where" => (1, "or you are not root".into()),
            "trace" | "latency" => (1, "root".into()),
            "why" | "evacuate" => (1, "root".into()),
            _ => (1, "are you root".into()),
        };
        let all = format!("{text}{errors}");
        assert_eq!(output.status.code(), Some(code), "{arguments}: {all}");
        assert!(all.contains(&said), "{arguments}: {all}");
    }
}

fn without_the_module() {
    if is_loaded() {
        skip("privmemfd.ko is loaded");
    }
    let text = ends("doctor", 1);
    assert!(text.contains("MISSING  privmemfd is loaded"), "{text}");
    assert!(text.contains("next: insmod privmemfd.ko"), "{text}");
    let report = tells("doctor", 1);
    assert_eq!(report["ready"], false);
    assert_eq!(ends("list", 0).lines().count(), 1);
    for command in ["where", "watch", "stat --all", "move --all"] {
        complains(command, 1, "nobody has a privmemfd open");
    }
    for command in ["trace", "latency"] {
        complains(command, 1, "no trace events of privmemfd: insmod");
    }
    complains("hold --size 4K", 1, "open /dev/privmemfd");
    // These are about memory, whoever has it.
    assert!(ends("why memory0", 3).contains("STAYS"));
    let last = *MemoryMap::read()
        .unwrap()
        .blocks
        .keys()
        .next_back()
        .unwrap();
    let output = tool()
        .args(["evacuate", &format!("memory{last}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn mistakes_are_explained() {
    for (arguments, message) in [
        ("nosuch", "unrecognized subcommand"),
        ("list --pid x", "invalid value"),
        ("where --svg", "a value is required"),
        ("watch --interval x", "invalid value"),
        ("trace --count -1", "-1"),
        ("latency --seconds x", "invalid value"),
        ("doctor now", "unexpected argument"),
        ("", "Usage"),
    ] {
        complains(arguments, 2, message);
    }
    complains("trace --seconds 0", 1, "--seconds takes");
}

fn doctor_is_content() {
    needs_the_module();
    let report = tells("doctor", 0);
    assert_eq!(report["ready"], true, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let has = |what: &str| {
        checks
            .iter()
            .any(|c| c["what"] == what && c["health"] == "ok")
    };
    assert!(has("privmemfd is loaded") && has("KVM takes its files in SW_PROTECTED VMs"));
    let pinned = Holder::new("--size 4M --pinned");
    let text = ends("doctor", 0);
    assert!(text.contains("pinned private memory: 4.0 MiB"), "{text}");
    drop(pinned);
}

/// The tool at work on trace events, begun.
struct Tracing {
    task: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

fn tracing(arguments: &str) -> Tracing {
    let mut task = tool()
        .args(arguments.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(task.stderr.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("Ctrl-C ends it"), "{line}");
    let lines = BufReader::new(task.stdout.take().unwrap()).lines();
    Tracing { task, lines }
}

impl Tracing {
    fn moves(mut self) -> Vec<Value> {
        let lines = self
            .lines
            .by_ref()
            .map(|l| serde_json::from_str(&l.unwrap()).unwrap());
        let all = lines.collect();
        assert!(self.task.wait().unwrap().success());
        all
    }
}

fn mine(file: &PrivMemFd) -> String {
    use std::os::fd::AsRawFd;
    format!("--pid {} --fd {}", std::process::id(), file.as_raw_fd())
}

fn no_instance_is_left() {
    let left = fs::read_dir("/sys/kernel/tracing/instances")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("privmemctl"))
        .count();
    assert_eq!(left, 0, "tracing instances");
}

/// Every move with its frames, who asked for it, and what came of it.
fn trace_tells_every_move() {
    needs_the_module();
    let file = movable(SIZE);
    file.allocate(0..SIZE).unwrap();
    let before = file.pages(0..SIZE).unwrap();
    let trace = tracing(&format!("--json trace {} --count 256", mine(&file)));
    file.move_range(0..MIB, None).unwrap();
    let after = file.pages(0..SIZE).unwrap();
    let moves = trace.moves();
    assert_eq!(moves.len(), 256);
    for m in &moves {
        let index = m["index"].as_u64().unwrap() as usize;
        assert_eq!(
            (m["from"].as_u64(), m["to"].as_u64()),
            (before[index], after[index])
        );
        assert_eq!(
            (&m["cause"], &m["backend"]),
            (&"request".into(), &"software".into())
        );
        assert_eq!((&m["result"], &m["refused"]), (&0.into(), &"none".into()));
        assert!(m["ns"].as_u64().unwrap() > 0 && m["time"].as_f64().unwrap() > 0.0);
        assert_eq!(m["owner"]["pid"], std::process::id());
    }
    no_instance_is_left();
}

fn trace_tells_what_mm_wanted() {
    needs_the_module();
    let file = in_movable_zone(32 * MIB);
    file.allocate(0..32 * MIB).unwrap();
    // Every other page, so that there are holes to be filled.
    for page in (0..32 * MIB / PAGE).step_by(2) {
        file.punch_hole(page * PAGE..(page + 1) * PAGE).unwrap();
    }
    let trace = tracing(&format!("--json trace {} --count 1", mine(&file)));
    let before = file.stat().unwrap().relocated;
    for _ in 0..20 {
        compact();
        if file.stat().unwrap().relocated > before {
            break;
        }
    }
    if file.stat().unwrap().relocated == before {
        file.move_range(0..MIB, None).unwrap();
        trace.moves();
        skip("compaction had nothing to do");
    }
    assert_eq!(trace.moves()[0]["cause"], "compaction");
}

fn trace_tells_why_not() {
    affects_machine(Effect::Poison);
    needs_the_module();
    let file = movable(SIZE);
    let mut guest = Guest::new(&file, 1);
    guest.fill();
    let before = file.pages(0..SIZE).unwrap();
    let trace = tracing(&format!("trace {} --count 1", mine(&file)));
    {
        let _failing = FailingCopies::next(1);
        file.move_pages(0..PAGE, None).unwrap();
    }
    let Tracing {
        mut task,
        mut lines,
    } = trace;
    let line = lines.next().unwrap().unwrap();
    assert!(
        line.contains("refused: poison") && line.contains("page 0"),
        "{line}"
    );
    task.wait().unwrap();
    selftests::hostmem::heal(&file, &mut guest, &before, 1);
}

fn latency_counts_every_move() {
    needs_the_module();
    let file = movable(SIZE);
    file.allocate(0..SIZE).unwrap();
    let latency = tracing(&format!("--json latency {} --count 1024", mine(&file)));
    file.move_range(0..SIZE, None).unwrap();
    let Tracing { mut task, lines } = latency;
    let text: Vec<String> = lines.map(|l| l.unwrap()).collect();
    assert!(task.wait().unwrap().success());
    let h: Value = serde_json::from_str(&text.join("\n")).unwrap();
    assert_eq!((&h["moves"], &h["refused"]), (&1024.into(), &0.into()));
    let buckets = h["buckets"].as_object().unwrap().values();
    assert_eq!(buckets.map(|n| n.as_u64().unwrap()).sum::<u64>(), 1024);
    let at = |key: &str| h[key].as_u64().unwrap();
    assert!(0 < at("min_ns") && at("min_ns") <= at("median_ns"));
    assert!(at("median_ns") <= at("p99_ns") && at("p99_ns") <= at("max_ns"));
}

fn watch_measures_its_intervals() {
    needs_the_module();
    let holder = Holder::new("--size 4M");
    let output = tool()
        .args([
            "--json",
            "watch",
            "--interval",
            "0.05",
            "--count",
            "3",
            "--pid",
        ])
        .arg(holder.pid.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert!(line["interval"].as_f64().unwrap() >= 0.05, "{line}");
        assert_eq!(line["pages"], SIZE / PAGE);
    }
}

fn man_pages_and_completions_have_every_subcommand() {
    let dir = std::env::temp_dir().join(format!("generated-{}", std::process::id()));
    ends(&format!("generate {}", dir.display()), 0);
    let read =
        |path: &str| fs::read_to_string(dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let texts = [
        read("man/man1/privmemctl.1"),
        read("completions/bash/privmemctl.bash"),
        read("completions/zsh/_privmemctl"),
        read("completions/fish/privmemctl.fish"),
    ];
    for command in [
        "list", "stat", "where", "watch", "move", "why", "evacuate", "doctor", "trace", "latency",
        "hold",
    ] {
        assert!(texts.iter().all(|text| text.contains(command)), "{command}");
        read(&format!("man/man1/privmemctl-{command}.1"));
    }
    assert!(read("man/man1/privmemctl-evacuate.1").contains("EXIT STATUS"));
    assert!(!dir.join("man/man1/privmemctl-set-state.1").exists());
    fs::remove_dir_all(dir).unwrap();
    complains("generate /proc/nowhere", 1, "cannot make /proc/nowhere");
}

fn main() -> ExitCode {
    if let Some((name, arguments)) = role() {
        assert_eq!(name, NOBODY_ROLE);
        become_nobody(&arguments);
    }
    ktap::main(cases![
        "without the module every subcommand says what is missing" => without_the_module,
        "a closed pipe ends every subcommand without a panic" => a_closed_pipe_is_no_panic,
        "an ordinary user is told what needs root" => an_ordinary_user_is_told,
        "wrong arguments are explained" => mistakes_are_explained,
        "doctor is content, and knows pinned memory" => doctor_is_content,
        "trace tells every move" => trace_tells_every_move,
        "trace tells what mm wanted" => trace_tells_what_mm_wanted,
        "trace tells why a page has not moved" => trace_tells_why_not,
        "latency counts every move" => latency_counts_every_move,
        "watch measures its intervals" => watch_measures_its_intervals,
        "man pages and completions have every subcommand" => man_pages_and_completions_have_every_subcommand,
    ])
}
