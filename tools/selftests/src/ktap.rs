// SPDX-License-Identifier: GPL-2.0
//! A small KTAP runner: one line per case, panics are failures, [`skip`] says
//! why a case cannot run here.

use std::io::Write;
use std::panic::{catch_unwind, panic_any, set_hook, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::starve::Starved;
use crate::stuck;

/// Longest time that a case may take.
const LIMIT: Duration = Duration::from_secs(180);

/// One promise and the code that fails when it is broken.
pub struct Case {
    /// The promise, in words.
    pub name: &'static str,
    /// Panics when it is broken.
    pub run: fn(),
}

/// Makes a list of [`Case`]s: `cases!["what holds" => function, ...]`.
#[macro_export]
macro_rules! cases {
    ($($name:literal => $run:path),* $(,)?) => {
        &[$($crate::ktap::Case { name: $name, run: $run }),*]
    };
}

struct Skip(String);

/// Ends the case as one that cannot run here.
pub fn skip(reason: impl Into<String>) -> ! {
    panic_any(Skip(reason.into()))
}

/// Prints a diagnostic line.
pub fn note(text: impl AsRef<str>) {
    print!("{}", commented(text.as_ref()));
    let _ = std::io::stdout().flush();
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

fn commented(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

fn result_line(number: usize, name: &str, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => format!("ok {number} {name}\n"),
        Outcome::Skipped(why) => {
            let (first, rest) = why.split_once('\n').unwrap_or((why, ""));
            format!("{}ok {number} {name} # SKIP {first}\n", commented(rest))
        }
        Outcome::Failed(why) => format!("{}not ok {number} {name}\n", commented(why)),
    }
}

fn matches(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))
}

fn run_case(case: &Case, messages: &Mutex<Vec<String>>) -> Outcome {
    messages.lock().unwrap().clear();
    let starved = Starved::as_asked_for();
    let end = catch_unwind(AssertUnwindSafe(case.run));
    drop(starved);
    let said = std::mem::take(&mut *messages.lock().unwrap()).join("\n");
    match end {
        Ok(()) if said.is_empty() => Outcome::Passed,
        // A thread of the case panicked.
        Ok(()) => Outcome::Failed(said),
        Err(payload) => match payload.downcast::<Skip>() {
            Ok(skip) => Outcome::Skipped(skip.0),
            Err(_) => Outcome::Failed(said),
        },
    }
}

/// Runs the cases whose name contains one of the command line's words (all, if
/// there is none), or lists them with `--list`. Fails if one of them failed or none has a
/// word; status 4 says that none could run.
pub fn main(cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        for case in cases {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Case> = cases
        .iter()
        .filter(|c| matches(c.name, &arguments))
        .collect();
    println!("KTAP version 1\n1..{}", chosen.len());
    if chosen.is_empty() {
        println!("Bail out! no case has one of {arguments:?} in its name");
        return ExitCode::FAILURE;
    }

    let messages = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&messages);
    set_hook(Box::new(move |info| {
        if !info.payload().is::<Skip>() {
            heard.lock().unwrap().push(info.to_string());
        }
    }));
    let running = Arc::new(AtomicU64::new(0));
    let mut outcomes = Vec::new();
    for (i, case) in chosen.iter().enumerate() {
        let number = i + 1;
        watch(number, case.name, &running);
        let start = Instant::now();
        let outcome = run_case(case, &messages);
        running.store(0, Ordering::SeqCst);
        let took = start.elapsed();
        if took > Duration::from_secs(2) {
            note(format!("took {:.1} s", took.as_secs_f64()));
        }
        print!("{}", result_line(number, case.name, &outcome));
        let _ = std::io::stdout().flush();
        outcomes.push(outcome);
    }
    ExitCode::from(status(&outcomes))
}

/// Exit status of a program whose cases ended like that, by kselftest's rules.
fn status(outcomes: &[Outcome]) -> u8 {
    const SKIP: u8 = 4;
    if outcomes.iter().any(|o| matches!(o, Outcome::Failed(_))) {
        1
    } else if outcomes.iter().all(|o| matches!(o, Outcome::Skipped(_))) {
        SKIP
    } else {
        0
    }
}

/// Ends the program when the case is still running after [`LIMIT`]: a hang in
/// the kernel cannot be ended in another way.
fn watch(number: usize, name: &'static str, running: &Arc<AtomicU64>) {
    running.store(number as u64, Ordering::SeqCst);
    let running = Arc::clone(running);
    thread::spawn(move || {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(250));
            if running.load(Ordering::SeqCst) != number as u64 {
                return;
            }
        }
        let late = format!("still running after {LIMIT:?}\n{}", stuck::describe());
        let late = Outcome::Failed(late);
        print!("{}", result_line(number, name, &late));
        println!("Bail out! {name} hangs");
        std::process::exit(1);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_follow_ktap() {
        assert_eq!(result_line(1, "a b", &Outcome::Passed), "ok 1 a b\n");
        assert_eq!(
            result_line(2, "c", &Outcome::Skipped("no KVM".into())),
            "ok 2 c # SKIP no KVM\n"
        );
        assert_eq!(
            result_line(2, "c", &Outcome::Skipped("no\nKVM".into())),
            "# KVM\nok 2 c # SKIP no\n"
        );
        assert_eq!(
            result_line(3, "d", &Outcome::Failed("one\ntwo".into())),
            "# one\n# two\nnot ok 3 d\n"
        );
    }

    #[test]
    fn filters_choose_by_part_of_the_name() {
        assert!(matches("punch hole frees", &[]));
        assert!(matches("punch hole frees", &["hole".into()]));
        assert!(!matches("punch hole frees", &["mmap".into()]));
    }

    #[test]
    fn status_follows_kselftest() {
        let skipped = Outcome::Skipped("no KVM".into());
        let failed = Outcome::Failed("one".into());
        assert_eq!(status(&[Outcome::Passed, skipped.clone()]), 0);
        assert_eq!(status(&[skipped.clone(), skipped.clone()]), 4);
        assert_eq!(status(&[skipped, failed]), 1);
    }

    #[test]
    fn panics_fail_and_skips_skip() {
        let case = |run| Case { name: "x", run };
        let messages = Mutex::new(Vec::new());
        assert_eq!(run_case(&case(|| ()), &messages), Outcome::Passed);
        let skipped = run_case(&case(|| skip("why")), &messages);
        assert_eq!(skipped, Outcome::Skipped("why".into()));
        let failed = run_case(&case(|| panic!("broken")), &messages);
        assert!(matches!(failed, Outcome::Failed(_)));
    }
}
