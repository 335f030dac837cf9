// SPDX-License-Identifier: GPL-2.0
//! What the tasks of the machine are at, for the log of a case that hangs: by then
//! nobody can ask any more.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Between the two looks: who runs uses CPU time meanwhile, who waits does not.
const BETWEEN: Duration = Duration::from_secs(1);

/// The parent of the kernel's threads.
const KTHREADD: u32 = 2;

struct Task {
    id: String,
    name: String,
    state: char,
    parent: u32,
    /// The processor that it runs on, or is to run on.
    cpu: u32,
    /// Of user and kernel mode, in clock ticks.
    ticks: (u64, u64),
    stack: String,
}

impl Task {
    fn read(path: &Path) -> Option<Self> {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        // The name is in parentheses and may hold any character.
        let (head, rest) = stat.rsplit_once(") ")?;
        let (id, name) = head.split_once(" (")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(Self {
            id: id.into(),
            name: name.into(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            cpu: fields.get(36)?.parse().ok()?,
            ticks: (fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?),
            stack: fs::read_to_string(path.join("stack")).unwrap_or_default(),
        })
    }

    /// Not so are threads of the kernel that wait for work.
    fn is_of_interest(&self) -> bool {
        self.parent != KTHREADD || matches!(self.state, 'D' | 'R')
    }
}

fn tasks() -> Vec<Task> {
    let list = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    list(Path::new("/proc"))
        .flat_map(|process| list(&process.join("task")))
        .filter_map(|task| Task::read(&task))
        .collect()
}

/// What wakes a CPU: its timer and the others' calls. One that gets none of them has been
/// forgotten, and who is to run there waits for ever.
fn interrupts() -> String {
    let counts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let wakes = |line: &&str| {
        let name = line.trim_start();
        ["LOC:", "RES:", "CAL:", "TLB:"]
            .iter()
            .any(|kind| name.starts_with(kind))
    };
    counts
        .lines()
        .filter(wakes)
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// Two looks at every thread that is not the kernel's, and at those of the kernel that run
/// or cannot be interrupted.
pub fn describe() -> String {
    let mut text = String::new();
    for look in 1..=2 {
        for task in tasks().iter().filter(|task| task.is_of_interest()) {
            text += &format!(
                "look {look}: {} {} state {}, CPU {}, ticks {} user, {} kernel\n",
                task.id, task.name, task.state, task.cpu, task.ticks.0, task.ticks.1
            );
            text.extend(task.stack.lines().map(|line| format!("    {line}\n")));
        }
        text += &format!("look {look}: interrupts of each CPU\n{}", interrupts());
        if look == 1 {
            thread::sleep(BETWEEN);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_threads_are_among_the_tasks() {
        let id = std::process::id().to_string();
        let task = tasks().into_iter().find(|task| task.id == id).unwrap();
        assert!(task.is_of_interest() && !task.name.is_empty() && "RSD".contains(task.state));
        assert!(task.cpu < 4096, "CPU {}", task.cpu);
    }

    #[test]
    fn what_wakes_a_cpu_is_told() {
        let text = describe();
        let timers = text
            .lines()
            .filter(|line| line.trim_start().starts_with("LOC:"));
        assert_eq!(timers.count(), 2, "{text}");
    }
}
